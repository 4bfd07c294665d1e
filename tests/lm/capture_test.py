"""Activations and losses against a Llama in plain numpy; the packaged model against PyTorch."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from saejax.config import SAMPLE_LM, SAMPLE_TEXT, MeshConfig
from saejax.errors import InputError
from saejax.lm import (
    check_tokens,
    cross_entropy,
    hookpoints,
    layers_needed,
    load_lm,
    load_tokenizer,
    logits,
    make_capture,
    token_losses,
)
from saejax.mesh import BATCH, make_mesh
from saejax.sources import resolve


def naive_norm(x_D, weight_D, eps):
    return weight_D * x_D / np.sqrt(np.mean(x_D**2) + eps)


def naive_rotate(x_E, position, theta):
    """Turns the plane of dimensions i and i + E/2 by position x theta^(-2i/E)."""
    half = len(x_E) // 2
    turned_E = np.empty_like(x_E)
    for i in range(half):
        angle = position * theta ** (-2 * i / len(x_E))
        turned_E[i] = x_E[i] * np.cos(angle) - x_E[i + half] * np.sin(angle)
        turned_E[i + half] = x_E[i + half] * np.cos(angle) + x_E[i] * np.sin(angle)
    return turned_E


def naive_attention(x_LD, weights, config):
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    width, theta = config["head_dim"], config["rope_theta"]
    out_LD = np.zeros_like(x_LD)
    for t in range(len(x_LD)):
        mixed = []
        for head in range(heads):
            group = head // (heads // groups)
            rows = slice(head * width, (head + 1) * width)
            group_rows = slice(group * width, (group + 1) * width)
            q_E = naive_rotate(weights["self_attn.q_proj"][rows] @ x_LD[t], t, theta)
            scores, values = [], []
            for s in range(t + 1):
                key_E = weights["self_attn.k_proj"][group_rows] @ x_LD[s]
                scores.append(q_E @ naive_rotate(key_E, s, theta) / np.sqrt(width))
                values.append(weights["self_attn.v_proj"][group_rows] @ x_LD[s])
            p = np.exp(np.array(scores) - max(scores))
            mixed.append((p / p.sum()) @ np.array(values))
        out_LD[t] = weights["self_attn.o_proj"] @ np.concatenate(mixed)
    return out_LD


def naive_llama(config, weights, tokens_L):
    """Every activation by hook point, and the logits, for one window, in float64."""
    weights = {name.removeprefix("model."): np.float64(x) for name, x in weights.items()}
    eps = config["rms_norm_eps"]
    x_LD = np.array([weights["embed_tokens.weight"][token] for token in tokens_L])
    seen = {"embed_tokens": x_LD}
    for layer in range(config["num_hidden_layers"]):
        name = f"layers.{layer}"
        block = {
            key.removeprefix(name + ".").removesuffix(".weight"): value
            for key, value in weights.items()
            if key.startswith(name + ".")
        }
        y_LD = np.array([naive_norm(x_D, block["input_layernorm"], eps) for x_D in x_LD])
        seen[f"{name}.input_layernorm"] = y_LD
        seen[f"{name}.self_attn"] = naive_attention(y_LD, block, config)
        x_LD = x_LD + seen[f"{name}.self_attn"]
        weight_D = block["post_attention_layernorm"]
        mlp_input = [naive_norm(x_D, weight_D, eps) for x_D in x_LD]
        seen[f"{name}.post_attention_layernorm"] = np.array(mlp_input)
        mlp = []
        for y_D in mlp_input:
            gate_F = block["mlp.gate_proj"] @ y_D
            up_F = block["mlp.up_proj"] @ y_D
            mlp.append(block["mlp.down_proj"] @ (gate_F / (1 + np.exp(-gate_F)) * up_F))
        seen[f"{name}.mlp"] = np.array(mlp)
        x_LD = x_LD + seen[f"{name}.mlp"]
        seen[name] = x_LD
    head_VD = weights.get("lm_head.weight", weights["embed_tokens.weight"])
    x_LD = np.array([naive_norm(x_D, weights["norm.weight"], eps) for x_D in x_LD])
    return seen, x_LD @ head_VD.T


def naive_losses(logits_LV, tokens_L):
    return [
        np.log(np.exp(logits_V).sum()) - logits_V[target]
        for logits_V, target in zip(logits_LV[:-1], tokens_L[1:], strict=True)
    ]


@pytest.mark.parametrize(
    ("changes", "shards", "length", "names"),
    [
        ({}, 1, 17, None),
        ({}, 1, 1, ["layers.1"]),
        ({}, 1, 2, ["layers.1.mlp"]),
        ({"tie_word_embeddings": False}, 3, 17, ["layers.0.mlp"]),
        ({"num_key_value_heads": 4, "head_dim": 6}, 1, 17, ["layers.1"]),
        ({"num_key_value_heads": 1, "hidden_size": 20}, 2, 17, ["layers.1.self_attn"]),
    ],
    ids=["all", "one token", "two tokens", "untied", "no groups", "one key-value head"],
)
def test_activations_and_losses_equal_plain_numpy(
    tiny, random_weights, write_directory, changes, shards, length, names
):
    config = tiny(num_hidden_layers=2, **changes)
    weights = random_weights(config)
    lm = load_lm(str(write_directory(config, weights, shards=shards)))
    tokens_BL = np.random.default_rng(length).integers(0, config["vocab_size"], (2, length))
    expected = [naive_llama(config, weights, tokens_L) for tokens_L in tokens_BL]
    assert set(hookpoints(lm.config)) == set(expected[0][0])
    names = names or hookpoints(lm.config)
    together = make_capture(lm, names)(jnp.asarray(tokens_BL, jnp.int32))
    assert set(together) == set(names)
    for hookpoint in names:
        x_BLD = make_capture(lm, [hookpoint])(jnp.asarray(tokens_BL, jnp.int32))[hookpoint]
        np.testing.assert_allclose(together[hookpoint], x_BLD, atol=1e-5)
        naive_BLD = np.array([seen[hookpoint] for seen, _ in expected])
        assert x_BLD.dtype == jnp.float32
        assert np.abs(x_BLD - naive_BLD).max() <= 2e-5 * np.abs(naive_BLD).max(), hookpoint
    naive_BLV = np.array([out for _, out in expected])
    np.testing.assert_allclose(logits(lm, tokens_BL), naive_BLV, atol=2e-4)
    if length > 1:
        loss_BL = [naive_losses(*pair) for pair in zip(naive_BLV, tokens_BL, strict=True)]
        np.testing.assert_allclose(token_losses(lm, tokens_BL), loss_BL, atol=2e-4)
        assert cross_entropy(lm, tokens_BL) == pytest.approx(np.mean(loss_BL), abs=1e-4)


def test_partial_model_gives_what_the_full_one_does(tiny, random_weights, write_directory):
    config = tiny(tie_word_embeddings=False)
    folder = str(write_directory(config, random_weights(config)))
    full = load_lm(folder)
    tokens_BL = jnp.arange(24, dtype=jnp.int32).reshape(2, 12)
    for hookpoint in ("embed_tokens", "layers.0", "layers.1.mlp", "layers.2.self_attn"):
        needed = layers_needed(full.config, hookpoint)
        part = load_lm(folder, num_layers=needed)
        assert part.config == full.config
        assert part.fingerprint == full.fingerprint
        np.testing.assert_array_equal(
            make_capture(part, [hookpoint])(tokens_BL)[hookpoint],
            make_capture(full, [hookpoint])(tokens_BL)[hookpoint],
        )


def test_later_tokens_do_not_change_earlier_activations(tiny, random_weights, write_directory):
    config = tiny()
    lm = load_lm(str(write_directory(config, random_weights(config))))
    capture = make_capture(lm, ["layers.2"])
    tokens_BL = jnp.arange(20, dtype=jnp.int32)[None]
    changed_BL = tokens_BL.at[0, 11].set(40)
    x_BLD, changed_BLD = capture(tokens_BL)["layers.2"], capture(changed_BL)["layers.2"]
    np.testing.assert_array_equal(x_BLD[:, :11], changed_BLD[:, :11])
    assert (x_BLD[:, 11:] != changed_BLD[:, 11:]).any(axis=(0, 2)).all()


def test_windows_split_over_devices(tiny, random_weights, write_directory):
    config = tiny()
    folder = str(write_directory(config, random_weights(config)))
    mesh = make_mesh(MeshConfig())
    split = NamedSharding(mesh, BATCH)
    tokens_BL = np.random.default_rng(0).integers(0, 48, (16, 9)).astype(np.int32)
    capture = make_capture(load_lm(folder, mesh=mesh), ["layers.1.mlp"])
    x_BLD = capture(jax.device_put(tokens_BL, split))["layers.1.mlp"]
    assert x_BLD.sharding.is_equivalent_to(split, 3)
    capture = make_capture(load_lm(folder), ["layers.1.mlp"])
    alone_BLD = capture(jnp.asarray(tokens_BL))["layers.1.mlp"]
    np.testing.assert_allclose(x_BLD, alone_BLD, atol=1e-4)


def test_bfloat16_is_near_float32(tiny, random_weights, write_directory):
    config = tiny()
    folder = str(write_directory(config, random_weights(config)))
    tokens_BL = jnp.arange(32, dtype=jnp.int32).reshape(2, 16)
    exact_BLD = make_capture(load_lm(folder), ["layers.2"])(tokens_BL)["layers.2"]
    rough_BLD = make_capture(load_lm(folder, dtype="bfloat16"), ["layers.2"])(tokens_BL)["layers.2"]
    assert rough_BLD.dtype == jnp.bfloat16
    error = jnp.linalg.norm(rough_BLD.astype(jnp.float32) - exact_BLD)
    assert 0 < error / jnp.linalg.norm(exact_BLD) < 0.03


def test_losses_of_more_tokens_than_are_held_at_once(tiny, random_weights, write_directory):
    config = tiny()
    lm = load_lm(str(write_directory(config, random_weights(config))))
    tokens_BL = np.random.default_rng(0).integers(0, 48, (9, 37))
    all_BLV = np.asarray(logits(lm, tokens_BL), np.float64)
    expected_BL = [naive_losses(*pair) for pair in zip(all_BLV, tokens_BL, strict=True)]
    np.testing.assert_allclose(token_losses(lm, tokens_BL), expected_BL, atol=1e-5)


def test_windows_longer_than_those_of_training(tiny, random_weights, write_directory):
    """Rotary positions have no end."""
    config = tiny()
    weights = random_weights(config)
    lm = load_lm(str(write_directory(config, weights)))
    tokens_BL = np.random.default_rng(0).integers(0, config["vocab_size"], (1, 65))
    with pytest.warns(UserWarning, match=r"context_length=65.*trained on.* at most 64"):
        x_BLD = make_capture(lm, ["layers.1"])(jnp.asarray(tokens_BL, jnp.int32))["layers.1"]
    naive_LD = naive_llama(config, weights, tokens_BL[0])[0]["layers.1"]
    assert np.abs(x_BLD[0] - naive_LD).max() <= 2e-5 * np.abs(naive_LD).max()
    with pytest.warns(UserWarning, match="context_length=65"):
        token_losses(lm, tokens_BL)


def test_what_cannot_be_captured_is_said(tiny, random_weights, write_directory):
    config = tiny()
    folder = str(write_directory(config, random_weights(config)))
    lm, part = load_lm(folder), load_lm(folder, num_layers=1)
    with pytest.raises(InputError, match=r"layers\.1\.mlp' needs 2 layers.*num_layers=1"):
        make_capture(part, ["layers.1.mlp"])
    with pytest.raises(InputError, match="layers 0 to 2"):
        make_capture(lm, ["layers.3"])
    tokens_BL = np.zeros((1, 5), np.int32)
    for function in (logits, token_losses, cross_entropy):
        with pytest.raises(InputError, match=r"all 3 layers.*num_layers=1"):
            function(part, tokens_BL)
        with pytest.raises(InputError, match="from 0 to 48 do not fit a vocabulary of 48"):
            function(lm, np.array([[0, 48]]))
    with pytest.raises(InputError, match="windows of 1 tokens"):
        cross_entropy(lm, tokens_BL[:, :1])
    with pytest.raises(InputError, match="from -1 to 0"):
        check_tokens(lm.config, np.array([-1, 0]))
    check_tokens(lm.config, np.array([0, 47]))
    check_tokens(lm.config, np.array([], np.int32))


@pytest.fixture(scope="module")
def packaged():
    """The packaged model, and the first 5,318 tokens of the packaged text."""
    tokenizer = load_tokenizer(SAMPLE_LM)
    records = json.loads(resolve(SAMPLE_TEXT).read_text())
    texts = [record["extract"] for record in records.values()]
    [ids] = tokenizer.encode_batch(["\n\n".join(texts[:60])])
    return load_lm(SAMPLE_LM), np.array(ids[:5318])


def test_loss_of_the_packaged_model(packaged):
    lm, tokens = packaged
    # transformers 5.23 with torch 2.13 on the CPU, which reads the same GGUF file: 2.77720.
    assert cross_entropy(lm, tokens[:1024].reshape(4, 256)) == pytest.approx(2.77720, abs=1e-3)


@pytest.mark.slow
def test_loss_of_the_packaged_model_in_long_context(packaged):
    """2.675 nats per token, on the first 5,318 tokens of the extracts joined by blank lines.

    The reference of 2.675 came without its context length, and the value depends on it: 2.796,
    2.734, 2.694 in windows of 512, 1,024, 2,048. 4,096 was picked because it meets the
    reference; the independent check is transformers 5.23 with torch 2.13, which reads the same
    GGUF file and gives 2.67504 on the same tokens.
    """
    lm, tokens = packaged
    losses = [token_losses(lm, window[None]) for window in (tokens[:4096], tokens[4096:])]
    mean = np.concatenate(losses, axis=1, dtype=np.float64).mean()
    assert mean == pytest.approx(2.675, abs=0.01)
    assert mean == pytest.approx(2.67504, abs=1e-3)
