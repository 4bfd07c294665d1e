"""The client against a server that fails in every way, and what it keeps."""

import asyncio
import email.utils
import io
import os
import signal
import sys
import time

import pytest

from saejax.errors import InputError
from saejax.interp import client as client_module
from saejax.interp.chat import Endpoint, Message, Request
from saejax.interp.client import Client
from saejax.progress import Progress


def request(text, **fields):
    fields = {"max_tokens": 50} | fields
    return Request((Message("system", "be brief"), Message("user", text)), **fields)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(client_module, "_FIRST_WAIT", 0.01)


@pytest.fixture
def make(stub, tmp_path):
    def made(**fields):
        return Client(
            Endpoint(**({"base_url": stub.url, "model": "m"} | fields)), tmp_path / "kept"
        )

    return made


def ask(client, texts, **fields):
    with Progress("ask", total=len(texts), unit="requests", stream=io.StringIO()) as progress:
        requests = [request(text, **fields) for text in texts]
        return client.ask_all(requests, progress=progress)


def test_answers_in_order_with_tokens_and_cost(make, stub):
    stub.answer = lambda body, _: stub.completion(body["messages"][-1]["content"].upper())
    client = make(prompt_price=2.0, completion_price=10.0, seed=5)
    answers = ask(client, ["a", "b", "c", "a"])
    assert [answer.text for answer in answers] == ["A", "B", "C", "A"]
    assert sorted(stub.prompts()) == ["a", "b", "c"]
    assert stub.authorizations == {f"Bearer {stub.key}"}
    assert stub.bodies[0] | {"messages": 0} == {
        "model": "m", "messages": 0, "max_tokens": 50, "temperature": 0.0, "seed": 5
    }  # fmt: skip
    usage = client.usage
    assert (usage.num_calls, usage.prompt_tokens, usage.completion_tokens) == (3, 21, 9)
    assert usage.cost == pytest.approx((21 * 2 + 9 * 10) / 1e6)


def test_a_resumed_run_repeats_no_call(make, stub):
    replies = [
        stub.completion("one"),
        stub.completion(""),
        stub.completion("cut", finish="length"),
        stub.completion(None, refusal="no"),
    ]
    stub.answer = lambda body, n: replies[n]
    first = ask(make(max_concurrent=1), "abcd")
    assert [answer.problem for answer in first] == ["", "empty", "truncated", "refused"]
    again = make()
    estimate = again.estimate([request(text) for text in "abcde"])
    # 8 characters of the system prompt and one of the user's.
    assert estimate == (5, 4, 3, 50, None)
    second = ask(again, "abcd")
    assert len(stub.bodies) == 4
    assert [a.text for a in second] == [a.text for a in first] == ["one", "", "cut", ""]
    assert all(answer.cached for answer in second)
    assert again.usage.num_cached == 4
    assert again.usage.num_calls == again.usage.prompt_tokens == 0
    assert again.usage.problems == {"empty": 1, "truncated": 1, "refused": 1}


@pytest.mark.parametrize(
    ("endpoint", "asked"),
    [
        ({"model": "n"}, {}),
        ({"temperature": 0.5}, {}),
        ({"temperature": None}, {}),
        ({"seed": 1}, {}),
        ({}, {"max_tokens": 51}),
        ({}, {"schema": {"type": "object"}}),
    ],
)
def test_another_request_is_asked_anew(make, stub, endpoint, asked):
    ask(make(), "a")
    ask(make(**endpoint), "a", **asked)
    assert len(stub.bodies) == 2


def test_a_damaged_file_is_asked_anew(make, stub, tmp_path):
    ask(make(), "a")
    (kept,) = (tmp_path / "kept").rglob("*.json")
    whole = kept.read_bytes()
    for content in (whole[:20], b"[]", b'{"text": 3}', b"\xff", whole.replace(b"7", b'"7"')):
        kept.write_bytes(content)
        ask(make(), "a")
        assert kept.read_bytes() == whole
    assert len(stub.bodies) == 6


@pytest.mark.parametrize(
    "bad",
    [
        lambda s: s.failure(429, "slow down"),
        lambda s: s.failure(500, "oops"),
        lambda s: s.failure(502, "oops"),
        lambda s: s.failure(503, "loading"),
        lambda s: s.failure(529, "overloaded"),
        lambda s: s.failure(408, "late"),
        lambda s: s.reply(500, b"<html>proxy</html>"),
        lambda s: s.reply(200, b'{"choices": [{"message": {"content": "half'),
        lambda s: s.reply(200, b'{"error": {"code": 502, "message": "provider failed"}}'),
        lambda s: s.reply(200, b'{"choices": []}'),
        lambda s: s.reply(200, b"[]"),
        lambda s: s.reply(200, b"\xff\xfe"),
        lambda s: s.completion("lost")._replace(cut=10),
        lambda s: s.completion("late", usage=(1, 1))._replace(seconds=1.2),
    ],
)
def test_what_passes_is_tried_again(make, stub, bad):
    stub.answer = lambda body, n: bad(stub) if n < 2 else stub.completion("fine")
    client = make(timeout_seconds=1.0)
    assert ask(client, "a")[0].text == "fine"
    assert client.usage.num_retries == 2
    assert client.usage.num_calls == 1
    assert len(stub.bodies) == 3


@pytest.mark.parametrize("kind", ["seconds", "milliseconds", "date"])
def test_retry_after_holds_for_all_calls(make, stub, kind):
    def answer(body, n):
        if n:
            return stub.completion("fine")
        value = {
            "seconds": ("Retry-After", "0.7"),
            "milliseconds": ("Retry-After-Ms", "700"),
            # Dates have whole seconds: this one is 0.6 to 1.6 s away.
            "date": ("Retry-After", email.utils.formatdate(time.time() + 1.6, usegmt=True)),
        }[kind]
        return stub.failure(429, "slow down", headers=[value])

    stub.answer = answer
    ask(make(max_concurrent=1), "ab")
    assert stub.times[1] - stub.times[0] > 0.5
    assert stub.prompts() == ["a", "a", "b"]


def test_a_long_retry_after_stops(make, stub):
    stub.answer = lambda *_: stub.failure(429, "daily quota", headers=[("Retry-After", "3600")])
    with pytest.raises(InputError, match=r"asks to wait for 3,600 s.*daily quota"):
        ask(make(), "a")


def test_waits_grow(make, stub, monkeypatch):
    monkeypatch.setattr(client_module, "_FIRST_WAIT", 0.08)
    stub.answer = lambda body, n: stub.failure(500, "oops") if n < 3 else stub.completion("fine")
    ask(make(), "a")
    waits = [b - a for a, b in zip(stub.times, stub.times[1:], strict=False)]
    for wait, least in zip(waits, [0.04, 0.08, 0.16], strict=True):
        assert wait >= least


def test_a_call_that_never_works_is_counted_and_not_kept(make, stub):
    stub.answer = lambda body, n: (
        stub.failure(500, f"bad {stub.key}")
        if "a" in stub.prompts()[n]
        else stub.completion("fine")
    )
    client = make(max_tries=3, max_concurrent=1)
    a, b = ask(client, "ab")
    assert a.problem == "failed: status 500: bad [key]"
    assert b.text == "fine"
    assert client.usage.problems == {"failed": 1}
    assert stub.prompts() == ["a", "a", "a", "b"]
    assert client.estimate([request("a"), request("b")]).num_cached == 1


def test_many_failures_in_a_row_stop(make, stub):
    stub.answer = lambda body, n: stub.completion("fine") if n < 3 else stub.failure(500, "down")
    with pytest.raises(InputError, match=r"8 calls in a row failed.*status 500: down.*are kept"):
        ask(make(max_tries=2, max_concurrent=1), "abcdefghijklmnop")
    assert len(stub.bodies) == 3 + 8 * 2
    stub.answer = lambda *_: stub.completion("fine")
    ask(make(), "abcdefghijklmnop")
    assert len(stub.bodies) == 19 + 13


def test_rejected_requests_are_counted_or_stop(make, stub):
    long = stub.failure(400, "the context is too long")
    stub.answer = lambda body, n: long if n else stub.completion("fine")
    client = make(max_concurrent=1)
    answers = ask(client, "abcdefghijkl")
    assert client.usage.problems == {"failed": 11}
    assert answers[1].problem == "failed: status 400: the context is too long"
    assert len(stub.bodies) == 12
    stub.answer = lambda *_: stub.failure(422, "unknown field")
    with pytest.raises(InputError, match=r"8 calls in a row.*unknown field"):
        ask(make(model="other"), "abcdefghijkl")


@pytest.mark.parametrize(
    "bad",
    [
        lambda s: s.failure(400, "policy", code="content_filter"),
        lambda s: s.failure(403, "m requires moderation. Your input was flagged"),
    ],
)
def test_filtered_prompts_are_refusals(make, stub, bad):
    stub.answer = lambda *_: bad(stub)
    assert ask(make(), "a")[0].problem == "refused"
    assert ask(make(), "a")[0].cached


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (
            lambda s: s.failure(401, f"Incorrect API key {s.key}"),
            "refuses the key in OPENAI_API_KEY",
        ),
        (
            lambda s: s.failure(403, f"{s.key[:9]} may not"),
            "set OPENAI_API_KEY to a key that may use it",
        ),
        (
            lambda s: s.failure(404, "The model `m` does not exist."),
            "has no model 'm'.*does not exist",
        ),
        (lambda s: s.failure(400, "m is not a valid model ID"), "has no model 'm'"),
        (lambda s: s.failure(402, f"pay {s.key}"), r"no credit left \(status 402: pay \[key\]\)"),
        (lambda s: s.failure(429, "broke", code="insufficient_quota"), "no credit left"),
    ],
)
def test_what_no_call_survives_stops_at_once(make, stub, tmp_path, bad, says):
    stub.answer = lambda body, n: bad(stub)._replace(seconds=0.05 * (n > 0))
    with pytest.raises(InputError, match=says) as caught:
        ask(make(max_concurrent=2), "abcdef")
    assert len(stub.bodies) <= 3
    assert "\n" not in str(caught.value)
    assert stub.key[:9] not in str(caught.value)
    assert not list(tmp_path.rglob("*.json"))


def test_no_key_and_no_server(make, stub, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    stub.answer = lambda *_: stub.failure(401, "who are you")
    with pytest.raises(InputError, match=r"a call without key \(OPENAI_API_KEY is not set\)"):
        ask(make(), "a")
    monkeypatch.setenv("MY_KEY", "my key")
    with pytest.raises(InputError, match="the key in MY_KEY has a space") as caught:
        ask(make(key_variable="MY_KEY"), "a")
    assert "my key" not in str(caught.value)
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9/v1 cannot be reached: start the server"):
        ask(make(base_url="http://127.0.0.1:9/v1"), "a")


def test_the_key_is_nowhere(make, stub, tmp_path, capfd):
    other = "sk-other-fedcba9876543210"
    ask(make(), "ab")
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    os.environ["OPENAI_API_KEY"] = other
    ask(make(), "ab")
    assert len(stub.bodies) == 2, "the cache's names do not depend on the key"
    assert len(kept) == 2
    for path, content in kept.items():
        assert stub.key.encode() not in content
        assert stub.key not in str(path)
    assert all(stub.key not in text for text in capfd.readouterr())


def test_no_more_calls_at_a_time_than_allowed(make, stub):
    stub.answer = lambda *_: stub.completion("fine")._replace(seconds=0.05)
    ask(make(max_concurrent=3), "abcdefghij")
    assert stub.most_under_way == 3


def test_no_more_calls_a_minute_than_allowed(make, stub):
    start = time.monotonic()
    ask(make(max_per_minute=60 / 0.1), "abcdef")
    assert all(arrived - start > 0.099 * n for n, arrived in enumerate(stub.times))


def test_interrupted_and_continued(make, stub):
    def answer(body, n):
        if n == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return stub.completion("fine")._replace(seconds=0.3 if n == 4 else 0.0)

    stub.answer = answer
    with pytest.raises(KeyboardInterrupt):
        ask(make(max_concurrent=1), "abcdefgh")
    assert stub.prompts() == list("abcde")
    stub.answer = lambda *_: stub.completion("fine")
    ask(make(max_concurrent=1), "abcdefgh")
    assert stub.prompts() == list("abcdeefgh")


def test_endpoints_without_schemas(make, stub, capfd):
    def answer(body, n):
        if "response_format" in body:
            return stub.failure(400, "response_format is not supported")
        return stub.completion("[1]")

    stub.answer = answer
    client = make(max_concurrent=1)
    assert [a.text for a in ask(client, "abc", schema={"type": "object"})] == ["[1]"] * 3
    assert ["response_format" in body for body in stub.bodies] == [True, False, False, False]
    assert stub.bodies[0]["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert capfd.readouterr().err.count("no structured output") == 1


def test_endpoints_with_another_name_for_max_tokens(make, stub):
    said = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    stub.answer = lambda body, n: (
        stub.failure(400, said) if "max_tokens" in body else stub.completion("x")
    )
    ask(make(max_concurrent=1), "ab")
    assert [body.get("max_completion_tokens") for body in stub.bodies] == [None, 50, 50]


def test_servers_that_do_not_count_or_answer_in_parts(make, stub):
    parts = [{"type": "text", "text": "12345"}, {"type": "text", "text": "6789"}]
    stub.answer = lambda *_: stub.completion(parts, usage=None)
    answer = ask(make(), ["four"])[0]
    # 12 and 9 characters.
    assert answer == ("123456789", 4, 3, False, "")


def test_thoughts_are_not_said(make, stub):
    stub.answer = lambda *_: stub.completion("<think>\n[0]?\n</think>\n\n[1]")
    assert ask(make(), "a")[0].said == "[1]"


def test_in_a_notebook(make, stub):
    async def cell():
        with pytest.raises(InputError, match=r"in a notebook, write `await asyncio\.to_thread"):
            ask(make(), "a")
        return await asyncio.to_thread(ask, make(), "a")

    assert asyncio.run(cell())[0].text == "echo"


def test_without_the_package(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "saejax.interp.calls", None)
    with pytest.raises(InputError, match="run `pip install openai`"):
        make()


def test_a_folder_that_cannot_be_made(make, tmp_path):
    (tmp_path / "kept").write_text("a file")
    with pytest.raises(InputError, match=r"cannot write .*kept: File exists"):
        make()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"base_url": "localhost:8000/v1"}, "no address of a server: give one as http"),
        ({"base_url": "ftp://h/v1"}, "no address"),
        ({"base_url": "u:secret@h/v1"}, "no address"),
        ({"base_url": "http://u:secret@h/v1"}, "must hold no user, password or query"),
        ({"base_url": "http://h/v1?key=secret"}, "must hold no user, password or query"),
        ({"model": ""}, "model is empty"),
        ({"max_concurrent": 0}, "max_concurrent=0 must be at least 1"),
        ({"max_tries": 0}, "max_tries=0"),
        ({"max_per_minute": float("nan")}, "max_per_minute=nan"),
        ({"temperature": -1.0}, "temperature=-1"),
        ({"timeout_seconds": 0.0}, "timeout_seconds=0"),
        ({"prompt_price": 1.0}, "go together"),
    ],
)
def test_bad_endpoints(make, fields, says):
    with pytest.raises(InputError, match=says) as caught:
        make(**fields)
    assert "secret" not in str(caught.value)
