"""Times, memory and advice of a forecast, from costs that are made up."""

import dataclasses

import pytest

from saejax.config import Config, MeshConfig
from saejax.plan.collectives import Collective
from saejax.plan.compile import Program
from saejax.plan.cost import Cost
from saejax.plan.devices import device_type
from saejax.plan.forecast import EXACT_PASSES, Forecast, Times, times
from saejax.plan.lm_shapes import lm_shape
from saejax.plan.report import advice, report, scaled_bytes

V5E, H100 = device_type("v5e"), device_type("h100")


def program(name="p", arguments=0, temporaries=0, outputs=0, **cost):
    xla = {"flops": 1.0, "bytes accessed": 1.0}
    return Program(name, arguments, outputs, temporaries, Cost(**cost), xla, 0.1)


def plan(**changes):
    """256 v5e, 32 x 8; 1 GB of state, 100 MB of weights."""
    cfg = Config(init_seeds=(1, 2, 3), mesh=MeshConfig(1, 32, 8))
    cfg.data.context_length, cfg.train.batch_tokens = 2048, 65_536
    cfg.data.skip_tokens = 0
    cfg.data.num_tokens = 65_536 * 1000
    made = Forecast(
        cfg=cfg,
        device=V5E,
        compiler="cpu",
        refused="",
        attained=0.5,
        mesh={"seed": 1, "data": 32, "latent": 8},
        lm_config=lm_shape("pythia-160m", ""),
        width=768,
        capture=program("language model", 10**8, 5 * 10**8, 10**6, flops={"bfloat16": 1e12}),
        step=program("training step", 10**9, 3 * 10**8, 10**3, flops={"float32": 2e12}),
        passes={
            "candidates": (program("c", 10**8, flops={"bfloat16": 1e13}), 2),
            "row maxima": (program("m", 2 * 10**8, flops={"exact": 1e13}), 3),
        },
    )
    return dataclasses.replace(made, **changes)


def test_times_of_each_part():
    near, far = Collective("all-reduce", 8, 7, 9e9, 5), Collective("all-gather", 2, 8, 5e9, 1)
    made = program(
        flops={"bfloat16": 989.4e12, "exact": 67e12},
        traffic=3350e9,
        kernels=1e6,
        collectives=[near, far],
    )
    found = times(made, H100, 0.5)
    # One second for each type of product, twice as long at half the rate.
    assert found.compute == pytest.approx(4)
    assert found.memory == pytest.approx(2)
    # 45 GB within a node at 450 GB/s, 5 GB beyond at 50 GB/s.
    assert found.network == pytest.approx(2 * (0.1 + 0.1))
    assert found.kernels == pytest.approx(3.8)
    assert (found.bound, found.best) == ("compute", found.compute)
    assert found.expected == pytest.approx(4 + 2 + 0.4 + 3.8)
    # A pod of v5e is one island.
    assert times(made, V5E, 1.0).network == pytest.approx(50e9 / V5E.link)


def test_times_add_up():
    one = Times(1, 2, 3, 4) + Times(1, 0, 0, 0) * 2
    assert one == Times(3, 2, 3, 4)
    assert one.bound == "kernels"


def test_memory_of_training_and_matching():
    made = plan()
    # State, weights, two batches, and the larger of two temporaries.
    assert made.training_bytes == 10**9 + 10**8 + 10**3 + 10**6 + 5 * 10**8
    # A TPU's host has the sides for float64 products; a GPU has them itself.
    assert made.matching_bytes == 2 * 10**8
    on_gpu = plan(device=H100)
    assert on_gpu.matching_bytes == 2 * 10**8 + 2 * 4 * 32_768 * 768
    assert made.fits
    assert not any("fit" in line for line in advice(made))


def test_hours():
    made = plan()
    seconds = (1e12 + 2e12) / 197e12 / 0.5
    assert made.step_times.expected == pytest.approx(seconds)
    assert made.num_steps == 1000
    assert made.pairs == 3
    one = (EXACT_PASSES * 2 * 1e13 / 197e12 + 3 * 1e13 / (197e12 / 6)) / 0.5
    assert made.matching_times.expected == pytest.approx(2 * 3 * one)
    assert made.pass_flops == 2 * 32_768**2 * 768
    assert made.sae_flops == 3 * 65_536 * (2 * 32_768 * 768 + 8 * 32 * 768)
    said = report(made)
    assert f"{65_536 / seconds:,.0f} tokens/s expected" in said
    assert "training 1,000 steps" in said
    assert "DOES NOT" not in said


def test_a_store_has_no_language_model_in_the_step():
    made = plan()
    made.cfg.data.activations = "store"
    assert made.step_times.expected == pytest.approx(2e12 / 197e12 / 0.5)
    made.cfg.data.num_tokens = 0
    assert "a billion tokens" in report(made)


def test_what_does_not_fit_gets_a_mesh_that_does():
    made = plan(step=program("training step", 20 * 10**9, 10**9))
    assert not made.fits
    (line,) = [line for line in advice(made) if "does not fit" in line]
    assert "try --config.mesh.seed=1 --config.mesh.data=16 --config.mesh.latent=16" in line
    # Half of the state; temporaries as of twice the tokens.
    assert scaled_bytes(made, 1, 16, 16) == 10**10 + 2 * 10**9 + 10**8 + 10**6
    assert "DOES NOT FIT" in report(made)


def test_what_fits_nowhere_gets_other_devices():
    step = program("training step", 90 * 10**9, 60 * 10**9)
    made = plan(step=step)
    (line,) = [line for line in advice(made) if "does not fit" in line]
    assert "no mesh of 256 helps: take more devices or fewer seeds" in line
    made = plan(step=program("training step", 40 * 10**9, 16 * 10**9))
    made.cfg.sae.num_latents = 32_768
    (line,) = [line for line in advice(made) if "does not fit" in line]
    assert "v5p" in line or "try" in line


def test_matching_that_does_not_fit():
    passes = {name: (program(name, 17 * 10**9), 1) for name in ("candidates", "row maxima")}
    (line,) = [line for line in advice(plan(passes=passes)) if "matching" in line]
    assert "devices of 17.89 GB or more" in line


def test_what_bounds_a_step_is_told():
    slow = program("training step", kernels=1e6, turns=500_000)
    (line,) = advice(plan(step=slow))
    assert "500,000 turns of loops" in line
    slow = program("training step", collectives=[Collective("all-reduce", 8, 7, 1e12, 1)])
    (line,) = advice(plan(step=slow))
    assert "exchanges bound" in line
    assert "all-reduce" in report(plan(step=slow))


def test_what_was_refused_and_what_is_not_known_is_told():
    made = plan(refused="Ran out of memory", step=program("s", unknown_loops=2))
    assert "libtpu refused: Ran out of memory" in report(made)
    assert "2 loops do not tell their turns" in report(made)
