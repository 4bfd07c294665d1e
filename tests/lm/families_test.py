"""Configurations as transformers 4 and 5 write them, and those that cannot be run."""

import pytest
import transformers

from saejax.errors import InputError
from saejax.lm.decoder_config import tensor_shapes
from saejax.lm.families import FAMILIES, from_json
from saejax.lm.rope import Rope

# Enough of a config.json for each family, with every number different.
SMALL = {
    "llama": {
        "num_hidden_layers": 3,
        "hidden_size": 48,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "vocab_size": 50,
        "max_position_embeddings": 512,
    },
    "gpt_neox": {
        "num_hidden_layers": 3,
        "hidden_size": 48,
        "num_attention_heads": 3,
        "intermediate_size": 64,
        "vocab_size": 50,
        "max_position_embeddings": 512,
    },
    "gpt2": {"n_layer": 3, "n_embd": 48, "n_head": 6, "vocab_size": 50, "n_positions": 512},
}
SMALL["mistral"] = SMALL["llama"] | {"sliding_window": None}
SMALL["qwen2"] = SMALL["llama"]
CLASSES = {
    "llama": transformers.LlamaConfig,
    "mistral": transformers.MistralConfig,
    "qwen2": transformers.Qwen2Config,
    "gpt_neox": transformers.GPTNeoXConfig,
    "gpt2": transformers.GPT2Config,
}


def read(family, **changes):
    return from_json({"model_type": family, **SMALL[family], **changes}, "the file")


@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_writes(family):
    """Also that defaults are those of transformers."""
    theirs = CLASSES[family](**SMALL[family]).to_dict()
    assert from_json(theirs, "the file") == read(family)
    assert theirs["model_type"] == family


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "gpt_neox"])
@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 5e5},
        {"rope_theta": 5e5, "rope_scaling": None},
        {"rope_theta": None, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "dynamic", "factor": 2.0}},
    ],
)
def test_rope_theta_of_transformers_4_and_5(family, rope):
    if family == "gpt_neox":
        rope = {name.replace("rope_theta", "rotary_emb_base"): x for name, x in rope.items()}
    found = read(family, **rope)
    assert found.rope.theta == 5e5
    assert found.rope == read(family, rope_parameters={"rope_theta": 5e5}).rope


def test_partial_rotation_of_gpt_neox():
    assert read("gpt_neox").rope == Rope(theta=10_000.0, dims=4)
    assert read("gpt_neox", rotary_pct=0.5).rope.dims == 8
    assert read("gpt_neox", rotary_pct=1, rope_parameters={"partial_rotary_factor": 0.5}) == read(
        "gpt_neox", rotary_pct=0.5
    )


@pytest.mark.parametrize(
    ("family", "changes", "expected"),
    [
        ("llama", {"sliding_window": 64}, 512),
        ("mistral", {}, 512),
        ("mistral", {"sliding_window": 64}, 64),
        ("mistral", {"sliding_window": 4096}, 512),
        ("qwen2", {"sliding_window": 64}, 512),
        ("qwen2", {"sliding_window": 64, "use_sliding_window": True}, 64),
        ("qwen2", {"sliding_window": None, "use_sliding_window": True}, 512),
    ],
)
def test_sliding_windows_limit_the_context(family, changes, expected):
    assert read(family, **changes).context_length == expected


def test_a_mistral_that_does_not_name_its_window_has_one():
    values = {"model_type": "mistral", **SMALL["llama"], "max_position_embeddings": 8192}
    assert from_json(values, "the file").context_length == 4096


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_of_a_partial_model(family):
    config = read(family, tie_word_embeddings=False)
    outside = len(tensor_shapes(config, 0))
    inside = len(config.block_shapes())
    assert outside == (2 if family == "gpt2" else 1)
    assert len(tensor_shapes(config, 2)) == outside + 2 * inside
    full = tensor_shapes(config, 3)
    assert len(full) == outside + 3 * inside + len(config.norm_tensors) + 1
    tied = tensor_shapes(read(family, tie_word_embeddings=True), 3)
    assert full.keys() - tied.keys() == {"lm_head.weight"}


def test_biases():
    def biased(*args, **changes):
        names = read(*args, **changes).block_shapes()
        return {n.removesuffix("_proj.bias").split(".")[-1] for n in names if n.endswith("bias")}

    assert biased("llama") == biased("mistral") == set()
    assert biased("llama", attention_bias=True) == {"q", "k", "v", "o"}
    assert biased("llama", mlp_bias=True) == {"gate", "up", "down"}
    assert biased("qwen2") == {"q", "k", "v"}
    assert len([n for n in read("gpt_neox").block_shapes() if n.endswith("bias")]) == 6
    fewer = read("gpt_neox", attention_bias=False).block_shapes()
    assert not [n for n in fewer if n.startswith("attention") and n.endswith("bias")]


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("llama", {"hidden_size": None}, "hidden_size=None must be a finite number"),
        ("llama", {"hidden_size": "32"}, "hidden_size='32' must be a finite number"),
        ("llama", {"hidden_size": 32.5}, r"hidden_size=32\.5 must be a finite number"),
        ("llama", {"vocab_size": 10**400}, "must be a finite number"),
        ("llama", {"num_hidden_layers": True}, "num_hidden_layers=True must be a finite number"),
        ("llama", {"num_hidden_layers": 0}, "num_layers=0 must be finite and above 0"),
        ("llama", {"num_attention_heads": 0, "num_key_value_heads": None}, "num_heads=0"),
        ("llama", {"num_key_value_heads": 4}, "num_kv_heads=4.*divide evenly"),
        ("llama", {"head_dim": 7}, "head_dim=7.* 7 would be rotated.*even"),
        ("llama", {"rms_norm_eps": -1e-5}, "norm_eps=-1e-05"),
        ("llama", {"tie_word_embeddings": "no"}, "tie_word_embeddings='no' must be true or false"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act='gelu' is not supported, only 'silu'"),
        ("llama", {"partial_rotary_factor": 0.5}, "4 of head_dim=8 dimensions.*no llama model"),
        ("llama", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config="),
        ("gpt_neox", {"num_attention_heads": 5}, "hidden_size=48 must divide by .*=5"),
        ("gpt_neox", {"num_attention_heads": 0}, "hidden_size=48 must divide by .*=0"),
        ("gpt_neox", {"hidden_act": "tanh"}, "hidden_act='tanh' is not supported, only 'gelu', "),
        ("gpt_neox", {"rotary_pct": 0.2}, "of the head_dim=16 dimensions of a head 3 would be"),
        ("gpt_neox", {"rotary_pct": 0.0}, "of a head 0 would be"),
        ("gpt_neox", {"rotary_pct": 2}, "of a head 32 would be"),
        ("gpt2", {"n_head": 5}, "n_embd=48 must divide by n_head=5"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights=False"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention=True"),
        (
            "gpt2",
            {"layer_norm_epsilon": float("nan")},
            "layer_norm_epsilon=nan must be",
        ),
    ],
)
def test_other_models_are_refused(family, changes, words):
    with pytest.raises(InputError, match=f"the file: .*{words}"):
        read(family, **changes)


@pytest.mark.parametrize("kind", ["gemma3", None, ["llama"]])
def test_other_families_are_refused_with_a_list(kind):
    with pytest.raises(InputError) as caught:
        from_json({**SMALL["llama"], "model_type": kind}, "the file")
    assert str(caught.value) == (
        f"the file: model_type={kind!r} is not supported; "
        "supported: llama, mistral, qwen2, gpt_neox, gpt2"
    )
