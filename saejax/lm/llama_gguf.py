"""Llama models in GGUF files, with the names and the order of rows that Hugging Face uses."""

from pathlib import Path
from typing import Any

import numpy as np

from saejax.errors import InputError
from saejax.lm.checkpoint import Checkpoint, Tensor, check_tensors
from saejax.lm.gguf import Gguf, read_gguf
from saejax.lm.llama import LlamaConfig, check
from saejax.lm.rope import Rope, check_rope

_NAMES = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "output": "lm_head",
}
_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def open_llama_gguf(path: Path) -> Checkpoint:
    """Opens a GGUF file of a Llama model.

    Raises:
      InputError: If the file is damaged, or holds anything but a plain Llama model.
    """
    file = read_gguf(path)
    config = _config(file, path)
    tensors = {}
    for name, tensor in file.tensors.items():
        new = _hugging_face_name(name)
        if new.endswith("self_attn.q_proj.weight"):
            tensor = _unpermuted(tensor, config.num_heads)
        elif new.endswith("self_attn.k_proj.weight"):
            tensor = _unpermuted(tensor, config.num_kv_heads)
        tensors[new] = tensor
    return check_tensors(Checkpoint(config, tensors, (path,)), path)


def _config(file: Gguf, path: Path) -> LlamaConfig:
    values = file.metadata
    family = values.get("general.architecture")
    if family != "llama":
        raise InputError(
            f"{path}: general.architecture={family!r} is not supported; supported: llama"
        )

    def value(name: str, kinds: tuple[type, ...], default: Any = None) -> Any:
        found = values.get(f"llama.{name}", default)
        if isinstance(found, bool) or not isinstance(found, kinds):
            raise InputError(f"{path}: llama.{name}={found!r} must be a number")
        return found

    scaling = values.get("llama.rope.scaling.type", "none")
    if scaling != "none" or "rope_freqs.weight" in file.tensors:
        raise InputError(
            f"{path}: scaled rotary embeddings (llama.rope.scaling.type={scaling!r}, or a tensor "
            "rope_freqs.weight) are not supported: choose a plain Llama model"
        )
    width, heads = value("embedding_length", (int,)), value("attention.head_count", (int,))
    head_dim = value("attention.key_length", (int,), width // max(heads, 1))
    rotated = value("rope.dimension_count", (int,), head_dim)
    if rotated != head_dim:
        raise InputError(
            f"{path}: llama.rope.dimension_count={rotated} is not supported, only all "
            f"{head_dim} dimensions of a head"
        )
    rope = Rope(theta=value("rope.freq_base", (int, float), 10_000.0), dims=head_dim)
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise InputError(f"{path} lacks the tensor token_embd.weight: download it again")
    config = LlamaConfig(
        num_layers=value("block_count", (int,)),
        d_model=width,
        num_heads=heads,
        num_kv_heads=value("attention.head_count_kv", (int,), heads),
        head_dim=head_dim,
        d_mlp=value("feed_forward_length", (int,)),
        # `llama.vocab_size` is optional; the embedding is always there.
        vocab_size=embedding.shape[0],
        rope=check_rope(rope, head_dim, path),
        qkv_bias=False,
        o_bias=False,
        mlp_bias=False,
        norm_eps=value("attention.layer_norm_rms_epsilon", (int, float)),
        context_length=value("context_length", (int,)),
        tie_embeddings="output.weight" not in file.tensors,
    )
    return check(config, path)


def _hugging_face_name(name: str) -> str:
    """`blk.0.attn_q.weight` to `layers.0.self_attn.q_proj.weight`; unknown names stay."""
    stem = name.removesuffix(".weight")
    if stem in _NAMES:
        return f"{_NAMES[stem]}.weight"
    prefix, _, rest = stem.partition(".")
    layer, _, part = rest.partition(".")
    if prefix == "blk" and part in _BLOCK_NAMES:
        return f"layers.{layer}.{_BLOCK_NAMES[part]}.weight"
    return name


def _unpermuted(tensor: Tensor, heads: int) -> Tensor:
    """Undoes the row order of q and k.

    llama.cpp's converter interleaves the two halves of each head, so that rotary pairs are
    neighbours; Hugging Face's order pairs row i of a head with row i + E/2.
    """

    def read() -> np.ndarray:
        rows = tensor.read()
        pairs = rows.reshape(heads, -1, 2, rows.shape[-1])
        return pairs.swapaxes(1, 2).reshape(rows.shape)

    return tensor._replace(read=read)
