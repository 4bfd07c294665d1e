"""Who is missing, and who has failed, from the counters that processes write."""

import time

import jax
import pytest

from saejax import peers as peers_lib
from saejax.peers import Peers

HOSTS = ["one", "two", "three"]


class Store:
    """A stand-in for the client of JAX's coordination service, for all processes."""

    def __init__(self):
        self.values = {}
        self.is_gone = False

    def key_value_set(self, key, value, allow_overwrite=False):
        assert allow_overwrite
        if self.is_gone:
            raise jax.errors.JaxRuntimeError("UNAVAILABLE: Socket closed")
        self.values[key] = value

    def key_value_dir_get(self, folder):
        return [(key, x) for key, x in list(self.values.items()) if key.startswith(folder + "/")]


class EndedError(BaseException):
    """Stands for the end of a process."""


@pytest.fixture
def left(monkeypatch):
    """Exit codes of processes that end."""
    codes = []

    def leave(code):
        codes.append(code)
        raise EndedError

    monkeypatch.setattr(peers_lib.os, "_exit", leave)
    monkeypatch.setattr(peers_lib.threading, "excepthook", lambda _: None)
    return codes


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def join(store, left):
    joined = []

    def join(process, seconds=1.0):
        joined.append(Peers(store, process, HOSTS, seconds))
        return joined[-1]

    yield join
    for each in joined:
        each._over.set()


def until(happened, seconds=10):
    deadline = time.monotonic() + seconds
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert happened()


def test_all_that_live_and_finish_are_left_alone(join, left, capsys):
    made = [join(i) for i in range(3)]
    time.sleep(1.5)
    for each in made[1:]:
        each._client.key_value_set(f"saejax/ended/{each._process}", "done", allow_overwrite=True)
    made[0].finish()
    assert left == []
    assert capsys.readouterr().err == ""


def test_one_that_stands_still_is_named_by_each(join, left, capsys):
    join(0), join(1)
    silent = join(2)
    silent._over.set()
    until(lambda: len(left) == 2)
    lines = capsys.readouterr().err.splitlines()
    assert {line.partition(":")[0] for line in lines} == {"process 0", "process 1"}
    assert all("error: process 2 (three) is missing" in line for line in lines)
    assert left == [1, 1]


def test_without_the_service_it_is_process_0(join, store, left, capsys):
    join(1)
    store.is_gone = True
    until(lambda: left)
    assert "process 1: error: process 0 (one) is missing" in capsys.readouterr().err


def test_what_one_says_at_its_end_is_repeated(join, store, left, capsys):
    join(0, 4.0), join(1, 4.0)
    store.values["saejax/ended/2"] = "error: no space left"
    until(lambda: len(left) == 2)
    lines = sorted(capsys.readouterr().err.splitlines())
    assert lines[0] == "process 0: error: process 2 (three) stopped: error: no space left"
    assert left == [1, 1]


def test_error_of_its_own_is_told_with_where_it_came_from(join, store, left, capsys):
    me = join(2)
    join(0), join(1)
    time.sleep(0.2)
    with pytest.raises(EndedError):
        me.fail(ZeroDivisionError("a\nb"), None)
    said = capsys.readouterr().err
    assert "process 2: error: ZeroDivisionError: a" in said
    assert store.values["saejax/ended/2"] == "ZeroDivisionError: a"


def test_error_that_another_one_caused_names_that(join, left, capsys):
    """An exchange between devices fails at once; who is gone shows a little later."""
    me = join(0, 4.0)
    join(1, 4.0)
    with pytest.raises(EndedError):
        me.fail(ValueError("UNKNOWN: Gloo AllGather failed"), None)
    assert "process 0: error: process 2 (three) is missing" in capsys.readouterr().err
