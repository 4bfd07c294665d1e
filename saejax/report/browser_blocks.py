"""Blocks of the latent browser: arrays, compressed (zlib) and in base64, as a page carries them.

Cosines and other values in [-1, 1] are whole ten-thousandths. Tokens are numbered for the page,
the most frequent first, from 1 on; 0 pads. Low and high bytes of their numbers lie apart, which
compresses best.

Dimension letters: N latents, n of them described, W tokens of a snippet, P logit-lens tokens,
T distinct texts, V distinct tokens, X bytes of a token's number.
"""

import base64
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from saejax.analysis.compare import Comparison
from saejax.analysis.latent_files import PairLatents, SeedLatents
from saejax.errors import InputError
from saejax.lm.token_text import token_bytes
from saejax.lm.tokenizer import load_tokenizer
from saejax.matching.matching import Soft

_JAVASCRIPT_TYPES = {
    "<f8": "Float64Array",
    "<f4": "Float32Array",
    "<i4": "Int32Array",
    "<i2": "Int16Array",
    "<u2": "Uint16Array",
    "|i1": "Int8Array",
    "|u1": "Uint8Array",
}


class Block(NamedTuple):
    """Some arrays, in the order of `layout`."""

    layout: list[tuple[str, str, int]]  # name, JavaScript type, number of items
    text: str


class Tokens(NamedTuple):
    """The distinct tokens of a page."""

    number: np.ndarray  # [largest id + 2] a token's number in the page, by id + 1
    text: dict[str, np.ndarray]  # `size` of each token, and its bytes behind those before
    num_planes: int  # X

    def planes(self, ids: np.ndarray) -> np.ndarray:
        """[X, ...] lowest bytes of the numbers of tokens, then higher ones."""
        number = self.number[ids + 1]
        return np.stack([number >> 8 * x & 255 for x in range(self.num_planes)]).astype(np.uint8)


def pack(arrays: dict[str, np.ndarray]) -> Block:
    """A block of some arrays."""
    # Falling sizes of items keep every array aligned.
    ordered = sorted(arrays.items(), key=lambda item: -item[1].itemsize)
    little = [(name, array.astype(array.dtype.newbyteorder("<"))) for name, array in ordered]
    layout = [(name, _JAVASCRIPT_TYPES[array.dtype.str], array.size) for name, array in little]
    packed = zlib.compress(b"".join(array.tobytes() for _, array in little))
    return Block(layout, base64.b64encode(packed).decode("ascii"))


def number_tokens(seeds: Sequence[SeedLatents], source: str) -> tuple[Tokens, str | None]:
    """The tokens of some seeds, and why they have numbers for texts, if they do.

    Args:
      seeds: Whose contexts and logit-lens tokens count.
      source: The language model, which has the tokenizer.
    """
    arrays = [
        array for s in seeds for array in (s.context_tokens_NCW, s.promoted_NP, s.suppressed_NP)
    ]
    size = 2 + max((int(array.max()) for array in arrays), default=-1)
    count = np.zeros(size, np.int64)
    for array in arrays:
        count += np.bincount(array.ravel() + 1, minlength=size)
    count[0] = 0
    order_V = np.argsort(-count, kind="stable")[: np.count_nonzero(count)]
    number = np.zeros(size, np.uint32)
    number[order_V] = np.arange(1, len(order_V) + 1)
    ids = (order_V - 1).tolist()
    texts, why = [], None
    if ids:
        try:
            texts = token_bytes(load_tokenizer(source), ids)
        except InputError as error:
            # The page may be written where the model is not; everything else in it holds.
            texts, why = [f" {token}".encode() for token in ids], str(error)
    text = {
        "size": np.array([0, *map(len, texts)], np.uint16),
        "byte": np.frombuffer(b"".join(texts), np.uint8),
    }
    return Tokens(number, text, max(1, -(-len(ids).bit_length() // 8))), why


def pair_core(
    comparison: Comparison, threshold: float, latents: PairLatents | None
) -> dict[str, np.ndarray]:
    """What the list shows of the latents of a pair's first seed."""
    arrays = {
        "target": comparison.decoder.target,
        "encoder_target": comparison.encoder.target,
        "decoder": _fixed(comparison.decoder.cosine),
        "encoder": _fixed(comparison.encoder.cosine),
        # 2: shared; 1: the same partner; 0: different ones.
        "kind": comparison.agree.astype(np.uint8) + comparison.shared(threshold),
    }
    if latents is not None:
        arrays["jaccard"] = _fixed(latents.jaccard_N)
        arrays["correlation"] = _fixed(latents.correlation_N)
    return arrays


def pair_details(
    soft: Soft | None, latents: PairLatents | None, rows_n: np.ndarray
) -> dict[str, np.ndarray]:
    """Neighbours, joint firings and entropic plan of the described latents."""
    arrays = {}
    if latents is not None:
        arrays |= {
            "both": latents.both_N[rows_n].astype(np.float64),
            "neighbour": latents.neighbour_NR[rows_n].astype(np.int32),
            "neighbour_cosine": _fixed(latents.neighbour_cosine_NR[rows_n]),
        }
    if soft is not None:
        arrays |= {
            "entropy": soft.entropy[rows_n],
            "likeliest": soft.likeliest[rows_n],
            "weight": _fixed(soft.weight[rows_n]),
            "expected": _fixed(soft.expected_cosine[rows_n]),
        }
    return arrays


def seed_core(latents: SeedLatents) -> dict[str, np.ndarray]:
    """Firing rate, largest and mean value of all latents of a seed."""
    return {
        "rate": (latents.firings_N / latents.num_tokens).astype(np.float32),
        "max": latents.max_N.astype(np.float32),
        "mean": latents.mean_N.astype(np.float32),
    }


def lens(latents: SeedLatents, rows_n: np.ndarray, tokens: Tokens) -> dict[str, np.ndarray]:
    """Promoted, then suppressed tokens; logits in 127ths of the row's `scale`."""
    ids_nP = np.concatenate([latents.promoted_NP, latents.suppressed_NP], axis=1)[rows_n]
    logit_nP = np.concatenate([latents.promoted_logit_NP, latents.suppressed_logit_NP], axis=1)[
        rows_n
    ]
    scale_n = np.abs(logit_nP).max(axis=1).astype(np.float32)
    share_nP = logit_nP / np.where(scale_n > 0, scale_n, 1)[:, None]
    return {
        "token": tokens.planes(ids_nP),
        "logit": np.rint(127 * share_nP).astype(np.int8),
        "scale": scale_n,
    }


def snippets(
    seeds: dict[int, SeedLatents],
    rows: dict[int, np.ndarray],
    rank: int,
    tokens: Tokens,
    known: dict[bytes, int],
) -> dict[str, np.ndarray]:
    """Snippets of one rank of all seeds.

    `token` holds the texts that are not `known` yet, which are added to it with their numbers;
    `text<seed>` the number of each latent's text, -1 for none; `value<seed>` the values at its
    tokens, in 255ths of the latent's largest.
    """
    arrays, new = {}, []
    for seed, latents in seeds.items():
        tokens_nW = np.ascontiguousarray(latents.context_tokens_NCW[rows[seed], rank])
        text_n = np.empty(len(tokens_nW), np.int32)
        for row, tokens_W in enumerate(tokens_nW):
            key = tokens_W.tobytes()
            if key not in known:
                known[key] = len(known)
                new.append(tokens_W)
            text_n[row] = known[key]
        text_n[(tokens_nW < 0).all(axis=1)] = -1
        max_n = latents.max_N[rows[seed]]
        value_nW = latents.context_values_NCW[rows[seed], rank].astype(np.float32)
        share_nW = value_nW / np.where(max_n > 0, max_n, 1)[:, None]
        arrays[f"text{seed}"] = text_n
        arrays[f"value{seed}"] = np.rint(255 * share_nW.clip(0, 1)).astype(np.uint8)
    width = next(iter(seeds.values())).context_tokens_NCW.shape[2]
    return arrays | {"token": tokens.planes(np.array(new, np.int64).reshape(len(new), width))}


def _fixed(values: np.ndarray) -> np.ndarray:
    """Values in [-1, 1] as ten-thousandths."""
    return np.rint(10_000 * values.clip(-1, 1)).astype(np.int16)
