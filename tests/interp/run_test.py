"""A planted latent is found and scores 1, one without a meaning scores about 0.5."""

import dataclasses
import json
import re
from collections import Counter

import numpy as np
import pytest
import safetensors.numpy

from saejax.errors import InputError
from saejax.interp import results
from saejax.interp.cache import open_cache
from saejax.interp.chat import Endpoint
from saejax.interp.client import Client
from saejax.interp.delphi_scores import read_delphi
from saejax.interp.run import ask, baseline, plan
from saejax.interp.score import score
from saejax.interp.sharing import Sharing
from saejax.interp.subjects import Settings, find_subjects
from saejax.interp.summary import score_of
from saejax.sae.sae import Sae

U, L = 60, 64
SETTINGS = Settings(latents=4, num_explain=10, num_activating=20, num_non_activating=20)


def decode(ids):
    return [f" w{i}" for i in ids]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Latents of both seeds: 0 fires on w7, 1 at random, 2 on three tokens in all, 3 never."""
    root = tmp_path_factory.mktemp("caches")
    rng = np.random.default_rng(0)
    tokens_UL = rng.integers(0, 60, (U, L))
    fires_ULN = np.zeros((U, L, 4), bool)
    fires_ULN[..., 0] = tokens_UL == 7
    fires_ULN[..., 1] = rng.random((U, L)) < 1 / 60
    fires_ULN[0, :3, 2] = True
    location_F3 = np.ascontiguousarray(np.argwhere(fires_ULN), np.uint16)
    for seed in (1, 2):
        folder = root / f"h.seed{seed}"
        folder.mkdir()
        file = {
            "locations": location_F3,
            "activations": rng.uniform(1, 2, len(location_F3)).astype(np.float16),
            "tokens": tokens_UL,
        }
        safetensors.numpy.save_file(file, folder / "0_3.safetensors")
    return {seed: root / f"h.seed{seed}" for seed in (1, 2)}


@pytest.fixture(scope="module")
def sharing():
    levels_N = np.array([1, 0, 0, 0])
    partner_N, cosine_N = np.array([1, 0, 2, 3], np.int32), np.array([0.9, 0.1, 0, 0], np.float32)
    return Sharing("exact", (levels_N, levels_N[[1, 0, 2, 3]]), partner_N, cosine_N, levels_N > 0)


@pytest.fixture(scope="module")
def subjects(folders, sharing):
    return find_subjects(folders, {}, sharing, decode, SETTINGS)


def marked(text):
    return re.findall(r"<<( w\d+)+>>", text)


def honest(body, _):
    """A model that explains by the word that is marked most, and judges by it."""
    text = body["messages"][-1]["content"]
    if not text.startswith("Description"):
        (word, _), *_ = Counter(marked(text)).most_common(1)
        return f"[EXPLANATION]: the word{word} "
    word = re.search(r"word( w\d+)", text)[1]
    windows = re.findall(r"^Window \d+: (.*)$", text, re.MULTILINE)
    if "<<" in text:
        return str([int(word in marked(window)) for window in windows])
    return str([int(word in re.findall(r" w\d+", window)) for window in windows])


@pytest.fixture
def clients(stub, tmp_path):
    stub.answer = lambda body, number: stub.completion(honest(body, number))
    endpoint = Endpoint(stub.url, "m", max_concurrent=4, prompt_price=1.0, completion_price=2.0)
    return Client(endpoint, tmp_path / "answers"), Client(endpoint, tmp_path / "answers")


def values(explained, subjects, kind):
    found = {}
    for each, subject in zip(explained, subjects.found, strict=True):
        questions = subject.questions[kind]
        key = subject.choice.seed, subject.choice.latent
        found[key] = score(questions, each.verdicts[kind]).balanced_accuracy
    return found


def test_pairs_are_drawn_with_their_facts(subjects):
    keys = [(s.choice.seed, s.choice.latent, s.choice.partner) for s in subjects.found]
    assert keys == [(1, 0, 1), (2, 1, 0), (1, 1, 0), (2, 0, 1)]
    assert [s.choice.level for s in subjects.found] == [1, 1, 0, 0]
    assert [s.choice.shared for s in subjects.found] == [True, True, False, False]
    # Latents 2 and 3 fire too seldom, and are not even chosen.
    assert (subjects.too_few, subjects.num_rare) == ([], 2)
    for subject in subjects.found:
        # Nothing that is explained is scored.
        seen = {example.tokens for example in subject.explain}
        assert len(seen) == 10
        for kind in ("detection", "fuzzing"):
            assert len(subject.questions[kind]) == 40
            assert not seen & {question.example.tokens for question in subject.questions[kind]}


@pytest.mark.parametrize("kind", ["detection", "fuzzing"])
def test_the_planted_latent(subjects, clients, kind):
    outcome = ask(*clients, subjects.found, SETTINGS)
    assert outcome.missing == {}
    for explained in (outcome.latents, baseline(subjects.found)):
        found = values(explained, subjects, kind)
        assert found[1, 0] == found[2, 0] == 1
        assert 0.3 < found[1, 1] < 0.7
        assert 0.3 < found[2, 1] < 0.7
    assert outcome.latents[0].explanation == "the word w7"


def test_a_plan_is_what_is_sent_and_nothing_is_sent_twice(subjects, clients, stub):
    before = plan(*clients, subjects.found, SETTINGS)
    assert stub.bodies == []
    ask(*clients, subjects.found, SETTINGS)
    sent = len(stub.bodies)
    assert sent == sum(stage.num_requests for stage in before.values()) == 4 + 2 * 4 * 8
    assert all(stage.num_cached == 0 and stage.max_cost > 0 for stage in before.values())
    after = plan(*clients, subjects.found, SETTINGS)
    ask(*clients, subjects.found, SETTINGS)
    assert len(stub.bodies) == sent
    assert all(stage.num_cached == stage.num_requests for stage in after.values())
    assert sum(stage.max_cost for stage in after.values()) == 0


def test_what_cannot_be_read_is_asked_for_in_json(subjects, clients, stub):
    def answer(body, number):
        last = body["messages"][-1]["content"]
        if last.startswith("Description"):
            return stub.completion(honest(body, number))
        if "JSON" not in last:
            return stub.completion("and so on\nand so on", finish="length")
        assert body["response_format"]["json_schema"]["schema"]["required"] == ["explanation"]
        return stub.completion('{"explanation": "the word\\n w7"}')

    stub.answer = answer
    outcome = ask(*clients, subjects.found, SETTINGS)
    assert [each.explanation for each in outcome.latents] == ["the word w7"] * 4
    assert [each.problem for each in outcome.latents] == [""] * 4
    sent = len(stub.bodies)
    planned = plan(*clients, subjects.found, SETTINGS)
    assert all(stage.num_cached == stage.num_requests for stage in planned.values())
    assert sum(stage.num_requests for stage in planned.values()) == sent == len(stub.bodies)


def test_refusals_and_failures_are_told_apart(subjects, clients, stub):
    numbers = iter(range(100))

    def answer(body, _):
        if body["messages"][-1]["content"].startswith("Description"):
            return stub.failure(401, "no")
        if "JSON" in body["messages"][-1]["content"]:
            return stub.completion("hm\nhm")
        return [stub.completion(None, refusal="no"), stub.completion("hm\nhm")][next(numbers) % 2]

    stub.answer = answer
    outcome = ask(*clients, subjects.found, SETTINGS)
    assert sorted(each.problem for each in outcome.latents) == ["refused"] * 2 + ["unparsable"] * 2
    assert outcome.missing == {}, "nothing to judge"
    stub.answer = lambda body, n: answer(body, n) if n >= 8 else stub.completion(honest(body, n))
    again = find_again(subjects)
    outcome = ask(*clients, again, SETTINGS)
    assert set(outcome.missing) == {"detection", "fuzzing"}
    assert "401" in outcome.missing["detection"]
    rows = results.rows(again, outcome.latents, baseline(again))
    assert [row["llm"]["explanation"] is not None for row in rows] == [True] * 2
    assert score_of(rows[0], "llm", "detection") is None
    assert score_of(rows[0], "token_set", "mean") == 1


def test_cosines_become_rows(subjects):
    made = baseline(subjects.found)
    windows = [q.example for q in subjects.found[0].questions["detection"]]
    made[0] = made[0]._replace(cosines=[float(example.activating) for example in windows])
    rows = results.rows(subjects.found, [], made)
    found = json.loads(json.dumps(rows))[0]["token_set"]["embedding"]
    assert (found["auroc"], found["num_activating"], found["num_non_activating"]) == (1, 20, 20)
    assert found["interval"][1] == 1
    assert "embedding" not in rows[1]["token_set"]
    assert score_of(rows[0], "token_set", "embedding") == 1


def find_again(subjects):
    """The first pair with other windows for the explainer."""
    return [s._replace(explain=s.explain[:5]) for s in subjects.found[:2]]


def test_an_endpoint_that_is_down(subjects, tmp_path):
    endpoint = Endpoint("http://127.0.0.1:9/v1", "m", max_tries=1)
    clients = (Client(endpoint, tmp_path), Client(endpoint, tmp_path))
    outcome = ask(*clients, subjects.found, SETTINGS)
    assert outcome.latents == []
    assert "cannot be reached" in outcome.missing["explain"]


def test_files_are_those_of_delphi(subjects, clients, tmp_path):
    llm, token_set = ask(*clients, subjects.found, SETTINGS).latents, baseline(subjects.found)
    folder = tmp_path / "interp"
    results.write_files(folder, "h", subjects.found, llm, token_set)
    names = {f"h.seed{s}_latent{n}.txt" for s in (1, 2) for n in (0, 1)}
    scorers = {path.name: path for path in (folder / "scores").iterdir()}
    assert set(scorers) == {"detection", "fuzz", "token_set_detection", "token_set_fuzz"}
    for path in (*scorers.values(), folder / "explanations"):
        assert {file.name for file in path.iterdir()} == names
    said = json.loads((folder / "explanations" / "h.seed1_latent0.txt").read_text())
    assert said == "the word w7"
    rows = results.rows(subjects.found, llm, token_set)
    for row in rows:
        judged = read_delphi(scorers["fuzz"] / f"h.seed{row['seed']}_latent{row['latent']}.txt")
        of_file = score(*judged).balanced_accuracy
        assert of_file == row["llm"]["fuzzing"]["balanced_accuracy"]
    # Of a result without a model, nothing of the other stays.
    results.write_files(folder, "h", subjects.found[:1], [], token_set[:1])
    left = [path.relative_to(folder).as_posix() for path in folder.rglob("*.txt")]
    assert sorted(left) == [
        "scores/token_set_detection/h.seed1_latent0.txt",
        "scores/token_set_fuzz/h.seed1_latent0.txt",
    ]


def test_contrastive_windows_are_those_of_similar_latents(folders, sharing):
    """With four latents the ten nearest are the three others."""
    rows_ND = np.eye(4, 16, dtype=np.float32)
    zeros_N, zeros_D = np.zeros(4, np.float32), np.zeros(16, np.float32)
    sae = Sae(rows_ND.T, zeros_N, rows_ND, zeros_D, k=1)
    settings = dataclasses.replace(SETTINGS, contrastive=True)
    contrasted = find_subjects(folders, {1: sae, 2: sae}, sharing, decode, settings).found
    plain = find_subjects(folders, {}, sharing, decode, SETTINGS).found
    assert [s.choice for s in contrasted] == [s.choice for s in plain]

    def foreign(subject):
        """Non-activating windows in which no other latent fires."""
        cache = open_cache(folders[subject.choice.seed])
        others = [cache.latent(n) for n in range(3) if n != subject.choice.latent]
        fires = {
            tuple(decode(cache.tokens[u, at // 32 * 32 : at // 32 * 32 + 32]))
            for other in others
            for u, at in zip(other.sequences, other.positions, strict=True)
        }
        examples = [question.example for question in subject.questions["detection"]]
        return [x for x in examples if not x.activating and x.tokens not in fires]

    assert [len(foreign(subject)) for subject in contrasted] == [0] * 4
    assert any(foreign(subject) for subject in plain)


def test_room_for_reasoning(stub, tmp_path, subjects):
    stub.answer = lambda body, number: stub.completion(honest(body, number))
    client = Client(Endpoint(stub.url, "m"), tmp_path)
    settings = dataclasses.replace(SETTINGS, reasoning_tokens=1000)
    planned = plan(client, client, subjects.found, settings)
    ask(client, client, subjects.found, settings)
    assert {body["max_tokens"] for body in stub.bodies} == {1500, 1200}
    assert sum(stage.num_requests for stage in planned.values()) == len(stub.bodies)


def test_one_seed_and_too_few_windows(folders):
    found = find_subjects({1: folders[1]}, {}, None, decode, SETTINGS)
    assert [(s.choice.latent, s.choice.level) for s in found.found] == [(0, None), (1, None)]
    # The latent with three firings has them in two windows of 32.
    few = Settings(latents=4, num_explain=1, num_activating=2, num_non_activating=2)
    found = find_subjects({1: folders[1]}, {}, None, decode, few)
    assert [choice.latent for choice, _ in found.too_few] == [2]
    with pytest.raises(InputError, match="no latent of seed 1 fires on 1100 tokens"):
        find_subjects({1: folders[1]}, {}, None, decode, Settings(num_activating=1060))
