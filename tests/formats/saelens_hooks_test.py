"""Names of hook points: to TransformerLens', and back where the model is known."""

import pytest

from saejax.formats import saelens_hooks


@pytest.mark.parametrize(
    ("hookpoint", "name"),
    [
        ("layers.6", "blocks.6.hook_resid_post"),
        ("h.11.mlp", "blocks.11.hook_mlp_out"),
        ("layers.0.self_attn", "blocks.0.hook_attn_out"),
        ("layers.0.attention", "blocks.0.hook_attn_out"),
        ("h.0.attn", "blocks.0.hook_attn_out"),
        ("h.0.ln_1", "h.0.ln_1"),
        ("embed_tokens", "embed_tokens"),
        ("", ""),
    ],
)
def test_hook_names(hookpoint, name):
    assert saelens_hooks.hook_name(hookpoint) == name


@pytest.mark.parametrize(
    ("model", "hook", "hookpoint"),
    [
        ("gpt2-small", "blocks.6.hook_mlp_out", "h.6.mlp"),
        ("gpt2", "blocks.6.hook_attn_out", "h.6.attn"),
        ("EleutherAI/pythia-70m-deduped", "blocks.3.hook_attn_out", "layers.3.attention"),
        ("meta-llama/Llama-3.2-1B", "blocks.3.hook_attn_out", "layers.3.self_attn"),
        ("gpt2-small", "blocks.8.hook_resid_pre", "h.7"),
        ("gpt2-small", "blocks.0.hook_resid_pre", None),
        ("gpt2-small", "blocks.8.hook_resid_post", "h.8"),
        ("gpt2-small", "blocks.8.attn.hook_z", None),
        ("gpt2-small", f"blocks.{'9' * 5000}.hook_mlp_out", None),
        ("gemma-2-2b", "blocks.8.hook_mlp_out", None),
        (None, "blocks.8.hook_mlp_out", None),
        ("gpt2-small", None, None),
    ],
)
def test_hook_points(model, hook, hookpoint):
    assert saelens_hooks.hookpoint(hook, {"model_name": model}) == hookpoint


def test_models_with_changed_activations_have_no_hook_point():
    changed = {"model_name": "gpt2", "model_from_pretrained_kwargs": {"center_writing_weights": 1}}
    assert saelens_hooks.hookpoint("blocks.6.hook_mlp_out", changed) is None
