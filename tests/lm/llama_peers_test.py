"""Activations at every hook point against Hugging Face's Llama in PyTorch."""

import jax.numpy as jnp
import numpy as np
import pytest

from saejax.lm import hookpoints, load_lm, logits, make_capture

torch = pytest.importorskip("torch")


def hooked(model, tokens_BL):
    """What forward hooks see at every hook point, and the logits."""
    seen = {}

    def keep(name):
        def hook(module, inputs, output):
            seen[name] = (output[0] if isinstance(output, tuple) else output).detach().numpy()

        return hook

    for name, module in model.model.named_modules():
        if name == "embed_tokens" or (name.startswith("layers.") and name.count(".") == 1):
            module.register_forward_hook(keep(name))
        if name.endswith((".mlp", ".self_attn", "_layernorm")):
            module.register_forward_hook(keep(name))
    with torch.no_grad():
        out = model(torch.tensor(tokens_BL)).logits.numpy()
    return seen, out


@pytest.mark.parametrize("tied", [True, False])
def test_hidden_activations_equal_transformers(tiny, tmp_path, tied):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    values = tiny(tie_word_embeddings=tied, initializer_range=0.2)
    values.pop("rope_theta")
    model = LlamaForCausalLM(LlamaConfig(**values, rope_parameters={"rope_theta": 300.0})).eval()
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    lm = load_lm(str(tmp_path))
    tokens_BL = np.random.default_rng(0).integers(0, values["vocab_size"], (3, 40))
    seen, out = hooked(model, tokens_BL)
    assert set(seen) == set(hookpoints(lm.config))
    for hookpoint, expected in seen.items():
        x_BLD = make_capture(lm, [hookpoint])(jnp.asarray(tokens_BL, jnp.int32))[hookpoint]
        assert np.abs(x_BLD - expected).max() <= 2e-5 * np.abs(expected).max(), hookpoint
    np.testing.assert_allclose(logits(lm, tokens_BL), out, atol=1e-4 * np.abs(out).max())
