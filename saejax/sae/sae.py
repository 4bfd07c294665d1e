"""A sparse autoencoder as a plain record, and its two maps: encode and decode.

Dimension letters: B tokens, D activation width, E width of the output (D in an autoencoder), N
latents, K most active latents per token.
"""

import typing

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from saejax.errors import InputError
from saejax.sae import sparse
from saejax.sae.rows import weighted_rows


# The type checker of the tests would break `jax.tree.map`, which builds records of other things.
@typing.no_type_check
@struct.dataclass
class Sae:
    """A trained autoencoder, x_hat = f(x) W_dec + b_dec.

    With z = (x - b_dec) W_enc + b_enc the codes are, by architecture,

    - "topk": f = TopK(relu(z)),
    - "relu": f = relu(z),
    - "jump_relu": f = relu(z) where relu(z) > threshold,
    - "gated": f = relu((z - b_enc) exp(r_mag) + b_mag) where z > 0.

    A transcoder reconstructs other activations than those it is given,
    y_hat = f(x) W_dec + b_dec, with x W_skip^T added if it has a skip connection. Its z is
    x W_enc + b_enc. Autoencoders of other libraries may have that z too.

    Example:
      >>> import numpy as np, saejax
      >>> sae = saejax.Sae(np.ones((2, 3)), np.zeros(3), np.ones((3, 2)), np.zeros(2), k=1)
      >>> sae.num_latents, sae.d_model
      (3, 2)

    Attributes:
      w_enc: Encoder [D, N], one column a latent.
      b_enc: Encoder bias [N]; of a gated one, that of the gate.
      w_dec: Decoder [N, E], one row a latent, of unit norm after training of most kinds.
      b_dec: Decoder bias [E].
      k: Most active latents per token; N where their number is not limited.
      arch: Which of these it is.
      threshold: [N], of "jump_relu".
      r_mag: [N], of "gated".
      b_mag: [N], of "gated".
      normalize_activations: What is done to inputs first, and taken back of reconstructions:
        "none", "constant_norm_rescale" (a norm of sqrt(D) for each) or "layer_norm" (mean 0 and
        standard deviation 1 over the D entries of each), as SAELens calls them.
      apply_b_dec_to_input: Whether b_dec is subtracted from inputs; None: of an autoencoder, not
        of a transcoder.
      metadata: Where the autoencoder comes from: model name, hook point, seed. Pairs, sorted
        by name, so that the record stays hashable under `jax.jit`.
      transcoder: Whether it is a transcoder.
      w_skip: Skip connection [E, D], of some transcoders.
    """

    w_enc: Array | np.ndarray
    b_enc: Array | np.ndarray
    w_dec: Array | np.ndarray
    b_dec: Array | np.ndarray
    k: int = struct.field(pytree_node=False)
    metadata: tuple[tuple[str, str | int], ...] = struct.field(pytree_node=False, default=())
    arch: str = struct.field(pytree_node=False, default="topk")
    threshold: Array | np.ndarray | None = None
    r_mag: Array | np.ndarray | None = None
    b_mag: Array | np.ndarray | None = None
    transcoder: bool = struct.field(pytree_node=False, default=False)
    w_skip: Array | np.ndarray | None = None
    normalize_activations: str = struct.field(pytree_node=False, default="none")
    apply_b_dec_to_input: bool | None = struct.field(pytree_node=False, default=None)

    @property
    def num_latents(self) -> int:
        """N."""
        return self.w_dec.shape[0]

    @property
    def d_model(self) -> int:
        """D, the width of the activations that are encoded."""
        return self.w_enc.shape[0]

    @property
    def d_out(self) -> int:
        """E, the width of the activations that are reconstructed."""
        return self.w_dec.shape[1]

    @property
    def centers_input(self) -> bool:
        """Whether b_dec is subtracted from inputs."""
        if self.apply_b_dec_to_input is None:
            return not self.transcoder
        return self.apply_b_dec_to_input


class Codes(typing.NamedTuple):
    """Sparse codes: the values of the active latents and which ones they are.

    Example:
      >>> import jax.numpy as jnp, saejax
      >>> codes = saejax.Codes(jnp.array([[2.0, 0.5]]), jnp.array([[7, 3]]))
      >>> codes.values.shape
      (1, 2)

    Attributes:
      values: [B, K], at least 0, in descending order.
      indices: [B, K] in [0, N), distinct within a token.
    """

    values: Float[Array, "B K"]
    indices: Int[Array, "B K"]


def token_scale(x_BD: Float[Array, "B D"]) -> Float[Array, "B 1"]:
    """sqrt(D) / ||x_b||, the factor that gives each token a norm of sqrt(D); 1 for zeros."""
    norm_B1 = jnp.linalg.norm(x_BD, axis=1, keepdims=True)
    return jnp.where(norm_B1 > 0, jnp.sqrt(x_BD.shape[1]) / norm_B1, 1.0)


class Normalization(typing.NamedTuple):
    """Of each token: x is encoded as (x - shift) scale, and y decoded as y out_scale + shift."""

    shift: Float[Array, "B 1"]
    scale: Float[Array, "B 1"]
    out_scale: Float[Array, "B 1"]


def normalization(sae: Sae, x_BD: Float[Array, "B D"]) -> Normalization:
    """What `sae.normalize_activations` does to activations, as SAELens 6 does it.

    Raises:
      InputError: For another value than those of `Sae`.
    """
    ones_B1 = jnp.ones((len(x_BD), 1), x_BD.dtype)
    if sae.normalize_activations == "none":
        return Normalization(0 * ones_B1, ones_B1, ones_B1)
    if sae.normalize_activations == "constant_norm_rescale":
        scale_B1 = token_scale(x_BD)
        return Normalization(0 * ones_B1, scale_B1, 1 / scale_B1)
    if sae.normalize_activations == "layer_norm":
        std_B1 = x_BD.std(axis=1, keepdims=True, ddof=1)
        return Normalization(x_BD.mean(axis=1, keepdims=True), 1 / (std_B1 + 1e-5), std_B1)
    raise InputError(
        f"Sae: normalize_activations={sae.normalize_activations!r}: choose none, "
        "constant_norm_rescale or layer_norm"
    )


def encode(sae: Sae, x_BD: Float[Array | np.ndarray, "B D"]) -> Codes:
    """Codes of activations, the k largest: see `Sae`.

    A token with fewer than k active latents has zeros among its values. Holds the
    pre-activations [B, N] of the tokens given: pass large inputs in pieces.

    Example:
      >>> import jax.numpy as jnp, saejax
      >>> sae = saejax.Sae(jnp.eye(2), jnp.zeros(2), jnp.eye(2), jnp.zeros(2), k=1)
      >>> codes = saejax.encode(sae, jnp.array([[3.0, 1.0]]))
      >>> codes.values.tolist(), codes.indices.tolist()
      ([[3.0]], [[0]])
      >>> saejax.decode(sae, codes).tolist()
      [[3.0, 0.0]]
    """
    return _encode(sae, x_BD)


# Public functions are plain ones around these, so that editors know their types.
@jax.jit
def _encode(sae: Sae, x_BD: Float[Array, "B D"]) -> Codes:
    return Codes(*sparse.top_k(_all_codes(sae, x_BD), min(sae.k, sae.num_latents)))


def encode_dense(sae: Sae, x_BD: Float[Array | np.ndarray, "B D"]) -> Float[Array, "B N"]:
    """The same codes as a matrix with zeros: [B, N], so pass large inputs in pieces."""
    return _encode_dense(sae, x_BD)


@jax.jit
def _encode_dense(sae: Sae, x_BD: Float[Array, "B D"]) -> Float[Array, "B N"]:
    code_BN = _all_codes(sae, x_BD)
    if sae.k >= sae.num_latents:
        return code_BN
    value_BK, index_BK = sparse.top_k(code_BN, sae.k)
    rows_B1 = jnp.arange(len(x_BD))[:, None]
    return jnp.zeros_like(code_BN).at[rows_B1, index_BK].set(value_BK)


def _all_codes(sae: Sae, x_BD: Float[Array, "B D"]) -> Float[Array, "B N"]:
    """Codes before the k largest are chosen."""
    if sae.normalize_activations != "none":
        norm = normalization(sae, x_BD)
        x_BD = (x_BD - norm.shift) * norm.scale
    w_enc_DN, b_enc_N = map(jnp.asarray, (sae.w_enc, sae.b_enc))
    b_dec_D = jnp.asarray(sae.b_dec) if sae.centers_input else None
    pre_BN = sparse.preactivations(x_BD, w_enc_DN.T, b_enc_N, b_dec_D)
    code_BN = jax.nn.relu(pre_BN)
    if sae.arch == "jump_relu":
        code_BN = jnp.where(code_BN > jnp.asarray(sae.threshold)[None], code_BN, 0.0)
    elif sae.arch == "gated":
        r_mag_N, b_mag_N = jnp.asarray(sae.r_mag), jnp.asarray(sae.b_mag)
        magnitude_BN = (pre_BN - b_enc_N[None]) * jnp.exp(r_mag_N)[None] + b_mag_N[None]
        code_BN = jnp.where(pre_BN > 0, jax.nn.relu(magnitude_BN), 0.0)
    return code_BN


def decode(
    sae: Sae, codes: Codes, x_BD: Float[Array | np.ndarray, "B D"] | None = None
) -> Float[Array, "B E"]:
    """Reconstruction sum_k values[b, k] W_dec[indices[b, k]] + b_dec [+ W_skip x_b].

    Example:
      >>> import jax.numpy as jnp, saejax
      >>> sae = saejax.Sae(jnp.eye(2), jnp.zeros(2), jnp.eye(2), jnp.ones(2), k=1)
      >>> saejax.decode(sae, saejax.Codes(jnp.array([[3.0]]), jnp.array([[1]]))).tolist()
      [[1.0, 4.0]]

    Args:
      sae: The autoencoder.
      codes: From `encode`.
      x_BD: What was encoded. Only a skip connection and normalize_activations need it; others
        give the same without.

    Raises:
      InputError: If x_BD is needed and missing.
    """
    return _decode(sae, codes, x_BD)


@jax.jit
def _decode(sae: Sae, codes: Codes, x_BD: Float[Array, "B D"] | None) -> Float[Array, "B E"]:
    w_dec_NE, b_dec_E = jnp.asarray(sae.w_dec), jnp.asarray(sae.b_dec)
    y_hat_BE = weighted_rows(codes.values, codes.indices, w_dec_NE) + b_dec_E[None]
    if sae.w_skip is None and sae.normalize_activations == "none":
        return y_hat_BE
    if x_BD is None:
        raise InputError(
            "decode(sae, codes): a skip connection, or normalize_activations, needs the input; "
            "give decode(sae, codes, x)"
        )
    norm = normalization(sae, x_BD)
    if sae.w_skip is not None:
        y_hat_BE += ((x_BD - norm.shift) * norm.scale) @ jnp.asarray(sae.w_skip).T
    return y_hat_BE * norm.out_scale + norm.shift
