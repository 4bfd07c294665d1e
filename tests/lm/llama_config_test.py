"""Configurations as transformers 4 and 5 write them, and those that no plain Llama has."""

import pytest
import transformers

from saejax.errors import InputError
from saejax.lm.llama_config import from_json, tensor_shapes


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 5e5},
        {"rope_theta": 5e5, "rope_scaling": None},
        {"rope_theta": None, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}, "rope_theta": 5e5},
    ],
)
def test_rope_theta_of_transformers_4_and_5(tiny, rope):
    assert from_json(tiny(**rope), "config.json").rope_theta == 5e5


def test_what_transformers_writes(tiny):
    theirs = transformers.LlamaConfig(**tiny(rope_parameters={"rope_theta": 300.0}))
    found = from_json(theirs.to_dict(), "config.json")
    assert found == from_json(tiny(), "config.json")
    defaults = from_json(transformers.LlamaConfig().to_dict(), "config.json")
    needed = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
    short = {name: getattr(transformers.LlamaConfig(), name) for name in (*needed, "vocab_size")}
    assert from_json(short, "config.json") == defaults


def test_tensors_of_a_partial_model(tiny):
    config = from_json(tiny(tie_word_embeddings=False), "config.json")
    assert len(tensor_shapes(config, 0)) == 1
    assert len(tensor_shapes(config, 2)) == 1 + 2 * 9
    assert len(tensor_shapes(config, 3)) == 1 + 3 * 9 + 2
    assert tensor_shapes(config, 1)["layers.0.self_attn.k_proj.weight"] == (32, 32)
    assert tensor_shapes(config, 1)["layers.0.self_attn.q_proj.weight"] == (64, 32)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": None}, "hidden_size=None must be a number"),
        ({"hidden_size": "32"}, "hidden_size='32' must be a number"),
        ({"hidden_size": 32.5}, r"hidden_size=32\.5 must be a number"),
        ({"num_hidden_layers": True}, "num_hidden_layers=True must be a number"),
        ({"num_hidden_layers": 0}, "num_layers=0 must be finite and above 0"),
        ({"num_attention_heads": 0, "num_key_value_heads": None}, "num_heads=0"),
        ({"num_key_value_heads": 3}, "num_kv_heads=3.*divide evenly"),
        ({"head_dim": 7}, "head_dim=7.*even width"),
        ({"rms_norm_eps": -1e-5}, "rms_eps=-1e-05"),
        ({"rope_theta": float("inf")}, "rope_theta=inf"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported, only 'silu'"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"mlp_bias": True}, "mlp_bias=True"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type='linear'"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "rope_type='llama3'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, r"partial_rotary_factor=0\.5"),
        ({"rope_parameters": "llama3"}, "rope_parameters='llama3' must be an object"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config="),
    ],
)
def test_other_models_are_refused(tiny, changes, words):
    with pytest.raises(InputError, match=f"the file: .*{words}"):
        from_json(tiny(**changes), "the file")
