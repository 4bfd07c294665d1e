"""The order of the windows: once per epoch, a function of the data seed and the step alone."""

import json
from unittest import mock

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saejax.config import Config
from saejax.data import loader, store
from saejax.data.exclude import Kept
from saejax.data.loader import make_batches, num_steps
from saejax.errors import InputError


def make_config(per_batch=2, **fields):
    cfg = Config()
    cfg.data.context_length, cfg.train.batch_tokens = 4, 4 * per_batch
    cfg.data.skip_tokens = 0
    for name, value in fields.items():
        setattr(cfg if hasattr(cfg, name) else cfg.data, name, value)
    return cfg


def order(cfg, windows):
    return [batch[:, 0].tolist() for batch in make_batches(cfg, np.arange(windows)[:, None])]


@given(
    windows=st.integers(1, 30),
    per_batch=st.integers(1, 5),
    epochs=st.integers(1, 4),
    data_seed=st.integers(0, 2**31),
)
def test_every_window_once_per_epoch(windows, per_batch, epochs, data_seed):
    cfg = make_config(per_batch, epochs=epochs, data_seed=data_seed)
    if windows * epochs < per_batch:
        with pytest.raises(InputError, match=r"train\.batch_tokens"):
            num_steps(cfg, windows)
        return
    batches = order(cfg, windows)
    assert len(batches) == num_steps(cfg, windows)
    read = [w for batch in batches for w in batch]
    for epoch in range(len(read) // windows):
        assert sorted(read[epoch * windows : (epoch + 1) * windows]) == list(range(windows))


def test_order_is_a_function_of_the_data_seed_alone():
    first = order(make_config(epochs=3), 20)
    assert first == order(make_config(epochs=3, init_seeds=(7, 8, 9)), 20)
    other = make_config(epochs=3)
    other.mesh.data, other.sae.num_latents = 4, 64
    assert first == order(other, 20)
    assert first != order(make_config(epochs=3, data_seed=1), 20)
    # More epochs only add batches; a larger batch reads the same windows.
    assert order(make_config(epochs=5), 20)[: len(first)] == first
    assert np.ravel(order(make_config(4, epochs=3), 20)).tolist() == np.ravel(first).tolist()


def test_epochs_differ_and_in_order_is_in_order():
    batches = np.ravel(order(make_config(epochs=2), 20))
    assert batches[:20].tolist() != batches[20:].tolist()
    assert np.ravel(order(make_config(order="in_order", epochs=2), 20)).tolist() == [*range(20)] * 2


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A store of 10 windows of 4 tokens, several shards; a token's activation is its number."""
    root = tmp_path_factory.mktemp("store")
    windows = np.arange(40, dtype=np.int32).reshape(10, 4)

    def capture(tokens_WL):
        return Kept({"here": tokens_WL[..., None].astype(np.float32)}, tokens_WL < 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_SHARD_TOKENS", 3 * 4)
        headers = store.store_headers(
            windows,
            widths={"here": 1},
            tokens_per_window=4,
            dtype="float32",
            batch_windows=1,
            describes={},
        )
    store.begin_store(root, headers)
    store.write_store(root, headers, windows, capture, batch_windows=1)
    return store.ActivationStore(root, ("here",))


def numbers(batch):
    """The tokens of a batch, each of which is its number in the corpus."""
    return np.ravel(batch["here"] if isinstance(batch, dict) else batch).astype(int).tolist()


@settings(max_examples=40)  # Each makes up to 16 pools of threads.
@given(
    hosts=st.sampled_from([1, 2, 4]),
    threads=st.integers(0, 3),
    prefetch=st.integers(0, 5),
    data_seed=st.integers(0, 2**40),
    epochs=st.integers(1, 3),
    kind=st.sampled_from(["in_order", "shuffled", "shuffled from a store", "shuffled_tokens"]),
    stops=st.lists(st.integers(0, 7), max_size=3),
)
def test_global_order_is_a_function_of_the_data_seed_and_the_step(
    stored, hosts, threads, prefetch, data_seed, epochs, kind, stops
):
    cfg = make_config(4, data_seed=data_seed, epochs=epochs, order=kind.split()[0])
    source = np.arange(40).reshape(10, 4)
    if "store" in kind or "tokens" in kind:
        source = stored

    def parts(options):
        with mock.patch.object(loader, "_READ_OPTIONS", grain.ReadOptions(*options)):
            return [
                make_batches(cfg, source, process_index=i, process_count=hosts)
                for i in range(hosts)
            ]

    expected = [numbers(batch) for batch in make_batches(cfg, source)]
    assert len(expected) == num_steps(cfg, 10) == 10 * epochs // 4
    read = np.ravel(expected)
    for epoch in range(len(read) // 40):
        assert sorted(read[40 * epoch : 40 * (epoch + 1)]) == list(range(40))
    if "tokens" not in kind:
        assert (read.reshape(-1, 4) % 4 == np.arange(4)).all()
    iterators, found = parts((threads, prefetch)), []
    for stop in [*sorted(stop for stop in stops if stop < len(expected)), len(expected)]:
        while len(found) < stop:
            found.append([token for part in iterators for token in numbers(next(part))])
        # Another process with other threads goes on from what a checkpoint holds.
        states = [json.loads(json.dumps(part.get_state())) for part in iterators]
        assert all(state == states[0] for state in states)
        iterators = parts((prefetch, threads))
        for part, state in zip(iterators, states, strict=True):
            part.set_state(state)
    assert found == expected


def test_order_is_that_of_grain():
    """Runs go on in the order that they began in: windows as grain shuffles its own batches."""
    cfg = make_config(3, epochs=2, data_seed=5)
    source = np.arange(20)[:, None]
    grains = grain.MapDataset.source(source).seed(5).shuffle().repeat(2).batch(3)
    assert order(cfg, 20) == [batch[:, 0].tolist() for batch in grains][:13]


def test_batches_that_processes_cannot_share():
    with pytest.raises(InputError, match=r"batch_tokens=12 is 3 windows of 4 .* multiple of 8"):
        make_batches(make_config(3), np.zeros((9, 4), np.int32), process_index=0, process_count=2)


def test_epochs_of_tokens_differ(stored):
    cfg = make_config(5, order="shuffled_tokens", epochs=2)
    first, second, *_ = (numbers(batch) for batch in make_batches(cfg, stored))
    third = numbers(list(make_batches(cfg, stored))[2])
    assert sorted(first + second) == list(range(40))
    assert first != third
