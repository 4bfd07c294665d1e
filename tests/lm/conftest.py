"""Tiny Llama checkpoints with random weights, written as files."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

# Grouped queries, and a head width that is not d_model / heads.
TINY = {
    "model_type": "llama",
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 64,
    "vocab_size": 48,
    "rope_theta": 300.0,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


@pytest.fixture
def tiny():
    """Makes a config.json, with changes."""
    return lambda **changes: TINY | changes


@pytest.fixture
def random_weights():
    """Makes weights [out, in] by Hugging Face name, scaled so that every part matters."""

    def make(config, seed=0):
        rng = np.random.default_rng(seed)
        d, f = config["hidden_size"], config["intermediate_size"]
        q, k = (
            config[name] * config["head_dim"]
            for name in ("num_attention_heads", "num_key_value_heads")
        )
        shapes = {"model.embed_tokens.weight": (config["vocab_size"], d), "model.norm.weight": (d,)}
        for i in range(config["num_hidden_layers"]):
            for name, shape in {
                "input_layernorm": (d,),
                "self_attn.q_proj": (q, d),
                "self_attn.k_proj": (k, d),
                "self_attn.v_proj": (k, d),
                "self_attn.o_proj": (d, q),
                "post_attention_layernorm": (d,),
                "mlp.gate_proj": (f, d),
                "mlp.up_proj": (f, d),
                "mlp.down_proj": (d, f),
            }.items():
                shapes[f"model.layers.{i}.{name}.weight"] = shape
        if not config["tie_word_embeddings"]:
            shapes["lm_head.weight"] = (config["vocab_size"], d)
        return {
            name: (rng.normal(size=shape) * (1.5 / np.sqrt(shape[-1]))).astype(np.float32)
            if len(shape) == 2
            else rng.uniform(0.5, 1.5, size=shape).astype(np.float32)
            for name, shape in shapes.items()
        }

    return make


@pytest.fixture
def write_directory(tmp_path):
    """Writes a Hugging Face directory and returns its path."""

    def write(config, weights, *, shards=1, dtype="float32", name="model"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        types = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
        arrays = {name: np.asarray(x, types[dtype]) for name, x in weights.items()}
        if shards == 1:
            save_file(arrays, folder / "model.safetensors")
            return folder
        weight_map = {
            name: f"model-{i % shards:05}.safetensors" for i, name in enumerate(sorted(arrays))
        }
        for file in set(weight_map.values()):
            save_file({n: arrays[n] for n in arrays if weight_map[n] == file}, folder / file)
        index = folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))
        return folder

    return write
