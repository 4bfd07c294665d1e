"""GPT-2 against plain numpy, one token and one head at a time."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from saejax.errors import InputError
from saejax.lm import hookpoints, load_lm, logits, make_capture
from saejax.lm.decoder_config import tensor_shapes
from saejax.lm.families import from_json

TINY = {
    "model_type": "gpt2",
    "n_layer": 2,
    "n_embd": 24,
    "n_head": 3,
    "n_positions": 16,
    "vocab_size": 30,
    "activation_function": "gelu_new",
}


@pytest.fixture
def weights():
    """Every bias and norm counts; names and shapes are those of OpenAI's file."""
    config = from_json(TINY, "config.json")
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(0.0 if len(shape) == 2 else 0.5, 0.3, shape).astype(np.float32)
        for name, shape in tensor_shapes(config, config.num_layers).items()
    }


def naive_norm(x_D, w, name):
    x_D = (x_D - x_D.mean()) / np.sqrt(x_D.var() + 1e-5)
    return w[f"{name}.weight"] * x_D + w[f"{name}.bias"]


def naive_attention(x_LD, w, heads):
    width = x_LD.shape[1]
    q_LD, k_LD, v_LD = np.split(x_LD @ w["attn.c_attn.weight"] + w["attn.c_attn.bias"], 3, axis=1)
    out_LD = np.zeros_like(x_LD)
    for columns in np.split(np.arange(width), heads):
        for t in range(len(x_LD)):
            score = k_LD[: t + 1, columns] @ q_LD[t, columns] / math.sqrt(width // heads)
            p = np.exp(score - score.max())
            out_LD[t, columns] = (p / p.sum()) @ v_LD[: t + 1, columns]
    return out_LD @ w["attn.c_proj.weight"] + w["attn.c_proj.bias"]


def naive(weights, tokens_L):
    x_LD = weights["wte.weight"][tokens_L] + weights["wpe.weight"][: len(tokens_L)]
    seen = {"drop": x_LD}
    for layer in range(2):
        name = f"h.{layer}"
        w = {k.removeprefix(f"{name}."): np.float64(v) for k, v in weights.items()}
        first = np.array([naive_norm(x_D, w, "ln_1") for x_D in x_LD])
        attention = naive_attention(first, w, 3)
        x_LD = x_LD + attention
        second = np.array([naive_norm(x_D, w, "ln_2") for x_D in x_LD])
        inner = second @ w["mlp.c_fc.weight"] + w["mlp.c_fc.bias"]
        inner = inner / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        mlp = inner @ w["mlp.c_proj.weight"] + w["mlp.c_proj.bias"]
        x_LD = x_LD + mlp
        seen |= {
            f"{name}.ln_1": first,
            f"{name}.attn": attention,
            f"{name}.ln_2": second,
            f"{name}.mlp": mlp,
            name: x_LD,
        }
    w = {k: np.float64(v) for k, v in weights.items()}
    return seen, np.array([naive_norm(x_D, w, "ln_f") for x_D in x_LD]) @ w["wte.weight"].T


def test_activations_and_logits_equal_plain_numpy(write_directory, weights):
    lm = load_lm(str(write_directory(TINY, weights, shards=2)))
    tokens_L = np.random.default_rng(1).integers(0, 30, 11)
    expected, expected_LV = naive(weights, tokens_L)
    names = hookpoints(lm.config)
    found = make_capture(lm, names)(jnp.asarray(tokens_L[None], jnp.int32))
    assert set(names) == set(expected)
    for name in names:
        np.testing.assert_allclose(found[name][0], expected[name], rtol=1e-4, atol=2e-4)
    np.testing.assert_allclose(logits(lm, tokens_L[None])[0], expected_LV, rtol=1e-4, atol=1e-3)


def test_no_window_is_longer_than_the_table_of_positions(write_directory, weights):
    lm = load_lm(str(write_directory(TINY, weights)))
    with pytest.raises(InputError, match=r"context_length=17: .* at most 16 tokens"):
        make_capture(lm, ["drop"])(jnp.zeros((1, 17), jnp.int32))


def test_a_kernel_that_lies_the_other_way_is_refused(write_directory, weights):
    turned = weights | {"h.1.mlp.c_fc.weight": weights["h.1.mlp.c_fc.weight"].T.copy()}
    with pytest.raises(InputError, match=r"h\.1\.mlp\.c_fc\.weight has shape \[96, 24\]"):
        load_lm(str(write_directory(TINY, turned)))
