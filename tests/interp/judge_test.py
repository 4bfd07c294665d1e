"""Judging with a scripted server: batches, second chances, and the resulting matrix."""

import re

import numpy as np
import pytest

from saejax.errors import InputError
from saejax.interp.chat import Endpoint
from saejax.interp.client import Client
from saejax.interp.example import Example
from saejax.interp.judge import Task, judge, requests
from saejax.interp.questions import Question, detection, fuzzing
from saejax.interp.score import score


def make(number, activating):
    tokens = (f"window{number}", " and", " cat" if activating else " dog")
    values = np.asarray([0, 0, 2 if activating else 0], np.float32)
    return Example(tokens, values, number % 3 if activating else -1)


EXAMPLES = [make(n, n % 2 == 0) for n in range(12)]


@pytest.fixture
def client(stub, tmp_path):
    return Client(Endpoint(stub.url, "m", max_concurrent=2, max_tries=1), tmp_path)


def windows(body):
    """The windows of a request, without their numbers."""
    return re.findall(r"^Window \d+: (.*)$", body["messages"][-1]["content"], re.MULTILINE)


def truthful(body):
    return [int("cat" in window) for window in windows(body)]


@pytest.mark.parametrize("kind", ["detection", "fuzzing"])
def test_a_perfect_judge(client, stub, kind):
    right = "cat" if kind == "detection" else "<< cat>>"
    stub.answer = lambda body, _: stub.completion(
        str({"answers": [int(right in window) for window in windows(body)]})
    )
    questions = {"detection": detection, "fuzzing": fuzzing}[kind](EXAMPLES, seed=0)
    (verdicts,) = judge(client, [Task("cats", questions)], kind)
    found = score(questions, verdicts)
    assert (found.balanced_accuracy, found.unparsable) == (1.0, 0)
    assert found.by_quantile == {-1: (6, 6), 0: (2, 2), 1: (2, 2), 2: (2, 2)}
    # 12 windows are two batches of five and one of two.
    assert sorted(len(windows(body)) for body in stub.bodies) == [2, 5, 5]
    asked = stub.bodies[0]["messages"]
    assert asked[-1]["content"].startswith("Description: cats\n\nWindow 1: ")
    assert ("<<" in asked[-1]["content"]) == (kind == "fuzzing")
    assert [turn["role"] for turn in asked] == ["system"] + ["user", "assistant"] * 3 + ["user"]
    schemas = {
        len(windows(body)): body["response_format"]["json_schema"]["schema"]["properties"]
        for body in stub.bodies
    }
    for count, properties in schemas.items():
        assert properties["answers"]["minItems"] == properties["answers"]["maxItems"] == count


def test_a_judge_with_a_matrix_by_hand(client, stub):
    # Yes to windows 0 to 6: of the even ones 0 2 4 6 are hits, 8 10 misses; of the odd ones
    # 1 3 5 are false alarms.
    def answer(body, _):
        numbers = [int(re.search(r"window(\d+)", window)[1]) for window in windows(body)]
        return stub.completion(str([int(number <= 6) for number in numbers]))

    stub.answer = answer
    questions = detection(EXAMPLES, seed=5)
    found = score(questions, judge(client, [Task("x", questions)], "detection")[0])
    assert found[:5] == (4, 3, 3, 2, 0)


@pytest.mark.parametrize(
    "bad",
    [
        lambda s: s.completion('{"answers": [1, 0', finish="length"),
        lambda s: s.completion("[1, 0, 1, 0, 1, 1]"),
        lambda s: s.completion("It depends."),
        lambda s: s.completion(""),
        lambda s: s.completion(None, refusal="I would rather not"),
        lambda s: s.failure(500, "oops"),
    ],
)
def test_an_unreadable_batch_is_asked_one_by_one(client, stub, bad):
    def answer(body, _):
        if len(windows(body)) == 5 and "window0 " in body["messages"][-1]["content"]:
            return bad(stub)
        return stub.completion(str(truthful(body)))

    stub.answer = answer
    tasks = [Task("cats", [Question(e) for e in EXAMPLES])]
    found = score(tasks[0].questions, judge(client, tasks, "detection")[0])
    assert (found.balanced_accuracy, found.unparsable) == (1.0, 0)
    assert sorted(len(windows(body)) for body in stub.bodies) == [1] * 5 + [2, 5, 5]


def test_what_stays_unreadable_is_counted(client, stub):
    # All of the first batch, and windows 3 and 10 alone, and all of the short batch.
    def answer(body, _):
        text = body["messages"][-1]["content"]
        first, alone = "window0 " in text, len(windows(body)) == 1
        if (first and not alone) or "window3 " in text or "window10 " in text:
            return stub.completion("Hm.")
        return stub.completion(str(truthful(body)))

    stub.answer = answer
    tasks = [
        Task("cats", [Question(e) for e in EXAMPLES]),
        Task("dogs", [Question(e) for e in EXAMPLES[4:9]]),
    ]
    verdicts = judge(client, tasks, "detection")
    assert [len(v) for v in verdicts] == [12, 5]
    assert [n for n, verdict in enumerate(verdicts[0]) if verdict is None] == [3, 10]
    assert None not in verdicts[1]
    found = score(tasks[0].questions, verdicts[0])
    assert (found.unparsable, found.balanced_accuracy) == (2, 1.0)
    calls = len(stub.bodies)
    assert calls == 3 + 1 + 7
    assert judge(client, tasks, "detection") == verdicts
    assert len(stub.bodies) == calls, "a second run asks nothing again"


def test_requests_are_what_judge_asks_first(client, stub):
    tasks = [Task("cats", [Question(e) for e in EXAMPLES])]
    made = requests(tasks, "detection", batch=4)
    assert len(made) == 3
    assert client.estimate(made).num_cached == 0
    stub.answer = lambda body, _: stub.completion(str(truthful(body)))
    judge(client, tasks, "detection", batch=4)
    assert client.estimate(made).num_cached == 3
    with pytest.raises(InputError, match="batch=0 must be at least 1"):
        requests(tasks, "detection", batch=0)
