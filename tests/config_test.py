"""The configuration: checks name the value, presets have their sources."""

import dataclasses

import pytest

from saejax import config
from saejax.config import Config
from saejax.errors import InputError


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
    config.check(fitting())
    config.check(Config())


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("sae.k", 2_000_000, "must not exceed sae.num_latents=32768"),
        ("sae.k", 0, "at least 1"),
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
        ("sae.skip_connection", True, "only transcoders have it: set target_hookpoint"),
        ("target_hookpoint", "layers.6.mlp", "is hookpoint itself"),
        ("data.skip_tokens", 256, "below data.context_length=256"),
        ("data.epochs", 0, "at least 1"),
        ("train.batch_tokens", 1000, "multiple of data.context_length=256"),
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
        config.check(cfg)
    assert path in str(error.value)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_mesh_sizes_are_checked():
    cfg = fitting()
    cfg.mesh = config.MeshConfig(seed=-1, data=-1, latent=1)
    with pytest.raises(InputError, match="at most one axis may be -1"):
        config.check(cfg)


def test_every_choice_and_bound_names_an_existing_field():
    cfg = Config()
    for path in (*config._CHOICES, *config._AT_LEAST, *config._POSITIVE):
        config.field_value(cfg, path)


@pytest.mark.parametrize(
    ("path", "value"), [("prefixes", (8,)), ("auxk_alpha", 0.1), ("multi_topk", True)]
)
def test_losses_of_topk_are_refused_elsewhere(path, value):
    cfg = fitting(sae__arch="relu", **{f"sae__{path}": value})
    with pytest.raises(InputError, match=rf"sae\.{path}=.*only topk and batch_topk"):
        config.check(cfg)


def test_transcoders_have_a_free_decoder():
    cfg = fitting(target_hookpoint="layers.7.mlp", sae__skip_connection=True)
    with pytest.raises(
        InputError, match=r"sae\.unit_decoder=True: a transcoder's decoder .* False"
    ):
        config.check(cfg)
    cfg.sae.unit_decoder = False
    config.check(cfg)


def test_learning_rate_is_the_papers():
    # sparsify, December 2024: 1.414e-4 at 32,768 latents, 7.07e-5 at 131,072.
    assert config.learning_rate(fitting()) == pytest.approx(1.414e-4, rel=1e-3)
    assert config.learning_rate(fitting(sae__num_latents=131_072)) == pytest.approx(7.07e-5, 1e-3)


def test_all_fields_are_typed_records_or_plain_values():
    for field in dataclasses.fields(Config):
        assert dataclasses.is_dataclass(field.type) or field.type in (int, str, tuple[int, ...])
