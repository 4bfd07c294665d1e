"""Weights split over eight devices, and windows spread over them, against one device."""

import math
import re
import zlib

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from saejax import mesh as mesh_lib
from saejax.config import MeshConfig
from saejax.lm import Lm, hookpoints, load_lm, logits, make_capture, sharding
from saejax.lm.capture import _activations
from saejax.lm.decoder import build
from saejax.lm.decoder_config import tensor_shapes
from saejax.lm.families import FAMILIES, from_json
from saejax.lm.hooks import parse_hookpoint
from saejax.lm.sharding import make_placement

MESHES = [(1, 8, 1), (1, 2, 4), (2, 2, 2)]

# Fewer key-value heads than devices along "latent" in (1, 2, 4); all other sizes divide by 8.
LLAMA = {
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 50,
    "tie_word_embeddings": False,
}
SMALL = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "gpt_neox": LLAMA,
    "gpt2": {"n_layer": 3, "n_embd": 32, "n_head": 4, "vocab_size": 50, "n_positions": 16},
}


@pytest.fixture
def split(monkeypatch):
    """Has models of any size split."""
    monkeypatch.setattr(sharding, "_COPY_BYTES", 0)


def random_lm(family, mesh=None, **changes):
    config = from_json({"model_type": family, **SMALL[family], **changes}, "the file")
    layers = config.num_layers
    shapes = tensor_shapes(config, layers)

    def read(name):
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        scale = 1.0 if len(shapes[name]) == 1 else shapes[name][-1] ** -0.5
        return (scale * rng.normal(size=shapes[name])).astype(np.float32)

    placement = None
    if mesh is not None:
        placement = make_placement(config, mesh, num_layers=layers, dtype="float32")
    model = build(config, read, num_layers=layers, dtype="float32", placement=placement)
    return Lm(config, model, "")


def make_mesh(sizes):
    return mesh_lib.make_mesh(MeshConfig(*sizes))


def tokens(windows=8, length=9):
    return np.random.default_rng(0).integers(0, 50, (windows, length)).astype(np.int32)


def on(mesh, tokens_BL):
    return jax.device_put(tokens_BL, NamedSharding(mesh, mesh_lib.BATCH))


def bytes_by_device(model):
    held = dict.fromkeys(jax.devices(), 0)
    for weight in jax.tree.leaves(model):
        for shard in weight.addressable_shards:
            held[shard.device] += shard.data.nbytes
    return held


def compiled(lm, names, tokens_BL):
    hooks = tuple((name, parse_hookpoint(lm.config, name)) for name in names)
    return _activations.lower(lm.model, tokens_BL, hooks=hooks).compile()


def check_equal(family, sizes, tokens_BL, **changes):
    """All parts of the last block on a mesh, as on one device; returns the model on the mesh."""
    mesh = make_mesh(sizes)
    alone, meshed = (random_lm(family, m, **changes) for m in (None, mesh))
    first, *others = hookpoints(alone.config)
    names = (first, *others[-5:])
    expected = make_capture(alone, names)(tokens_BL)
    found = make_capture(meshed, names)(on(mesh, tokens_BL))
    for name in names:
        assert found[name].sharding.is_equivalent_to(NamedSharding(mesh, mesh_lib.BATCH), 3)
        error = np.abs(np.asarray(found[name]) - expected[name]).max()
        assert error <= 1e-5 * np.abs(expected[name]).max(), name
    return meshed


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        pytest.param(
            family,
            sizes,
            marks=() if sizes == (2, 2, 2) or family == "llama" else pytest.mark.slow,
        )
        for family in FAMILIES
        for sizes in MESHES
    ],
)
def test_split_weights_give_what_one_device_gives(split, family, sizes):
    lm = check_equal(family, sizes, tokens())
    # Matrices in eight parts, and copies of norms and biases.
    shapes = tensor_shapes(lm.config, lm.config.num_layers).values()
    share = sum(4 * math.prod(s) // (8 if len(s) == 2 else 1) for s in shapes)
    assert set(bytes_by_device(lm.model).values()) == {share}


def test_sizes_that_do_not_divide(split):
    odd = {"hidden_size": 36, "num_attention_heads": 6, "intermediate_size": 50}
    lm = check_equal("llama", (1, 2, 4), tokens(), **odd)
    held = bytes_by_device(lm.model).values()
    assert max(held) < sum(w.nbytes for w in jax.tree.leaves(lm.model)) / 2


def test_split_weights_are_gathered_a_block_at_a_time(split):
    mesh = make_mesh((2, 2, 2))
    lm = random_lm("llama", mesh, vocab_size=5000)
    program = compiled(lm, ["layers.2"], on(mesh, tokens(8, 2))).as_text()
    shapes = re.findall(r"f32\[([\d,]+)\]\S* all-gather\(", program)
    # A kernel of the MLP, of which each device computes half of the neurons.
    assert max(math.prod(map(int, shape.split(","))) for shape in shapes) == 32 * 64 // 2


@pytest.mark.parametrize("windows", [4, 8])
def test_windows_that_some_devices_can_share(windows):
    check_equal("llama", (2, 2, 2), tokens(windows))


def test_every_device_reads_windows_of_its_own():
    """Operations of a device do not depend on how the mesh is laid out."""
    flops = []
    for sizes in [(1, 8, 1), (2, 2, 2)]:
        mesh = make_mesh(sizes)
        program = compiled(random_lm("llama", mesh), ["layers.1"], on(mesh, tokens()))
        flops.append(program.cost_analysis()["flops"])
    np.testing.assert_allclose(*flops, rtol=0.01)


def test_only_models_above_the_limit_are_split(monkeypatch):
    config = from_json({"model_type": "llama", **LLAMA}, "the file")
    num_bytes = 2 * sum(math.prod(shape) for shape in tensor_shapes(config, 1).values())

    def is_split(mesh, num_layers=1, dtype="bfloat16"):
        return make_placement(config, mesh, num_layers=num_layers, dtype=dtype).split

    eight, one = make_mesh((2, 2, 2)), mesh_lib.make_mesh(MeshConfig(), devices=jax.devices()[:1])
    monkeypatch.setattr(sharding, "_COPY_BYTES", num_bytes)
    assert not is_split(eight)
    assert is_split(eight, num_layers=2)
    assert is_split(eight, dtype="float32")
    monkeypatch.setattr(sharding, "_COPY_BYTES", num_bytes - 1)
    assert is_split(eight)
    assert not is_split(one)


def test_one_device_computes_what_it_did(split):
    mesh = mesh_lib.make_mesh(MeshConfig(), devices=jax.devices()[:1])
    alone, meshed = random_lm("gpt2"), random_lm("gpt2", mesh)
    names = hookpoints(alone.config)[-6:]
    expected, found = (make_capture(lm, names)(tokens()) for lm in (alone, meshed))
    for name in names:
        np.testing.assert_array_equal(found[name], expected[name])


def test_a_file_is_read_onto_the_mesh(split, tiny, random_weights, write_directory):
    folder = str(write_directory(tiny(), random_weights(tiny()), shards=2))
    mesh = make_mesh((2, 2, 2))
    alone, meshed = load_lm(folder), load_lm(folder, mesh=mesh)
    for one, other in zip(*map(jax.tree.leaves, (alone.model, meshed.model)), strict=True):
        np.testing.assert_array_equal(one, other)
    held = bytes_by_device(meshed.model)
    assert max(held.values()) < 1.1 / 8 * sum(w.nbytes for w in jax.tree.leaves(alone.model))
    tokens_BL = tokens() % 48
    np.testing.assert_allclose(logits(meshed, tokens_BL), logits(alone, tokens_BL), atol=1e-4)
    part = load_lm(folder, num_layers=0, mesh=mesh)
    np.testing.assert_array_equal(
        make_capture(part, ["embed_tokens"])(on(mesh, tokens_BL))["embed_tokens"],
        make_capture(alone, ["embed_tokens"])(tokens_BL)["embed_tokens"],
    )
