"""How much two autoencoders share, by every published definition. N, M: latents of a and b."""

import dataclasses
import os

import numpy as np
from jaxtyping import Bool

from saejax.config import MATCH_METHODS
from saejax.errors import InputError
from saejax.matching import Matching, save_matchings
from saejax.matching.match import match_directions
from saejax.matching.matching import SIDES
from saejax.matching.similarity import SaeLike, check_widths, directions
from saejax.progress import Progress


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """Matchings of two autoencoders on both sides, and what follows from them.

    Every fraction is of the N latents of a. Unmatched latents (N > M) count as not shared.

    Example:
      >>> import numpy as np, saejax
      >>> one, zero = np.eye(2, dtype=np.float32), np.zeros(2, np.float32)
      >>> a = saejax.Sae(one, zero, one, zero, k=1)
      >>> b = saejax.Sae(one[::-1], zero, one, zero, k=1)
      >>> comparison = saejax.compare(a, b, method="scipy")
      >>> comparison.aligned_frac(0.7), comparison.agreement_frac
      (1.0, 0.0)

    Attributes:
      decoder: One-to-one matching of the decoders' rows.
      encoder: One-to-one matching of the encoders' columns.
      decoder_max: For each decoder row the most similar one of b; not one to one.
      encoder_max: For each encoder column the most similar one of b; not one to one.

    References:
      Paulo & Belrose (arXiv 2501.16615), section 3, and their released code, whose counts
      differ from the text in not requiring that the two partners agree.
    """

    decoder: Matching
    encoder: Matching
    decoder_max: Matching
    encoder_max: Matching

    def __post_init__(self):
        for name in ("decoder", "encoder", "decoder_max", "encoder_max"):
            matching = getattr(self, name)
            if matching.side != name.removesuffix("_max"):
                raise InputError(f"{name} is a matching of the {matching.side} side")
            if matching.num_latents != self.decoder.num_latents:
                raise InputError(
                    f"{name} has {matching.num_latents} latents and decoder "
                    f"{self.decoder.num_latents}: they are of different pairs"
                )
            if (matching.method == "max_cosine") != name.endswith("_max"):
                raise InputError(
                    f"{name} was made by method {matching.method!r}; the one-to-one matchings "
                    "and those of 'max_cosine' are swapped or missing"
                )

    @property
    def num_latents(self) -> int:
        """N, latents of a."""
        return self.decoder.num_latents

    @property
    def agree(self) -> Bool[np.ndarray, " N"]:
        """Whether both matchings name the same partner."""
        return self.decoder.matched & (self.decoder.target == self.encoder.target)

    def shared(self, threshold: float) -> Bool[np.ndarray, " N"]:
        """Whether both matchings name the same partner with both cosines >= threshold."""
        threshold = _checked(threshold)
        return self.agree & (self.decoder.cosine >= threshold) & (self.encoder.cosine >= threshold)

    def shared_frac(self, threshold: float) -> float:
        """Fraction of latents that are `shared`, the definition of the paper's text."""
        return float(self.shared(threshold).mean())

    def aligned_frac(self, threshold: float) -> float:
        """Fraction with both matched cosines > threshold, the count of the paper's code.

        Each cosine is with the partner of its own matching; the partners may differ.
        """
        threshold = _checked(threshold)
        aligned_N = (self.decoder.cosine > threshold) & (self.encoder.cosine > threshold)
        return float((aligned_N & self.decoder.matched & self.encoder.matched).mean())

    def decoder_frac(self, threshold: float) -> float:
        """Fraction with a matched decoder cosine > threshold (the paper's model comparisons)."""
        above_N = self.decoder.cosine > _checked(threshold)
        return float((above_N & self.decoder.matched).mean())

    def max_cosine_frac(self, threshold: float) -> float:
        """Fraction with both row maxima > threshold; partners may repeat and differ."""
        threshold = _checked(threshold)
        above_N = (self.decoder_max.cosine > threshold) & (self.encoder_max.cosine > threshold)
        return float(above_N.mean())

    @property
    def agreement_frac(self) -> float:
        """Fraction that `agree`, at any cosine ("Encoder-Decoder equal" in the paper)."""
        return float(self.agree.mean())

    @property
    def mean_cosine(self) -> dict[str, float]:
        """Mean cosine of the latents that have a partner.

        Keys: decoder_matched, encoder_matched, decoder_max, encoder_max.
        """
        matchings = {
            "decoder_matched": self.decoder,
            "encoder_matched": self.encoder,
            "decoder_max": self.decoder_max,
            "encoder_max": self.encoder_max,
        }
        return {
            name: float(m.cosine[m.matched].mean(dtype=np.float64)) for name, m in matchings.items()
        }

    def save(self, matched_path: str | os.PathLike, max_path: str | os.PathLike) -> None:
        """Writes the one-to-one matchings to one file and the row maxima to another.

        In a run: `seed<i>-seed<j>.<method>.npz` and `seed<i>-seed<j>.max_cosine.npz`.
        """
        save_matchings(matched_path, {"decoder": self.decoder, "encoder": self.encoder})
        save_matchings(max_path, {"decoder": self.decoder_max, "encoder": self.encoder_max})

    @classmethod
    def load(cls, matched_path: str | os.PathLike, max_path: str | os.PathLike) -> "Comparison":
        """Reads what `save` wrote; nothing is computed again.

        Raises:
          InputError: If a file cannot be read, or the two do not belong together.
        """
        matchings = {
            "decoder": Matching.load(matched_path, "decoder"),
            "encoder": Matching.load(matched_path, "encoder"),
            "decoder_max": Matching.load(max_path, "decoder"),
            "encoder_max": Matching.load(max_path, "encoder"),
        }
        try:
            return cls(**matchings)
        except InputError as error:
            raise InputError(f"{matched_path} and {max_path}: {error}") from None


def compare(
    sae_a: SaeLike,
    sae_b: SaeLike,
    *,
    method: str = "exact",
    maxima_of: Comparison | None = None,
    epsilon: float | None = None,
    tolerance: float | None = None,
) -> Comparison:
    """Matches two autoencoders on both sides, one to one and by row maxima.

    Example:
      >>> from types import SimpleNamespace
      >>> sae = SimpleNamespace(w_enc=np.eye(3), w_dec=np.eye(3))
      >>> compare(sae, sae, method="scipy").shared_frac(0.7)
      1.0

    Args:
      sae_a: An autoencoder with w_enc [D, N] and w_dec [N, D].
      sae_b: Another of the same width D, [D, M] and [M, D].
      method: How to match one to one: "exact", "sinkhorn" or "scipy".
      maxima_of: A comparison of the same two by another method, whose row maxima are taken over
        instead of being computed again.
      epsilon: Of "sinkhorn", see `match`.
      tolerance: Of "sinkhorn", see `match`.

    Raises:
      InputError: As `match`; and if the method is not one to one, or a source has one side only.
    """
    if method not in MATCH_METHODS:
        raise InputError(
            f"method={method!r}: choose one of {', '.join(MATCH_METHODS)}; row maxima are always "
            "computed as well"
        )
    rows = {}
    for side in SIDES:
        for name, sae in (("a", sae_a), ("b", sae_b)):
            if not isinstance(sae, SaeLike):
                raise InputError(
                    f"{name} has no w_enc and w_dec: give an SAE, or match arrays with `match`"
                )
            rows[name, side] = directions(sae, side, name)
        check_widths(rows["a", side], rows["b", side])
    for name in ("a", "b"):
        if rows[name, "decoder"].shape != rows[name, "encoder"].shape:
            raise InputError(
                f"{name}: decoder {rows[name, 'decoder'].shape} and encoder "
                f"{rows[name, 'encoder'].shape} are of different sizes"
            )
    parts = [("", method)] if maxima_of else [("", method), ("_max", "max_cosine")]
    made = {
        key + "_max": getattr(maxima_of, key + "_max") for key in SIDES if maxima_of is not None
    }
    total = len(SIDES) * len(parts) * len(rows["a", "decoder"])
    with Progress(f"compare, {method}", total=total, unit="latents") as progress:
        for key in SIDES:
            for suffix, how in parts:
                made[key + suffix] = match_directions(
                    rows["a", key],
                    rows["b", key],
                    method=how,
                    side=key,
                    progress=progress,
                    epsilon=epsilon,
                    tolerance=tolerance,
                )
    return Comparison(**made)


def _checked(threshold: float) -> float:
    if not -1 <= threshold <= 1:
        raise InputError(f"threshold={threshold}: a cosine is in [-1, 1]; the paper uses 0.7")
    # A float64 scalar of NumPy would promote the float32 cosines it is compared with.
    return float(threshold)
