"""The parts that decoders of several families are made of.

Letters: B windows, L context length, D width of the residual stream.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

Weights = dict[str, Float[Array, "..."]]

# By the names in config.json. "gelu_new" and "gelu_fast" are the same function.
NONLINEARITIES: dict[str, Callable[[Float[Array, "..."]], Float[Array, "..."]]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": jax.nn.gelu,
    "gelu_fast": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "relu": jax.nn.relu,
}


class Linear(nnx.Module):
    """x W + b; without b where the weights have none.

    Args:
      weights: Of the block: `<name>.weight` [in, out] and perhaps `<name>.bias` [out].
      name: Of the module.
    """

    def __init__(self, weights: Weights, name: str):
        self.kernel = nnx.Param(weights[f"{name}.weight"])
        bias = weights.get(f"{name}.bias")
        self.bias = None if bias is None else nnx.Param(bias)

    def __call__(self, x: Float[Array, "B L in"]) -> Float[Array, "B L out"]:
        """The product, in the type of the weights."""
        product = x @ self.kernel[...]
        return product if self.bias is None else product + self.bias[...][None, None]


class RmsNorm(nnx.Module):
    """Root mean square normalisation, w x / sqrt(mean(x^2) + eps), in float32.

    References:
      Zhang & Sennrich 2019, arXiv 1910.07467, equation 4.
    """

    def __init__(self, weights: Weights, name: str, eps: float):
        self.weight = nnx.Param(weights[f"{name}.weight"])
        self.eps = eps

    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Normalises the last axis."""
        x32_BLD = x_BLD.astype(jnp.float32)
        scale_BL1 = jax.lax.rsqrt(jnp.mean(x32_BLD**2, axis=-1, keepdims=True) + self.eps)
        return self.weight[...][None, None] * (x32_BLD * scale_BL1).astype(x_BLD.dtype)


class LayerNorm(nnx.Module):
    """Layer normalisation, w (x - mean(x)) / sqrt(var(x) + eps) + b, in float32.

    References:
      Ba et al. 2016, arXiv 1607.06450, equation 4.
    """

    def __init__(self, weights: Weights, name: str, eps: float):
        self.weight = nnx.Param(weights[f"{name}.weight"])
        self.bias = nnx.Param(weights[f"{name}.bias"])
        self.eps = eps

    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Normalises the last axis."""
        x32_BLD = x_BLD.astype(jnp.float32)
        x32_BLD -= jnp.mean(x32_BLD, axis=-1, keepdims=True)
        scale_BL1 = jax.lax.rsqrt(jnp.mean(x32_BLD**2, axis=-1, keepdims=True) + self.eps)
        weight_D, bias_D = self.weight[...].astype("float32"), self.bias[...].astype("float32")
        y_BLD = x32_BLD * scale_BL1 * weight_D[None, None] + bias_D[None, None]
        return y_BLD.astype(x_BLD.dtype)
