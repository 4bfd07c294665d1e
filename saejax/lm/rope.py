"""Rotary position embeddings, plain, of a part of each head, or scaled for longer contexts.

Letters: B windows, L context length, H heads, E width of a head, R dimensions that are rotated, r
half of them.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from saejax.errors import InputError
from saejax.lm.fields import Fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rope:
    """Which dimensions of a head are rotated, and how fast."""

    theta: float  # base of the wavelengths, 2 pi theta^(2i/R) tokens
    dims: int  # R, the first dimensions of a head, even
    factor: float = 1.0  # by which rotation is slowed down
    # "llama3" slows down long wavelengths alone: those that turn less than `low_turns` times in
    # the original context fully, more than `high_turns` times not at all. 0: all of them.
    low_turns: float = 0.0
    high_turns: float = 0.0
    original_context: int = 0  # tokens


def read_rope(
    fields: Fields,
    head_dim: int,
    *,
    theta_name: str = "rope_theta",
    part_name: str = "partial_rotary_factor",
    default_part: float = 1.0,
) -> Rope:
    """Reads the rotary embedding of a config.json, as transformers 4 or 5 writes it.

    A `dynamic` embedding is plain in windows up to `max_position_embeddings`, which are all that
    a model accepts here.

    Args:
      fields: The configuration.
      head_dim: E.
      theta_name: Field of the base, where `rope_parameters` does not have it.
      part_name: Field of R/E, likewise.
      default_part: R/E where it is missing.

    Raises:
      InputError: For malformed fields, an odd R, and other kinds of scaling (`yarn`, `longrope`).
    """
    rope = fields.inner("rope_parameters")
    rope = rope if rope.values else fields.inner("rope_scaling")
    if nested := [name for name, value in rope.values.items() if isinstance(value, dict)]:
        raise InputError(
            f"{fields.where}: rope_parameters of single types of layers ({nested[0]}) are not "
            "supported: choose another model"
        )
    part = fields.number(part_name, float, default_part)
    made = Rope(
        theta=rope.number("rope_theta", float, fields.number(theta_name, float, 10_000.0)),
        dims=int(head_dim * rope.number("partial_rotary_factor", float, part)),
    )
    name = "rope_type" if "rope_type" in rope.values else "type"
    kind = rope.only(name, "default", "linear", "dynamic", "llama3", default="default")
    if kind in ("linear", "llama3"):
        made = dataclasses.replace(made, factor=rope.number("factor", float))
    if kind == "llama3":
        context = fields.number("max_position_embeddings", int, 2048)
        made = dataclasses.replace(
            made,
            low_turns=rope.number("low_freq_factor", float),
            high_turns=rope.number("high_freq_factor", float),
            original_context=rope.number("original_max_position_embeddings", int, context),
        )
        if not 0 < made.low_turns < made.high_turns < math.inf or made.original_context < 1:
            raise InputError(
                f"{fields.where}: low_freq_factor={made.low_turns}, high_freq_factor="
                f"{made.high_turns}, original_max_position_embeddings={made.original_context}: "
                "must be above 0, the first below the second"
            )
    return check_rope(made, head_dim, fields.where)


def check_rope(rope: Rope, head_dim: int, where: object) -> Rope:
    """Returns the rotary embedding, or raises `InputError` when no model can have it."""
    for name, value in (("rope_theta", rope.theta), ("factor", rope.factor)):
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{where}: {name}={value} must be finite and above 0")
    if rope.dims % 2 or not 0 < rope.dims <= head_dim:
        raise InputError(
            f"{where}: of the head_dim={head_dim} dimensions of a head {rope.dims} would be "
            "rotated: it must be an even number of them, and not 0"
        )
    return rope


def rates(rope: Rope) -> Float[np.ndarray, " r"]:
    """Radians per token, theta^(-2i/R), slowed down where the embedding is scaled; in float64.

    References:
      Su et al. 2021, arXiv 2104.09864, section 3.2.2; `linear`: Chen et al. 2023, arXiv
      2306.15595, equation 4; `llama3`: Llama 3.1's `apply_scaling`, as transformers has it.
    """
    rate = rope.theta ** (-np.arange(0, rope.dims, 2) / rope.dims)
    if not rope.high_turns:
        return rate / rope.factor
    turns = rope.original_context * rate / (2 * np.pi)
    kept = np.clip((turns - rope.low_turns) / (rope.high_turns - rope.low_turns), 0, 1)
    return rate * (kept + (1 - kept) / rope.factor)


def tables(rope: Rope, length: int) -> Float32[np.ndarray, "2 L 2 r"]:
    """Cosine and signed sine of the angles, position x rate, for both halves of R."""
    # By numpy, in float64: an angle of thousands of radians keeps too few digits in float32, and
    # constants leave XLA no sines to compute.
    angle_Lr = np.arange(length)[:, None] * rates(rope)[None]
    cos_Lr, sin_Lr = np.cos(angle_Lr), np.sin(angle_Lr)
    both = np.stack([cos_Lr, cos_Lr], axis=1), np.stack([-sin_Lr, sin_Lr], axis=1)
    return np.stack(both).astype(np.float32)


def rotate(
    x_BLHE: Float[Array, "B L H E"], tables_2L2r: Float32[np.ndarray, "2 L 2 r"]
) -> Float[Array, "B L H E"]:
    """Rotates dimension i of each head with i + R/2 (Hugging Face's order), in float32."""
    dims = 2 * tables_2L2r.shape[-1]
    # (a, b) to (a cos - b sin, b cos + a sin), with the halves of R on an axis of their own:
    # they are swapped by reading in reverse, where a concatenation would be written and read.
    x_BLHR = x_BLHE[..., :dims]
    halves_BLH2r = x_BLHR.astype(jnp.float32).reshape(*x_BLHE.shape[:-1], 2, -1)
    cos_BLH2r, sin_BLH2r = (table_L2r[None, :, None] for table_L2r in tables_2L2r)
    turned_BLH2r = halves_BLH2r * cos_BLH2r + halves_BLH2r[..., ::-1, :] * sin_BLH2r
    turned_BLHR = turned_BLH2r.reshape(x_BLHR.shape).astype(x_BLHE.dtype)
    return jnp.concatenate([turned_BLHR, x_BLHE[..., dims:]], axis=-1)
