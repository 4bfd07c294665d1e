"""The streamed sums and contexts against NumPy on whole matrices of codes."""

import os
import signal

import jax
import numpy as np
import pytest

from saejax.analysis.cofiring import correlation, jaccard
from saejax.analysis.contexts import context_tokens
from saejax.analysis.firing import Firing, mean_when_firing
from saejax.analysis.latent_pass import Pair, run_pass
from saejax.errors import InputError
from saejax.sae.sae import Sae
from saejax.train.interrupt import Interrupted

D, N, C, W, BEFORE = 5, 12, 6, 25, 16


def make_sae(seed, arch="topk"):
    """Small whole numbers, so that codes are exact and many are equal."""
    rng = np.random.default_rng(seed)
    sae = Sae(
        w_enc=rng.integers(-2, 3, (D, N)).astype(np.float32),
        b_enc=rng.integers(-2, 1, N).astype(np.float32),
        w_dec=rng.normal(size=(N, D)).astype(np.float32),
        b_dec=rng.integers(-1, 2, D).astype(np.float32),
        k=3 if arch == "topk" else N,
        arch=arch,
        threshold=np.full(N, 2.0, np.float32) if arch == "jump_relu" else None,
        r_mag=np.zeros(N, np.float32) if arch == "gated" else None,
        b_mag=np.full(N, -1.0, np.float32) if arch == "gated" else None,
    )
    sae.b_enc[0] = -1e6  # A dead latent.
    return sae


def naive_codes(sae, x_TD):
    pre_TN = (x_TD - sae.b_dec) @ sae.w_enc + sae.b_enc
    code_TN = np.maximum(pre_TN, 0)
    if sae.arch == "topk":
        order_TN = np.argsort(-code_TN, axis=1, kind="stable")
        np.put_along_axis(code_TN, order_TN[:, sae.k :], 0, axis=1)
    elif sae.arch == "jump_relu":
        code_TN *= code_TN > 2
    elif sae.arch == "gated":
        code_TN = np.maximum(pre_TN - sae.b_enc - 1, 0) * (pre_TN > 0)
    return code_TN


def naive_contexts(code_BLN, keep_BL, tokens_BL, latent, skip):
    """(peak, tokens [W], values [W]) of the largest value of each window, the best C."""
    code_BL = np.where(keep_BL, code_BLN[:, :, latent], 0)
    found = []
    for window, code_L in enumerate(code_BL):
        at = int(np.argmax(code_L))
        if code_L[at] > 0:
            ids, values = [], []
            for place in range(at - BEFORE, at - BEFORE + W):
                inside = -skip <= place < len(code_L)
                ids.append(tokens_BL[window, place + skip] if inside else -1)
                values.append(code_L[place] if inside and place >= 0 else 0)
            found.append((code_L[at], ids, values))
    return sorted(found, key=lambda context: -context[0])[:C]


@pytest.fixture
def text():
    """Windows of activations, which positions count, and their tokens; one token is skipped."""
    rng = np.random.default_rng(7)

    def made(windows, length):
        x_BLD = rng.integers(-3, 4, (windows, length, D)).astype(np.float32)
        keep_BL = rng.random((windows, length)) > 0.1
        return x_BLD, keep_BL, rng.integers(0, 99, (windows, length + 1))

    return made


def run(saes, pairs, x_BLD, keep_BL, path, *, batch_windows=4, read=None):
    return run_pass(
        saes,
        pairs,
        read or (lambda numbers_B: (x_BLD[numbers_B], keep_BL[numbers_B])),
        np.arange(len(x_BLD)),
        batch_windows=batch_windows,
        partial=path,
        inputs="these",
    )


@pytest.mark.parametrize(
    ("arch", "windows", "length"),
    [
        ("topk", 10, 30),
        ("relu", 10, 30),
        ("jump_relu", 10, 30),
        ("gated", 10, 30),
        ("topk", 3, 600),
    ],
)
def test_sums_and_contexts_are_those_of_whole_matrices(arch, windows, length, text, tmp_path):
    x_BLD, keep_BL, tokens_BL = text(windows, length)
    saes = [make_sae(1, arch), make_sae(2, arch)]
    target_N = np.random.default_rng(0).permutation(N).astype(np.int32)
    totals = run(saes, [Pair(0, 1, target_N)], x_BLD, keep_BL, tmp_path / "partial.npz")
    codes = [naive_codes(sae, x_BLD.reshape(-1, D)).reshape(windows, length, N) for sae in saes]
    assert totals.tokens == keep_BL.sum()
    for code_BLN, sums, peaks in zip(codes, totals.firing, totals.peaks, strict=True):
        code_TN = code_BLN[keep_BL]
        np.testing.assert_array_equal(sums.firings, (code_TN > 0).sum(0))
        means = [c[c > 0].mean() if (c > 0).any() else 0 for c in code_TN.T]
        np.testing.assert_allclose(mean_when_firing(sums), means, rtol=1e-6)
        np.testing.assert_array_equal(np.asarray(peaks.value)[0], code_TN.max(0))
        ids_NCW = context_tokens(peaks, tokens_BL, np.arange(windows), skip=1)
        for n in range(N):
            contexts = naive_contexts(code_BLN, keep_BL, tokens_BL, n, skip=1)
            assert (np.asarray(peaks.value)[len(contexts) :, n] == 0).all()
            assert (ids_NCW[n, len(contexts) :] == -1).all()
            for c, (value, ids, values) in enumerate(contexts):
                assert peaks.value[c, n] == value
                np.testing.assert_array_equal(ids_NCW[n, c], ids)
                np.testing.assert_array_equal(peaks.around[c, :, n], values)
    f_TN, g_TN = codes[0][keep_BL], codes[1][keep_BL][:, target_N]
    a, b = totals.firing[0], Firing(*(part[target_N] for part in totals.firing[1]))
    (both,) = totals.cofiring
    either_N = ((f_TN > 0) | (g_TN > 0)).sum(0)
    expected_N = ((f_TN > 0) & (g_TN > 0)).sum(0) / np.maximum(either_N, 1)
    np.testing.assert_allclose(jaccard(a, b, both), expected_N, rtol=1e-6)
    constant_N = (np.ptp(f_TN, axis=0) == 0) | (np.ptp(g_TN, axis=0) == 0)
    assert constant_N.any()
    found_N = correlation(a, b, both, int(totals.tokens))
    for n in range(N):
        expected = 0 if constant_N[n] else np.corrcoef(f_TN[:, n], g_TN[:, n])[0, 1]
        assert found_N[n] == pytest.approx(expected, abs=1e-5)


def test_values_too_large_for_float16_are_cut_off_and_stay_the_peak(tmp_path):
    sae = make_sae(1, "relu").replace(w_enc=np.eye(D, N, dtype=np.float32))
    x_BLD = np.full((1, 20, D), 1e5, np.float32)
    totals = run([sae], [], x_BLD, np.ones((1, 20), bool), tmp_path / "partial.npz")
    assert totals.peaks[0].value[0, 1] > 9e4
    assert totals.peaks[0].around[0, BEFORE, 1] == 65504


def test_stopped_and_continued_gives_the_same_bits(text, tmp_path):
    x_BLD, keep_BL, _ = text(10, 30)
    # Sums of these depend on their order.
    x_BLD += np.random.default_rng(3).normal(size=x_BLD.shape).astype(np.float32)
    saes, path = [make_sae(1), make_sae(2)], tmp_path / "partial.npz"
    pairs = [Pair(0, 1, np.arange(N, dtype=np.int32)[::-1].copy())]
    straight = run(saes, pairs, x_BLD, keep_BL, tmp_path / "other.npz")
    assert not (tmp_path / "other.npz").exists()
    first_windows = []

    def stopped(numbers_B):
        first_windows.append(int(numbers_B[0]))
        if numbers_B[0] == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return x_BLD[numbers_B], keep_BL[numbers_B]

    with pytest.raises(Interrupted, match=r"stopped at window 8 of 10, saved in .*partial\.npz"):
        run(saes, pairs, x_BLD, keep_BL, path, read=stopped)
    totals = run(saes, pairs, x_BLD, keep_BL, path, read=stopped)
    assert first_windows == [0, 4, 8]
    for one, other in zip(jax.tree.leaves(straight), jax.tree.leaves(totals), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


def test_a_pass_of_other_inputs_is_not_continued(text, tmp_path):
    x_BLD, keep_BL, _ = text(2, 30)
    path = tmp_path / "partial.npz"
    np.savez(path, inputs=np.array("others"))
    assert run([make_sae(1)], [], x_BLD, keep_BL, path).tokens == keep_BL.sum()
    path.write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(InputError, match=r"partial\.npz cannot be read .*delete it"):
        run([make_sae(1)], [], x_BLD, keep_BL, path)


def test_activations_that_are_not_finite_are_refused(text, tmp_path):
    x_BLD, keep_BL, _ = text(6, 30)
    x_BLD[5, 3], keep_BL[5, 3] = np.nan, False
    run([make_sae(1, "jump_relu")], [], x_BLD, keep_BL, tmp_path / "partial.npz")
    keep_BL[5, 3] = True
    with pytest.raises(InputError, match=r"windows 4 to 5 have activations that are not finite"):
        run([make_sae(1, "jump_relu")], [], x_BLD, keep_BL, tmp_path / "partial.npz")
