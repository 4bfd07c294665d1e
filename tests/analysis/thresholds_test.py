"""Counts at all thresholds, against counting by hand."""

import json

import numpy as np

from saejax.analysis.compare import Comparison
from saejax.analysis.thresholds import THRESHOLDS, thresholds_record
from saejax.matching import Matching

N = 200


def comparison(rng):
    decoder, encoder = rng.permutation(N).astype(np.int32), rng.permutation(N).astype(np.int32)
    encoder[: N // 2] = decoder[: N // 2]
    # On the thresholds themselves too, which count for "shared" alone.
    cosine = (rng.integers(0, 101, size=(4, N)) / 100).astype(np.float32)
    made = [
        Matching(target, cosine_N, None, None, side, method, None)
        for (target, side, method), cosine_N in zip(
            [
                (decoder, "decoder", "exact"),
                (encoder, "encoder", "exact"),
                (decoder, "decoder", "max_cosine"),
                (encoder, "encoder", "max_cosine"),
            ],
            cosine,
            strict=True,
        )
    ]
    return Comparison(*made), np.float32(cosine), decoder == encoder


def test_counts_by_hand():
    found, cosine, agree = comparison(np.random.default_rng(0))
    record = json.loads(json.dumps(thresholds_record({(1, 2, "exact"): found})))
    assert record["thresholds"] == [round(0.01 * i, 2) for i in range(101)] == list(THRESHOLDS)
    (pair,) = record["pairs"]
    assert (pair["seeds"], pair["method"], pair["num_latents"]) == ([1, 2], "exact", N)
    for place, threshold in enumerate(np.float32(record["thresholds"])):
        d, e, d_max, e_max = cosine
        by_hand = {
            "shared_frac": (agree & (d >= threshold) & (e >= threshold)).sum(),
            "aligned_frac": ((d > threshold) & (e > threshold)).sum(),
            "decoder_frac": (d > threshold).sum(),
            "agreement_frac": agree.sum(),
            "max_cosine_frac": ((d_max > threshold) & (e_max > threshold)).sum(),
        }
        assert {name: counts[place] for name, counts in pair["counts"].items()} == by_hand
