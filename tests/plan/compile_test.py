"""Programs from shapes alone against what JAX compiles and holds for arrays that exist."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from saejax import mesh as mesh_lib
from saejax.config import Config, DataConfig, LmConfig, MeshConfig, SaeConfig, TrainConfig
from saejax.errors import InputError
from saejax.lm import load_config, load_lm, make_capture
from saejax.plan import compile as plan
from saejax.plan.devices import device_type
from saejax.plan.flops import lm_flops, sae_flops
from saejax.train.optim import make_optimizer
from saejax.train.state import init_state
from saejax.train.step import make_step

D = 64
V5E = device_type("v5e")


def run(arch="topk", mesh=(2, 2, 2), **sae):
    """Two seeds, 512 latents of width 64, 8 windows of 32 tokens."""
    return Config(
        init_seeds=(1, 2),
        data=DataConfig(context_length=32, skip_tokens=0),
        sae=SaeConfig(arch=arch, num_latents=512, k=8, **sae),
        train=TrainConfig(batch_tokens=256, decoder_bias_init="mean"),
        mesh=MeshConfig(*mesh),
    )


@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2), (1, 1, 8)])
def test_memory_of_the_step_is_that_of_arrays_that_exist(sizes):
    cfg = run(mesh=sizes)
    mesh = plan.described_mesh(cfg, V5E, 8, "cpu")
    program = plan.compile_step(cfg, mesh, D)
    optimizer = make_optimizer(cfg, 1000, latent_axis=mesh_lib.LATENT)
    x_BD = jax.device_put(
        np.random.default_rng(0).standard_normal((256, D), dtype=np.float32),
        NamedSharding(mesh, mesh_lib.BATCH),
    )
    state = init_state(cfg, x_BD, optimizer, mesh)
    step = jax.jit(make_step(cfg, optimizer, state, mesh), donate_argnums=0)
    memory = step.lower(state, x_BD).compile().memory_analysis()
    assert program.arguments == memory.argument_size_in_bytes
    assert program.temporaries == memory.temp_size_in_bytes
    assert program.outputs == memory.output_size_in_bytes - memory.alias_size_in_bytes

    def on_a_device(tree):
        shards = (leaf.addressable_shards[0] for leaf in jax.tree.leaves(tree))
        return sum(shard.data.nbytes for shard in shards)

    # XLA pads nothing on CPUs but small arrays, to a multiple of some bytes.
    assert on_a_device((state, x_BD)) == pytest.approx(program.arguments, abs=1024)
    after, metrics = step(state, x_BD)
    assert on_a_device(metrics) <= program.outputs + 1024
    assert on_a_device(after) + on_a_device(x_BD) == pytest.approx(program.arguments, abs=1024)


def test_memory_of_the_language_model_is_that_of_one_that_is_loaded(tiny_lm):
    cfg = run()
    cfg.lm, cfg.hookpoint = LmConfig(source=str(tiny_lm)), "layers.1.mlp"
    mesh = plan.described_mesh(cfg, V5E, 8, "cpu")
    program = plan.compile_capture(cfg, mesh, load_config(str(tiny_lm)))
    lm = load_lm(str(tiny_lm), num_layers=2, mesh=mesh)
    # The final norm is not used, and so not given.
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(lm.model)) - 4 * 16
    assert program.arguments == pytest.approx(weights + 4 * 4 * 32, abs=1024)
    capture = make_capture(lm, ("layers.1.mlp",))
    (x_BLD,) = capture(jnp.zeros((8, 32), jnp.int32)).values()
    assert program.outputs == x_BLD.addressable_shards[0].data.nbytes


def test_a_split_language_model(tiny_lm, monkeypatch):
    monkeypatch.setattr("saejax.lm.sharding._COPY_BYTES", 0)
    cfg = run(mesh=(1, 4, 2))
    cfg.lm, cfg.hookpoint = LmConfig(source=str(tiny_lm)), "layers.1.mlp"
    mesh = plan.described_mesh(cfg, V5E, 8, "cpu")
    program = plan.compile_capture(cfg, mesh, load_config(str(tiny_lm)))
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(load_lm(str(tiny_lm)).model))
    assert program.arguments < whole / 4
    assert {"all-gather", "all-reduce"} <= {each.kind for each in program.cost.collectives}


@pytest.mark.parametrize(
    ("arch", "sae"),
    [
        ("topk", {}),
        ("topk", {"multi_topk": True}),
        ("batch_topk", {}),
        ("relu", {"sparsity_coefficient": 1.0}),
        ("jump_relu", {"sparsity_coefficient": 1.0}),
        ("gated", {"sparsity_coefficient": 1.0}),
        ("gated", {"gated_auxiliary": "attached", "unit_decoder": False}),
    ],
)
def test_products_of_the_step_are_those_counted_by_hand(arch, sae):
    cfg = run(arch, mesh=(1, 1, 1), **sae)
    mesh = plan.described_mesh(cfg, V5E, 1, "cpu")
    compiled = plan.compile_step(cfg, mesh, D).cost.all_flops
    by_hand = 2 * 256 * sae_flops(cfg.sae, D)
    # Sparse ones are no products but row by row, so that some of the 8 K D of topk are missing.
    sparse = 2 * 256 * (by_hand / 512 - 2 * 512 * D)
    missing = sparse if "topk" in arch else 0
    assert by_hand - missing - 1 <= compiled <= 1.03 * by_hand


def test_by_hand_is_what_the_docstrings_say():
    cfg = SaeConfig(num_latents=1000, k=10)
    assert sae_flops(cfg, 50) == 2 * 1000 * 50 + 8 * 10 * 50
    assert sae_flops(SaeConfig(arch="relu", num_latents=1000), 50) == 12 * 1000 * 50


@pytest.mark.parametrize("hookpoint", ["layers.0", "layers.1.mlp", "layers.1.self_attn"])
def test_products_of_the_language_model_are_those_counted_by_hand(tiny_lm, hookpoint):
    cfg = run(mesh=(1, 1, 1))
    cfg.hookpoint = hookpoint
    config = load_config(str(tiny_lm))
    # By hand: q and o of 16 x 16, k and v of 16 x 8, three of 16 x 32 in the MLP; attention over
    # half of 32 tokens, 4 heads of 4.
    attention, mlp = 2 * (2 * 16 * 16 + 2 * 16 * 8) + 4 * 16 * 33 / 2, 2 * 3 * 16 * 32
    blocks = {"layers.0": (1, 1), "layers.1.mlp": (2, 2), "layers.1.self_attn": (2, 1)}[hookpoint]
    assert lm_flops(cfg, config) == blocks[0] * attention + blocks[1] * mlp
    mesh = plan.described_mesh(cfg, V5E, 1, "cpu")
    compiled = plan.compile_capture(cfg, mesh, config).cost.all_flops
    # One block of queries: all pairs of 32 tokens are computed, and a column of ones.
    more = blocks[0] * (4 * 16 * (32 - 33 / 2) + 2 * 4 * 32)
    assert compiled == pytest.approx(256 * (lm_flops(cfg, config) + more))


def test_passes_of_matching():
    cfg = run(mesh=(1, 8, 1))
    mesh = plan.described_mesh(cfg, V5E, 8, "cpu")
    made = plan.compile_matching(cfg, mesh, D, V5E)
    (first, calls), (maxima, _) = made.values()
    # 512 rows in tiles of 256 on each of 8 devices: one call, of 2,048 rows.
    assert calls == 1
    assert first.cost.flops == {"bfloat16": 2 * 256 * 512 * D}
    assert maxima.cost.flops == {"exact": 2 * 256 * 512 * D}
    # A device holds its rows, their numbers, the other side and its prices.
    assert maxima.arguments == pytest.approx(4 * (256 * D + 256 + 512 * D + 512), abs=256)


def test_what_divides_and_what_does_not():
    cfg = run(mesh=(1, -1, 1))
    cfg.train.batch_tokens = 4 * 32
    with pytest.raises(InputError, match=r"windows_per_batch=4 must divide by the 8 .*latent=2"):
        plan.described_mesh(cfg, V5E, 8, "cpu")
    assert [*plan.other_meshes(cfg, 8)][:2] == [(2, 4, 1), (1, 4, 2)]
    assert all(s * d * n == 8 and not 2 % s and not 4 % d for s, d, n in plan.other_meshes(cfg, 8))
    cfg.mesh = MeshConfig(1, 2, 1)
    with pytest.raises(InputError, match="has 2 of 8 devices"):
        plan.described_mesh(cfg, V5E, 8, "cpu")
    cfg.sae.num_latents = 7
    with pytest.raises(InputError, match="no mesh of 5 devices"):
        plan.described_mesh(cfg, V5E, 5, "cpu")


def test_the_compiler_of_tpus_is_for_tpus():
    with pytest.raises(InputError, match="compiler=tpu with device_type=h100"):
        plan.described_mesh(run(), device_type("h100"), 8, "tpu")
