"""What processes say to each other."""

import jax
import numpy as np
import pytest

from saejax import processes
from saejax.errors import InputError


class Service:
    """A stand-in for the client of JAX's coordination service, of one thread of several."""

    def __init__(self, values, count):
        self.values, self._count = values, count

    def key_value_set(self, key, value, allow_overwrite=False):
        assert allow_overwrite or key not in self.values
        self.values[key] = value

    def key_value_dir_get(self, folder):
        return [(key, x) for key, x in list(self.values.items()) if key.startswith(folder + "/")]

    def key_value_delete(self, key):
        del self.values[key]

    def wait_at_barrier(self, name, milliseconds):
        if self._count > len(self.values):
            raise jax.errors.JaxRuntimeError(f"DEADLINE_EXCEEDED: {name}")


@pytest.fixture
def service(monkeypatch):
    """This is process 1 of 3; what the others say can be put into the values."""
    made = Service({}, 3)
    monkeypatch.setattr(processes, "client", lambda: made)
    monkeypatch.setattr(processes, "_numbers", iter(range(9)))
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    return made


def others_say(service, number, at, *texts):
    for i, text in zip((0, 2), texts, strict=False):
        service.values[f"saejax/exchange/{number}/{i}"] = f"{at}={text}"


def test_one_process_hears_itself_and_waits_for_nobody():
    assert processes.exchange("a=b", "here") == ["a=b"]
    assert processes.first_says("x") == "x"
    assert processes.all_true(True)
    assert not processes.all_true(False)
    with processes.all_succeed(), pytest.raises(InputError, match="own"), processes.all_succeed():
        raise InputError("own")


def test_exchange_gives_what_each_said_in_their_order(service):
    others_say(service, 0, "here", "first", "last = end")
    assert processes.exchange("mine", "here") == ["first", "mine", "last = end"]


def test_who_did_not_come_is_named(service):
    others_say(service, 0, "a place", "first")
    processes.be_patient(7)
    with pytest.raises(InputError, match="waited 7 s for process 2 at: a place"):
        processes.exchange("mine", "a place")
    processes.be_patient(processes.PATIENCE_SECONDS)


def test_processes_at_different_places_are_told(service):
    others_say(service, 0, "training", "", "")
    with pytest.raises(InputError, match="different places: training, matching, training"):
        processes.exchange("", "matching")


def test_failure_of_one_is_that_of_all(service):
    others_say(service, 0, "a stage", "", "failed")
    with (
        pytest.raises(InputError, match="process 2 stopped: see what it says"),
        processes.all_succeed("a stage"),
    ):
        pass


def test_what_all_have_read_is_deleted(service):
    for number in range(4):
        others_say(service, number, "here", "", "")
        processes.exchange(str(number), "here")
    own = [key for key in service.values if key.endswith("/1")]
    assert own == ["saejax/exchange/2/1", "saejax/exchange/3/1"]


def test_arrays_are_fetched_whole():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    values = np.arange(16.0)
    np.testing.assert_array_equal(processes.fetch(jax.device_put(values, split)), values)
    np.testing.assert_array_equal(processes.fetch(values), values)
