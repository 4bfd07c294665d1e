"""The Llama family (Llama, SmolLM2, TinyLlama, ...) as a flax.nnx decoder with hook points.

Letters: B windows, L context length, D width of the residual stream, H query heads, G
key-value heads, E width of a head, e = E/2, F width of the MLP, V vocabulary, N layers held.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, Int

from saejax.lm.attention import causal_attention
from saejax.lm.hooks import Hook
from saejax.lm.llama_config import LlamaConfig, block_shapes, tensor_shapes


class RmsNorm(nnx.Module):
    """Root mean square normalisation, w x / sqrt(mean(x^2) + eps), in float32.

    References:
      Zhang & Sennrich 2019, arXiv 1910.07467, equation 4.
    """

    def __init__(self, weight_D: Float[Array, "*N D"], eps: float):
        self.weight = nnx.Param(weight_D)
        self.eps = eps

    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Normalises the last axis."""
        x32_BLD = x_BLD.astype(jnp.float32)
        scale_BL1 = jax.lax.rsqrt(jnp.mean(x32_BLD**2, axis=-1, keepdims=True) + self.eps)
        return self.weight[...][None, None] * (x32_BLD * scale_BL1).astype(x_BLD.dtype)


def rotary(length: int, head_dim: int, theta: float) -> Float32[np.ndarray, "2 L 2 e"]:
    """Cosine and signed sine of the rotary embedding's angles, for both halves of a head.

    Angles are position x theta^(-2i/E), for i below e = E/2.

    References:
      Su et al. 2021, arXiv 2104.09864, section 3.2.2.
    """
    # By numpy, in float64: an angle of thousands of radians keeps too few digits in float32, and
    # constants leave XLA no sines to compute.
    rate_e = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    angle_Le = np.arange(length)[:, None] * rate_e[None]
    cos_Le, sin_Le = np.cos(angle_Le), np.sin(angle_Le)
    tables = np.stack([cos_Le, cos_Le], axis=1), np.stack([-sin_Le, sin_Le], axis=1)
    return np.stack(tables).astype(np.float32)


def rotate(
    x_BLHE: Float[Array, "B L H E"], tables_2L2e: Float32[np.ndarray, "2 L 2 e"]
) -> Float[Array, "B L H E"]:
    """Rotates dimension i of each head with i + E/2 (Hugging Face's order), in float32."""
    # (a, b) to (a cos - b sin, b cos + a sin), with the halves of a head on an axis of their own:
    # they are swapped by reading in reverse, where a concatenation would be written and read.
    halves_BLH2e = x_BLHE.astype(jnp.float32).reshape(*x_BLHE.shape[:-1], 2, -1)
    cos_BLH2e, sin_BLH2e = (table_L2e[None, :, None] for table_L2e in tables_2L2e)
    turned_BLH2e = halves_BLH2e * cos_BLH2e + halves_BLH2e[..., ::-1, :] * sin_BLH2e
    return turned_BLH2e.reshape(x_BLHE.shape).astype(x_BLHE.dtype)


class Attention(nnx.Module):
    """Causal grouped-query attention; softmax in float32.

    References:
      Ainslie et al. 2023, arXiv 2305.13245, section 2.2.
    """

    def __init__(self, config: LlamaConfig, weights: dict[str, Float[Array, "..."]]):
        self.q_proj = nnx.Param(weights["self_attn.q_proj.weight"])
        self.k_proj = nnx.Param(weights["self_attn.k_proj.weight"])
        self.v_proj = nnx.Param(weights["self_attn.v_proj.weight"])
        self.o_proj = nnx.Param(weights["self_attn.o_proj.weight"])
        self.head_dim, self.rope_theta = config.head_dim, config.rope_theta

    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Attention's output after o_proj, for normalised input."""
        windows, length, _ = x_BLD.shape
        q_BLHE, k_BLGE, v_BLGE = (
            (x_BLD @ kernel[...]).reshape(windows, length, -1, self.head_dim)
            for kernel in (self.q_proj, self.k_proj, self.v_proj)
        )
        tables_2L2e = rotary(length, self.head_dim, self.rope_theta)
        out_BLHE = causal_attention(
            rotate(q_BLHE, tables_2L2e), rotate(k_BLGE, tables_2L2e), v_BLGE
        )
        return out_BLHE.reshape(windows, length, -1) @ self.o_proj[...]


class Mlp(nnx.Module):
    """SwiGLU: (silu(x W_gate) * (x W_up)) W_down.

    References:
      Shazeer 2020, arXiv 2002.05202, equation 6.
    """

    def __init__(self, weights: dict[str, Float[Array, "..."]]):
        self.gate_proj = nnx.Param(weights["mlp.gate_proj.weight"])
        self.up_proj = nnx.Param(weights["mlp.up_proj.weight"])
        self.down_proj = nnx.Param(weights["mlp.down_proj.weight"])

    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """The MLP's output, for normalised input."""
        gate_BLF = jax.nn.silu(x_BLD @ self.gate_proj[...])
        return (gate_BLF * (x_BLD @ self.up_proj[...])) @ self.down_proj[...]


class Block(nnx.Module):
    """One layer: x + attention(norm(x)), then x + MLP(norm(x)).

    References:
      Touvron et al. 2023, arXiv 2302.13971, section 2.2.
    """

    def __init__(self, config: LlamaConfig, weights: dict[str, Float[Array, "..."]]):
        self.input_layernorm = RmsNorm(weights["input_layernorm.weight"], config.rms_eps)
        self.self_attn = Attention(config, weights)
        self.post_attention_layernorm = RmsNorm(
            weights["post_attention_layernorm.weight"], config.rms_eps
        )
        self.mlp = Mlp(weights)

    def outputs(self, x_BLD: Float[Array, "B L D"]) -> dict[str, Float[Array, "B L D"]]:
        """What each part gives, by its name; "" is the residual stream after the block.

        What is not used is not computed, under `jax.jit`.
        """
        attention_input_BLD = self.input_layernorm(x_BLD)
        attention_BLD = self.self_attn(attention_input_BLD)
        between_BLD = x_BLD + attention_BLD
        mlp_input_BLD = self.post_attention_layernorm(between_BLD)
        mlp_BLD = self.mlp(mlp_input_BLD)
        return {
            "input_layernorm": attention_input_BLD,
            "self_attn": attention_BLD,
            "post_attention_layernorm": mlp_input_BLD,
            "mlp": mlp_BLD,
            "": between_BLD + mlp_BLD,
        }


class Llama(nnx.Module):
    """The decoder, with the weights of all blocks stacked on a leading layer axis.

    A partial model holds the first layers only, and neither final norm nor unembedding.
    """

    def __init__(self, config: LlamaConfig, weights: dict[str, Float[Array, "..."]]):
        self.config = config
        self.embed_tokens = nnx.Param(weights["embed_tokens.weight"])
        blocks = {name: weights[f"layers.{name}"] for name in block_shapes(config)}
        self.layers = Block(config, blocks)
        self.num_layers_held = blocks["input_layernorm.weight"].shape[0]
        if self.num_layers_held == config.num_layers:
            self.norm = RmsNorm(weights["norm.weight"], config.rms_eps)
            if not config.tie_embeddings:
                self.lm_head = nnx.Param(weights["lm_head.weight"])

    def block(self, layer: int | Int[Array, ""]) -> Block:
        """One block, cut out of the stack."""
        return jax.tree.map(lambda weight_N: weight_N[layer], self.layers)

    def run_blocks(
        self, x_BLD: Float[Array, "B L D"], first: int, end: int
    ) -> Float[Array, "B L D"]:
        """The residual stream after the blocks from `first` to before `end`."""
        # A scan over layer numbers reads each layer from the stack; a scan over a part of the
        # stack would copy that part in every call.
        return jax.lax.scan(
            lambda x_BLD, layer: (self.block(layer).outputs(x_BLD)[""], None),
            x_BLD,
            jnp.arange(first, end),
        )[0]

    def activations(
        self, tokens_BL: Int[Array, "B L"], hooks: Sequence[Hook]
    ) -> list[Float[Array, "B L D"]]:
        """What hook points see, in one pass; no layer is run that none of them needs.

        Args:
          tokens_BL: Token ids in [0, V).
          hooks: The hook points, in any order.
        """
        x_BLD = self.embed_tokens[...][tokens_BL]
        seen = {Hook(None, ""): x_BLD}
        done = 0
        for layer in sorted({hook.layer for hook in hooks if hook.layer is not None}):
            outputs = self.block(layer).outputs(self.run_blocks(x_BLD, done, layer))
            seen |= {Hook(layer, part): output_BLD for part, output_BLD in outputs.items()}
            x_BLD, done = outputs[""], layer + 1
        return [seen[hook] for hook in hooks]

    def hidden(self, tokens_BL: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """What the unembedding reads: the last residual stream, normalised."""
        x_BLD = self.embed_tokens[...][tokens_BL]
        return self.norm(self.run_blocks(x_BLD, 0, self.config.num_layers))

    def unembed(self, x_D: Float[Array, "*tokens D"]) -> Float[Array, "*tokens V"]:
        """Logits, in float32."""
        table_VD = self.embed_tokens if self.config.tie_embeddings else self.lm_head
        return jnp.matmul(x_D, table_VD[...].T, preferred_element_type=jnp.float32)


def build(
    config: LlamaConfig,
    read: Callable[[str], np.ndarray],
    *,
    num_layers: int,
    dtype: str,
) -> Llama:
    """Builds the model from its tensors.

    Args:
      config: Sizes.
      read: Gives a tensor by its name in `tensor_shapes`, rows [out, in].
      num_layers: Layers to read; below `config.num_layers`, the model is partial.
      dtype: Type of the weights.
    """
    # Kernels are [in, out] here, so that a product reads `x @ kernel`; in files they are [out, in].
    stacks = {
        name: np.empty((num_layers, *shape[::-1]), dtype)
        for name, shape in block_shapes(config).items()
    }
    weights = {}
    # Layer by layer, as files are laid out.
    for name in tensor_shapes(config, num_layers):
        prefix, _, rest = name.partition(".")
        if prefix == "layers":
            layer, _, part = rest.partition(".")
            stacks[part][int(layer)] = read(name).T
        else:
            weights[name] = jnp.asarray(read(name), dtype)
    for part in list(stacks):
        weights[f"layers.{part}"] = jnp.asarray(stacks.pop(part))
    return Llama(config, weights)
