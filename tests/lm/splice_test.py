"""Replaced activations: what changes nothing, what weights of zero give, and what is refused.

Against forward hooks in PyTorch: families_peers_test.py.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from saejax.errors import InputError
from saejax.lm import load_lm, make_capture, token_losses
from saejax.lm.splice import splice


@pytest.fixture
def tokens_BL():
    return np.random.default_rng(0).integers(0, 48, (3, 20))


@pytest.fixture
def model(tiny, random_weights, write_directory):
    """Makes a model of two layers, in which some weights are 0."""

    def make(name, zero=()):
        config = tiny(num_hidden_layers=2)
        weights = random_weights(config)
        return load_lm(
            str(
                write_directory(
                    config,
                    {n: x * (not n.endswith(tuple(zero) or " ")) for n, x in weights.items()},
                    name=name,
                )
            )
        )

    return make


def test_its_own_activations_change_nothing(model, tokens_BL):
    lm = model("whole")
    names = ("embed_tokens", "layers.0.self_attn", "layers.1")
    seen = make_capture(lm, names)(jnp.asarray(tokens_BL, jnp.int32))
    losses_BL = token_losses(lm, tokens_BL)
    for name in names:
        found = splice(lm, tokens_BL, name, seen[name][None])
        np.testing.assert_allclose(found.loss, losses_BL, atol=1e-5)
        np.testing.assert_allclose(found.replaced_loss[0], losses_BL, atol=1e-5)
        np.testing.assert_allclose(found.kl, 0, atol=1e-7)


def test_zeros_are_a_part_whose_last_weights_are_zero(model, tokens_BL):
    lm = model("whole")
    zeros = jnp.zeros((1, 3, 20, lm.config.d_model))
    for part, weight in (("mlp", "mlp.down_proj"), ("self_attn", "self_attn.o_proj")):
        without = model(part, [f"layers.0.{weight}.weight"])
        found = splice(lm, tokens_BL, f"layers.0.{part}", zeros)
        np.testing.assert_allclose(
            found.replaced_loss[0], token_losses(without, tokens_BL), atol=1e-5
        )
        assert found.kl.mean() > 0.01


def test_replacements_do_not_see_each_other_nor_the_future(model, tokens_BL):
    lm = model("whole")
    y_RBLD = np.random.default_rng(1).normal(size=(3, 3, 20, lm.config.d_model))
    together = splice(lm, tokens_BL, "layers.0.mlp", np.float32(y_RBLD))
    for i in range(3):
        alone = splice(lm, tokens_BL, "layers.0.mlp", np.float32(y_RBLD[i : i + 1]))
        np.testing.assert_allclose(together.replaced_loss[i], alone.replaced_loss[0], atol=1e-5)
        np.testing.assert_allclose(together.kl[i], alone.kl[0], atol=1e-5)
    own_BLD = make_capture(lm, ["layers.0.mlp"])(jnp.asarray(tokens_BL, jnp.int32))["layers.0.mlp"]
    late = splice(lm, tokens_BL, "layers.0.mlp", own_BLD.at[:, 12:].add(1.0)[None])
    np.testing.assert_allclose(late.replaced_loss[0, :, :12], late.loss[:, :12], atol=1e-5)
    assert (late.kl[0, :, 12:] > 1e-4).all()


def test_what_cannot_be_spliced_is_said(tiny, random_weights, write_directory, tokens_BL):
    config = tiny()
    folder = str(write_directory(config, random_weights(config)))
    lm = load_lm(folder)
    zeros = np.zeros((1, 3, 20, 32), np.float32)
    with pytest.raises(InputError, match=r"all 3 layers.*num_layers=2"):
        splice(load_lm(folder, num_layers=2), tokens_BL, "layers.0", zeros)
    with pytest.raises(InputError, match="layers 0 to 2"):
        splice(lm, tokens_BL, "layers.3", zeros)
    with pytest.raises(InputError, match="do not fit a vocabulary of 48"):
        splice(lm, tokens_BL + 40, "layers.0", zeros)
    with pytest.raises(InputError, match="windows of 1 tokens"):
        splice(lm, tokens_BL[:, :1], "layers.0", zeros[:, :, :1])
