"""GPT-NeoX against plain numpy, one token and one head at a time."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from saejax.lm import hookpoints, load_lm, logits, make_capture
from saejax.lm.decoder_config import tensor_shapes
from saejax.lm.families import from_json

TINY = {
    "model_type": "gpt_neox",
    "num_hidden_layers": 2,
    "hidden_size": 24,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "vocab_size": 30,
    "max_position_embeddings": 16,
    "rotary_pct": 0.5,
    "rotary_emb_base": 100,
}


def random_weights(config):
    """Every bias and norm counts; names and shapes are those of files, without the prefix."""
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(0.0 if len(shape) == 2 else 0.5, 0.3, shape).astype(np.float32)
        for name, shape in tensor_shapes(config, config.num_layers).items()
    }


def naive_norm(x_D, w, name):
    x_D = (x_D - x_D.mean()) / np.sqrt(x_D.var() + 1e-5)
    return w[f"{name}.weight"] * x_D + w[f"{name}.bias"]


def naive_attention(x_LD, w, heads, rotated, theta):
    length, width = x_LD.shape
    head_width = width // heads
    out_LD = np.zeros_like(x_LD)
    for head in range(heads):
        rows = slice(3 * head * head_width, 3 * (head + 1) * head_width)
        weight = w["attention.query_key_value.weight"][rows]
        bias = w["attention.query_key_value.bias"][rows]
        q_LE, k_LE, v_LE = np.split(x_LD @ weight.T + bias, 3, axis=1)
        for position in range(length):
            for i in range(rotated // 2):
                turn = np.exp(1j * position * theta ** (-2 * i / rotated))
                for x_LE in (q_LE, k_LE):
                    plane = (x_LE[position, i] + 1j * x_LE[position, i + rotated // 2]) * turn
                    x_LE[position, [i, i + rotated // 2]] = plane.real, plane.imag
        for t in range(length):
            score = k_LE[: t + 1] @ q_LE[t] / math.sqrt(head_width)
            p = np.exp(score - score.max())
            mixed = (p / p.sum()) @ v_LE[: t + 1]
            out_LD[t, head * head_width : (head + 1) * head_width] = mixed
    return out_LD @ w["attention.dense.weight"].T + w["attention.dense.bias"]


def naive(weights, tokens_L, parallel):
    erf = np.vectorize(math.erf)
    x_LD = weights["embed_in.weight"][tokens_L]
    seen = {"embed_in": x_LD}
    for layer in range(2):
        name = f"layers.{layer}"
        w = {k.removeprefix(f"{name}."): np.float64(v) for k, v in weights.items()}
        first = np.array([naive_norm(x_D, w, "input_layernorm") for x_D in x_LD])
        attention = naive_attention(first, w, 3, 4, 100.0)
        read = x_LD if parallel else x_LD + attention
        second = np.array([naive_norm(x_D, w, "post_attention_layernorm") for x_D in read])
        inner = second @ w["mlp.dense_h_to_4h.weight"].T + w["mlp.dense_h_to_4h.bias"]
        inner = inner * (1 + erf(inner / math.sqrt(2))) / 2
        mlp = inner @ w["mlp.dense_4h_to_h.weight"].T + w["mlp.dense_4h_to_h.bias"]
        x_LD = x_LD + attention + mlp
        seen |= {
            f"{name}.input_layernorm": first,
            f"{name}.attention": attention,
            f"{name}.post_attention_layernorm": second,
            f"{name}.mlp": mlp,
            name: x_LD,
        }
    w = {k: np.float64(v) for k, v in weights.items()}
    last = np.array([naive_norm(x_D, w, "final_layer_norm") for x_D in x_LD])
    return seen, last @ w["lm_head.weight"].T


@pytest.mark.parametrize("parallel", [True, False])
def test_activations_and_logits_equal_plain_numpy(write_directory, parallel):
    values = TINY | {"use_parallel_residual": parallel}
    weights = random_weights(from_json(values, "config.json"))
    # The names that Pythia's files have.
    named = {f"gpt_neox.{name}": x for name, x in weights.items() if name != "lm_head.weight"}
    named["embed_out.weight"] = weights["lm_head.weight"]
    named["gpt_neox.layers.0.attention.masked_bias"] = np.float32([-1e9])
    lm = load_lm(str(write_directory(values, named, shards=2)))
    tokens_L = np.random.default_rng(1).integers(0, 30, 11)
    expected, expected_LV = naive(weights, tokens_L, parallel)
    names = hookpoints(lm.config)
    found = make_capture(lm, names)(jnp.asarray(tokens_L[None], jnp.int32))
    assert set(names) == set(expected)
    for name in names:
        np.testing.assert_allclose(found[name][0], expected[name], rtol=1e-4, atol=2e-4)
    np.testing.assert_allclose(logits(lm, tokens_L[None])[0], expected_LV, rtol=1e-4, atol=1e-3)
