"""GGUF files of tiny Llama models against their twins in safetensors."""

import gguf
import numpy as np
import pytest

from saejax.config import SAMPLE_LM
from saejax.errors import InputError
from saejax.lm import load_config, load_lm, logits
from saejax.lm.decoder_config import tensor_shapes
from saejax.lm.llama_gguf import open_llama_gguf
from saejax.lm.safetensors import open_directory
from saejax.sources import resolve

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    stem = name.removesuffix(".weight")
    if stem in NAMES:
        return f"{NAMES[stem]}.weight"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.weight"


def permuted(rows, heads):
    """What llama.cpp's converter does to q and k (convert_hf_to_gguf.py, LlamaModel.permute)."""
    shape = (heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return rows.reshape(shape).swapaxes(1, 2).reshape(rows.shape)


def write_gguf(path, config, weights, kind="F32", *, changes=None, drop=(), extra=()):
    """Writes a model as llama.cpp's converter does; returns the weights that the file holds."""
    kind = gguf.GGMLQuantizationType[kind]
    values = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": config["head_dim"],
        "rope.dimension_count": config["head_dim"],
        "rope.freq_base": config["rope_theta"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
    } | (changes or {})
    writer = gguf.GGUFWriter(path, values.pop("architecture", "llama"))
    for name, value in values.items():
        if isinstance(value, str):
            writer.add_string(f"llama.{name}", value)
        elif isinstance(value, float):
            writer.add_float32(f"llama.{name}", value)
        elif value is not None:
            writer.add_uint32(f"llama.{name}", value)
    held = {}
    for name, rows in weights.items():
        of_kind = kind if rows.ndim == 2 else gguf.GGMLQuantizationType.F32
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
        which = heads.get(name.split(".")[-2])
        stored = permuted(rows, config[which]) if which else rows
        if name not in drop:
            writer.add_tensor(gguf_name(name), gguf.quantize(stored, of_kind), raw_dtype=of_kind)
        held[name] = gguf.dequantize(gguf.quantize(rows, of_kind), of_kind)
    for name in extra:
        writer.add_tensor(name, np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0"])
@pytest.mark.parametrize("tied", [True, False])
def test_gguf_equals_its_safetensors_twin(
    tmp_path, tiny, random_weights, write_directory, kind, tied
):
    config = tiny(tie_word_embeddings=tied, rope_theta=256.0, rms_norm_eps=2.0**-16)
    path = tmp_path / "tiny.gguf"
    held = write_gguf(path, config, random_weights(config), kind)
    twin = open_directory(write_directory(config, held))
    found = open_llama_gguf(path)
    assert found.config == twin.config == load_config(str(path))
    assert found.tensors.keys() == twin.tensors.keys()
    for name in tensor_shapes(found.config, found.config.num_layers):
        np.testing.assert_array_equal(found.tensors[name].read(), twin.tensors[name].read())


def test_optional_metadata_has_the_documented_defaults(tmp_path, tiny, random_weights):
    config = tiny(head_dim=8, num_key_value_heads=4)
    path = tmp_path / "tiny.gguf"
    left_out = dict.fromkeys(
        [
            "attention.key_length",
            "attention.head_count_kv",
            "rope.dimension_count",
            "rope.freq_base",
        ]
    )
    write_gguf(path, config, random_weights(config), changes=left_out)
    found = load_config(str(path))
    assert (found.head_dim, found.num_kv_heads, found.rope.theta) == (8, 4, 10_000.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"changes": {"architecture": "gemma3"}}, "'gemma3' is not supported; supported: llama"),
        ({"changes": {"rope.scaling.type": "linear"}}, "scaled rotary"),
        ({"extra": ["rope_freqs.weight"]}, "scaled rotary"),
        ({"changes": {"rope.dimension_count": 8}}, "dimension_count=8"),
        ({"changes": {"attention.head_count": None}}, "head_count=None must be a number"),
        ({"changes": {"attention.head_count": 0}}, "num_heads=0 must be finite and above 0"),
        ({"changes": {"attention.head_count_kv": 3}}, "num_kv_heads=3.*divide evenly"),
        ({"changes": {"attention.layer_norm_rms_epsilon": float("nan")}}, "norm_eps=nan"),
        ({"changes": {"block_count": 2}}, r"has tensors.*layers\.2\.input_layernorm.*and 4 more"),
        ({"changes": {"block_count": 4}}, r"lacks tensors.*layers\.3\.input_layernorm"),
        ({"changes": {"block_count": 2**31}}, "2147483648 layers cannot come from 29 tensors"),
        ({"changes": {"embedding_length": 64}}, r"has shape \[48, 32\].*calls for \[48, 64\]"),
        ({"drop": ["model.norm.weight"]}, r"lacks tensors.*: norm\.weight;"),
        ({"drop": ["model.embed_tokens.weight"]}, r"lacks the tensor token_embd\.weight"),
        ({"extra": ["blk.0.attn_q.bias"]}, r"has tensors.*: blk\.0\.attn_q\.bias;"),
        ({"extra": ["single"]}, "has tensors.*: single;"),
    ],
)
def test_other_models_are_refused(tmp_path, tiny, random_weights, options, words):
    config = tiny()
    path = tmp_path / "tiny.gguf"
    write_gguf(path, config, random_weights(config), **options)
    with pytest.raises(InputError, match=words) as caught:
        load_lm(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_packaged_model_as_a_hugging_face_directory(write_directory):
    """Writes and reads 540 MB."""
    checkpoint = open_llama_gguf(resolve(SAMPLE_LM))
    sizes = checkpoint.config
    values = {
        "model_type": "llama",
        "num_hidden_layers": sizes.num_layers,
        "hidden_size": sizes.d_model,
        "num_attention_heads": sizes.num_heads,
        "num_key_value_heads": sizes.num_kv_heads,
        "intermediate_size": sizes.d_mlp,
        "vocab_size": sizes.vocab_size,
        "rope_theta": sizes.rope.theta,
        "rms_norm_eps": sizes.norm_eps,
        "max_position_embeddings": sizes.context_length,
        "tie_word_embeddings": True,
    }
    weights = {f"model.{name}": tensor.read() for name, tensor in checkpoint.tensors.items()}
    folder = str(write_directory(values, weights, shards=3))
    del weights
    assert load_config(folder) == sizes
    tokens_BL = np.arange(100, 164).reshape(2, 32)
    expected_BLV = logits(load_lm(SAMPLE_LM), tokens_BL)
    np.testing.assert_array_equal(logits(load_lm(folder), tokens_BL), expected_BLV)
