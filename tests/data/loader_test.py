"""The order of the windows: once per epoch, a function of the data seed and the step alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saejax.config import Config
from saejax.data import store
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


@given(position=st.integers(0, 19))
def test_resume_at_any_position(position):
    cfg = make_config(epochs=2)
    source = np.arange(20)[:, None]
    straight = order(cfg, 20)
    batches = make_batches(cfg, source)
    for _ in range(position):
        next(batches)
    resumed = make_batches(cfg, source)
    resumed.set_state(batches.get_state())
    assert [batch[:, 0].tolist() for batch in resumed] == straight[position:]


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A store of 10 windows of 4 tokens, several shards; a token's activation is its number."""
    monkeypatch.setattr(store, "_SHARD_TOKENS", 3 * 4)
    windows = np.arange(40, dtype=np.int32).reshape(10, 4)
    store.write_store(
        tmp_path,
        windows,
        lambda tokens: {"here": tokens[..., None].astype(np.float32)},
        widths={"here": 1},
        skip_tokens=0,
        dtype="float32",
        batch_windows=1,
        describes={},
    )
    return store.ActivationStore(tmp_path, ("here",))


def test_shuffled_tokens_cover_every_token_once_per_epoch(stored):
    cfg = make_config(3, order="shuffled_tokens", epochs=3, activations="store")
    batches = list(make_batches(cfg, stored))
    assert len(batches) == num_steps(cfg, 10) == 10
    assert all(batch["here"].shape == (12, 1) for batch in batches)
    read = np.concatenate([batch["here"] for batch in batches])[:, 0].astype(int)
    epochs = read[:40], read[40:80], read[80:]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(40))
    assert len(set(epochs[2])) == 40
    assert epochs[0].tolist() != epochs[1].tolist()


def test_shuffled_tokens_depend_on_the_data_seed_alone_and_resume(stored):
    cfg = make_config(3, order="shuffled_tokens", epochs=3)
    straight = [batch["here"].tolist() for batch in make_batches(cfg, stored)]
    other_seeds = make_config(3, order="shuffled_tokens", epochs=3, init_seeds=(5, 6, 7))
    assert [batch["here"].tolist() for batch in make_batches(other_seeds, stored)] == straight
    other_data = make_config(3, order="shuffled_tokens", epochs=3, data_seed=1)
    assert [batch["here"].tolist() for batch in make_batches(other_data, stored)] != straight
    first, resumed = make_batches(cfg, stored), make_batches(cfg, stored)
    for _ in range(4):
        next(first)
    resumed.set_state(first.get_state())
    assert [batch["here"].tolist() for batch in resumed] == straight[4:]
