"""Configurations that cannot work are refused, naming the value; presets pass."""

import runpy
from pathlib import Path

import pytest

from saejax import config_check
from saejax.config import Config, MeshConfig
from saejax.config_check import check, field_value
from saejax.errors import InputError
from saejax.sweep import points


def set_field(cfg, path, value):
    *parents, name = path.split(".")
    for parent in parents:
        cfg = getattr(cfg, parent)
    setattr(cfg, name, value)


def fitting(**fields):
    """A configuration that passes the checks, but for the fields given."""
    cfg = Config()
    cfg.data.context_length, cfg.train.batch_tokens = 256, 1024
    for path, value in fields.items():
        set_field(cfg, path.replace("__", "."), value)
    return cfg


def test_fitting_and_default_configurations_pass():
    check(fitting())
    check(Config())


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("sae.k", 2_000_000, "must not exceed sae.num_latents=32768"),
        ("sae.k", 0, "at least 1"),
        ("hookpoint", "layers.*", "sweep.py --vary=hookpoint=layers.*"),
        ("target_hookpoint", "layers.[0-2]", "sweep.py --vary=target_hookpoint="),
        ("sae.arch", "linear", "choose one of topk, batch_topk, relu, gated, jump_relu"),
        ("sae.prefixes", (64, 32), "must rise"),
        ("sae.prefixes", (64, 32_768), "below num_latents=32768"),
        ("sae.auxk_alpha", -1.0, "at least 0"),
        ("sae.bandwidth", 0.0, "above 0"),
        ("train.checkpoint_every_minutes", -1.0, "a finite number, 0 for never or above"),
        ("train.checkpoint_every_minutes", float("inf"), "a finite number, 0 for never or above"),
        ("train.checkpoint_keep_every_steps", -1, "at least 0"),
        ("sae.arch", "topp", "choose one of topk"),
        ("lm.dtype", "float8", "float32, bfloat16"),
        ("data.order", "random", "shuffled, in_order"),
        ("data.order", "shuffled_tokens", "only with data.activations=store"),
        ("data.store_dtype", "int8", "float16, bfloat16, float32"),
        ("data.max_norm_multiple", 0.5, "0 for off, or a finite number from 1 on"),
        ("data.max_norm_multiple", float("nan"), "0 for off, or a finite number from 1 on"),
        ("data.shuffle_buffer_batches", -1, "at least 0"),
        ("sae.skip_connection", True, "only transcoders have it: set target_hookpoint"),
        ("target_hookpoint", "layers.6.mlp", "is hookpoint itself"),
        ("data.skip_tokens", 256, "below data.context_length=256"),
        ("data.epochs", 0, "at least 1"),
        ("train.batch_tokens", 1000, "multiple of data.context_length=256"),
        ("train.optimizer", "sgd", "choose one of adam, signum, muon"),
        ("train.grad_clip", -1.0, "a finite number, 0 for no limit or above"),
        ("train.grad_clip", float("inf"), "a finite number, 0 for no limit or above"),
        ("train.lr_scale", float("nan"), "finite number above 0"),
        ("train.lr_scale", -1.0, "finite number above 0"),
        ("train.adam_b2", 1.0, "[0, 1)"),
        ("train.decoder_bias_init", "median", "geometric_median, mean, zero"),
        ("init_seeds", (), "at least one seed"),
        ("init_seeds", (1, 2, 1), "same seed twice"),
        ("init_seeds", (-1, 2), "[0, 2^32)"),
        ("match.methods", ("hungarian",), "exact, sinkhorn, scipy"),
        ("match.epsilon", 0.0, "above 0"),
        ("match.tolerance", 3.0, "between 0 and 2"),
        ("match.threshold", 1.5, "[-1, 1]"),
    ],
)
def test_bad_values_are_named_with_the_fix(path, value, says):
    cfg = fitting()
    set_field(cfg, path, value)
    with pytest.raises(InputError) as error:
        check(cfg)
    assert path in str(error.value)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_mesh_sizes_are_checked():
    cfg = fitting()
    cfg.mesh = MeshConfig(seed=-1, data=-1, latent=1)
    with pytest.raises(InputError, match="at most one axis may be -1"):
        check(cfg)


def test_shuffle_buffer_is_for_streams():
    check(fitting(data__shuffle_buffer_batches=4))
    with pytest.raises(InputError, match=r"a store has data\.order=shuffled_tokens"):
        check(fitting(data__shuffle_buffer_batches=4, data__activations="store"))


def test_every_choice_and_bound_names_an_existing_field():
    cfg = Config()
    for path in (*config_check._CHOICES, *config_check._AT_LEAST, *config_check._POSITIVE):
        field_value(cfg, path)


@pytest.mark.parametrize(
    ("path", "value"), [("prefixes", (8,)), ("auxk_alpha", 0.1), ("multi_topk", True)]
)
def test_losses_of_topk_are_refused_elsewhere(path, value):
    cfg = fitting(sae__arch="relu", **{f"sae__{path}": value})
    with pytest.raises(InputError, match=rf"sae\.{path}=.*only topk and batch_topk"):
        check(cfg)


def test_a_frozen_decoder_is_one_of_unit_norm():
    check(fitting(sae__arch="gated"))
    check(fitting(sae__arch="gated", sae__unit_decoder=False, sae__gated_auxiliary="attached"))
    with pytest.raises(InputError, match=r"sae\.gated_auxiliary='frozen'.*set it to attached"):
        check(fitting(sae__arch="gated", sae__unit_decoder=False))


@pytest.mark.parametrize(
    ("path", "value", "fix"),
    [
        ("warmup_steps", 10, "set 0"),
        ("grad_clip", 0.5, "set 0"),
        ("adam_b1", 0.5, "leave it at 0.9"),
        ("adam_b2", 0.5, "leave it at 0.999"),
        ("adam_eps", 1e-6, "leave it at 1e-08"),
    ],
)
def test_what_signum_does_not_use_is_refused(path, value, fix):
    cfg = fitting(train__optimizer="signum", **{f"train__{path}": value})
    with pytest.raises(InputError, match=rf"train\.{path}=.*signum does not use it; {fix}"):
        check(cfg)
    cfg.train.optimizer = "muon"
    check(cfg)


def test_signum_may_say_that_it_has_neither_warm_up_nor_clip():
    check(fitting(train__optimizer="signum", train__warmup_steps=0, train__grad_clip=0.0))


CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_preset_passes_the_checks(path):
    namespace = runpy.run_path(str(path))
    check(namespace["get_config"]())
    points(namespace["get_config"](), namespace.get("get_sweep", dict)())
    for part in ("python experiments/", "Hardware", "Time:", "Expect"):
        assert part in namespace["__doc__"]


def test_transcoders_have_a_free_decoder():
    cfg = fitting(target_hookpoint="layers.7.mlp", sae__skip_connection=True)
    with pytest.raises(
        InputError, match=r"sae\.unit_decoder=True: a transcoder's decoder .* False"
    ):
        check(cfg)
    cfg.sae.unit_decoder = False
    check(cfg)
