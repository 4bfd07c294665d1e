"""The shuffle buffer: every token of a block once, whatever the devices and where one begins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saejax.config import Config, MeshConfig
from saejax.data.loader import make_batches
from saejax.data.shuffle_buffer import ShuffleBuffer
from saejax.mesh import make_mesh

WINDOWS, LENGTH, PER_BATCH, SIZE = 44, 4, 4, 3
TOKENS = np.arange(WINDOWS * LENGTH, dtype=np.int32).reshape(WINDOWS, LENGTH)


@pytest.fixture
def cfg():
    made = Config()
    made.data.context_length, made.train.batch_tokens = LENGTH, PER_BATCH * LENGTH
    made.data.skip_tokens, made.data.shuffle_buffer_batches = 0, SIZE
    return made


def make_buffer(devices, captured=None):
    def capture(tokens_WL):
        if captured is not None:
            captured.append(tokens_WL)
        flat = jnp.asarray(tokens_WL).reshape(-1)
        return {"a": jnp.stack([flat, -flat], 1).astype(jnp.float32), "b": flat[:, None] % 2 == 0}

    mesh = make_mesh(MeshConfig(1, devices, 1), devices=jax.devices()[:devices])
    return ShuffleBuffer(capture, SIZE, mesh)


def steps(cfg, buffer, start=0):
    batches = make_batches(cfg, TOKENS)
    batches.set_state({"next_index": start})
    return [{name: np.asarray(x) for name, x in buffer(block).items()} for block in batches]


def test_each_block_has_the_tokens_of_its_batches_in_another_order(cfg):
    captured = []
    mixed = [step["a"][:, 0].astype(int) for step in steps(cfg, make_buffer(1, captured))]
    cfg.data.shuffle_buffer_batches = 0
    plain = [batch.ravel() for batch in make_batches(cfg, TOKENS)]
    # 11 steps: three whole blocks, and one of two batches.
    assert len(mixed) == len(plain) == len(captured) == 11
    for first in range(0, 11, SIZE):
        block, of_block = np.ravel(mixed[first : first + SIZE]), plain[first : first + SIZE]
        assert sorted(block) == sorted(np.ravel(of_block))
        assert block.tolist() != np.ravel(of_block).tolist()
    in_first_step = [next(i for i in range(3) if token in plain[i]) for token in mixed[0]]
    assert len(set(in_first_step)) > 1


def test_all_arrays_are_mixed_alike(cfg):
    for step in steps(cfg, make_buffer(1)):
        np.testing.assert_array_equal(step["a"][:, 1], -step["a"][:, 0])
        np.testing.assert_array_equal(step["b"][:, 0], step["a"][:, 0] % 2 == 0)


def test_devices_do_not_matter(cfg):
    for one, eight in zip(steps(cfg, make_buffer(1)), steps(cfg, make_buffer(8)), strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], eight[name])


@pytest.mark.parametrize("start", [1, 3, 5, 10])
def test_goes_on_inside_a_block(cfg, start):
    straight = steps(cfg, make_buffer(1))
    resumed = steps(cfg, make_buffer(1), start)
    for one, other in zip(straight[start:], resumed, strict=True):
        np.testing.assert_array_equal(one["a"], other["a"])


def test_order_depends_on_the_data_seed(cfg):
    cfg.data.order = "in_order"
    one = steps(cfg, make_buffer(1))
    cfg.data_seed = 1
    other = steps(cfg, make_buffer(1))
    assert one[0]["a"].tolist() != other[0]["a"].tolist()
