"""Activations at every hook point, logits and loss against Hugging Face's models in PyTorch."""

import jax.numpy as jnp
import numpy as np
import pytest

from saejax.lm import cross_entropy, hookpoints, load_lm, logits, make_capture
from saejax.lm.families import FAMILIES
from saejax.lm.splice import splice

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCABULARY = 48
LLAMA = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
}
NEOX = {name: value for name, value in LLAMA.items() if name != "num_key_value_heads"}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "vocab_size": VOCABULARY}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
MODELS = {
    "llama": ("Llama", LLAMA | {"tie_word_embeddings": True}),
    "llama biases": ("Llama", LLAMA | {"attention_bias": True, "mlp_bias": True, "head_dim": 16}),
    "llama rope llama3": ("Llama", LLAMA | {"rope_parameters": LLAMA3}),
    "llama rope linear": (
        "Llama",
        LLAMA | {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e3}},
    ),
    "llama rope dynamic": (
        "Llama",
        LLAMA | {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e3}},
    ),
    # The window is as long as the longest text here, which it therefore does not limit.
    "mistral": ("Mistral", LLAMA | {"sliding_window": 257}),
    "qwen2": ("Qwen2", LLAMA | {"tie_word_embeddings": True}),
    "gpt_neox": ("GPTNeoX", NEOX | {"rope_parameters": {"partial_rotary_factor": 0.5}}),
    "gpt_neox sequential": (
        "GPTNeoX",
        NEOX
        | {
            "use_parallel_residual": False,
            "tie_word_embeddings": True,
            "attention_bias": False,
            "hidden_act": "gelu_fast",
            "rope_parameters": {"partial_rotary_factor": 1.0},
        },
    ),
    "gpt2": ("GPT2", GPT2),
    "gpt2 untied": ("GPT2", GPT2 | {"tie_word_embeddings": False, "n_inner": 40}),
}


def random_model(kind, values):
    """Weights large enough for every part to matter; no norm and no bias is trivial."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**values)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.2)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def hooked(model, names, tokens_BL):
    """What forward hooks see at hook points, and the logits and loss."""
    seen = {}

    def keep(name):
        def hook(module, inputs, output):
            seen[name] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [
        model.base_model.get_submodule(name).register_forward_hook(keep(name)) for name in names
    ]
    tokens = torch.tensor(tokens_BL)
    with torch.no_grad():
        out = model(tokens, labels=tokens)
    for handle in handles:
        handle.remove()
    return {name: x.float().numpy() for name, x in seen.items()}, out


def error(found, expected):
    """Largest absolute difference, relative to the largest entry."""
    return np.abs(np.asarray(found, np.float32) - expected).max() / np.abs(expected).max()


def mean_error(found, expected):
    """Norm of the difference, relative to that of what is expected."""
    return np.linalg.norm(np.asarray(found, np.float32) - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("name", MODELS)
def test_activations_logits_and_loss(name, tmp_path):
    model = random_model(*MODELS[name])
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    lm = load_lm(str(tmp_path))
    names = hookpoints(lm.config)
    assert len(names) == 1 + 2 * 5
    capture = make_capture(lm, names)
    rng = np.random.default_rng(0)
    # Each length compiles; what sets variants of a block apart shows in the longest.
    for length in (1, 2, 17, 257) if name in ("llama", "gpt_neox", "gpt2") else (257,):
        tokens_BL = rng.integers(0, VOCABULARY, (2, length))
        expected, out = hooked(model, names, tokens_BL)
        found = capture(jnp.asarray(tokens_BL, jnp.int32))
        for hookpoint in names:
            assert error(found[hookpoint], expected[hookpoint]) <= 2e-4, (hookpoint, length)
    assert error(logits(lm, tokens_BL), out.logits.numpy()) <= 2e-4
    if name in FAMILIES:
        assert cross_entropy(lm, tokens_BL) == pytest.approx(out.loss.item(), rel=2e-4)


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("llama", ["embed_tokens", "layers.0.self_attn", "layers.1.post_attention_layernorm"]),
        ("gpt_neox", ["layers.0.mlp", "layers.1.post_attention_layernorm"]),
        pytest.param(
            "gpt_neox sequential",
            ["layers.0", "layers.1.input_layernorm"],
            marks=pytest.mark.slow,
        ),
        ("gpt2", ["drop", "h.0.attn", "h.1.ln_2"]),
    ],
)
def test_spliced_as_by_hooks_that_replace_outputs(name, names, tmp_path):
    model = random_model(*MODELS[name])
    model.save_pretrained(tmp_path)
    lm = load_lm(str(tmp_path))
    capture = make_capture(lm, names)
    tokens_BL = np.random.default_rng(0).integers(0, VOCABULARY, (2, 17))
    tokens = torch.tensor(tokens_BL)

    def logp(logits_BLV):
        return torch.log_softmax(logits_BLV[:, :-1].double(), -1)

    with torch.no_grad():
        own_BLV = logp(model(tokens).logits)
    for hookpoint in names:

        def replace(module, inputs, output):
            if isinstance(output, tuple):
                return (output[0].flip(-1) / 2, *output[1:])
            return output.flip(-1) / 2

        handle = model.base_model.get_submodule(hookpoint).register_forward_hook(replace)
        with torch.no_grad():
            found_BLV = logp(model(tokens).logits)
        handle.remove()
        seen_BLD = capture(jnp.asarray(tokens_BL, jnp.int32))[hookpoint]
        spliced = splice(lm, tokens_BL, hookpoint, seen_BLD[None, ..., ::-1] / 2)
        targets = tokens[:, 1:, None]
        for ours, theirs in (
            (spliced.loss, -own_BLV.gather(-1, targets)[..., 0]),
            (spliced.replaced_loss[0], -found_BLV.gather(-1, targets)[..., 0]),
            (spliced.kl[0], (own_BLV.exp() * (own_BLV - found_BLV)).sum(-1)),
        ):
            assert error(ours, theirs.numpy()) <= 2e-4, hookpoint
        assert spliced.kl.min() > -1e-6
        assert np.asarray(spliced.kl).mean() > 1e-3, hookpoint


@pytest.mark.parametrize("name", ["llama biases", "qwen2", "gpt_neox", "gpt2"])
def test_bfloat16(name, tmp_path):
    """Against float32 products of the same weights: both sides' rounding is no reference."""
    model = random_model(*MODELS[name]).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    lm = load_lm(str(tmp_path), dtype="bfloat16")
    names = hookpoints(lm.config)
    tokens_BL = np.random.default_rng(0).integers(0, VOCABULARY, (2, 257))
    expected, out = hooked(model.float(), names, tokens_BL)
    found = make_capture(lm, names)(jnp.asarray(tokens_BL, jnp.int32))
    for hookpoint in names:
        assert found[hookpoint].dtype == jnp.bfloat16
        assert mean_error(found[hookpoint], expected[hookpoint]) <= 2e-2, hookpoint
    assert mean_error(logits(lm, tokens_BL), out.logits.numpy()) <= 2e-2
    assert cross_entropy(lm, tokens_BL) == pytest.approx(out.loss.item(), rel=2e-2)


def test_files_of_2023(tmp_path):
    """Names and buffers of older checkpoints: Pythia's `embed_out` and masks, GPT-2's masks."""
    from safetensors.torch import load_file, save_file

    for name, prefix, extra in (
        (
            "gpt_neox",
            "gpt_neox.layers.1.attention",
            {
                "bias": torch.ones(1, 1, 8, 8, dtype=torch.bool),
                "masked_bias": torch.tensor(-1e9),
                "rotary_emb.inv_freq": torch.ones(2),
            },
        ),
        ("gpt2", "h.1.attn", {"bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8)}),
    ):
        folder = tmp_path / name
        model = random_model(*MODELS[name])
        model.save_pretrained(folder)
        tokens_BL = np.random.default_rng(0).integers(0, VOCABULARY, (1, 9))
        expected = logits(load_lm(str(folder)), tokens_BL)
        tensors = load_file(folder / "model.safetensors")
        tensors = {n.removeprefix("transformer."): x for n, x in tensors.items()}
        tensors |= {f"{prefix}.{buffer}": x for buffer, x in extra.items()}
        if "lm_head.weight" in tensors:
            tensors["embed_out.weight"] = tensors.pop("lm_head.weight")
        save_file(tensors, folder / "model.safetensors")
        np.testing.assert_array_equal(logits(load_lm(str(folder)), tokens_BL), expected)
