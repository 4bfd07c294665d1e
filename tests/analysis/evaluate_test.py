"""Evaluation on a tiny model: against naive numpy, and of an autoencoder that is perfect."""

import jax.numpy as jnp
import numpy as np
import pytest

from saejax.analysis.evaluate import evaluate
from saejax.config import DataConfig
from saejax.errors import InputError
from saejax.lm import load_lm, make_capture
from saejax.lm.splice import splice
from saejax.sae.sae import Sae

D, N, K = 16, 40, 3


@pytest.fixture(scope="module")
def lm(tiny_lm):
    return load_lm(str(tiny_lm))


@pytest.fixture(scope="module")
def windows_WL(lm):
    return np.random.default_rng(0).integers(0, 256, (5, 12))


def random_sae(seed, **changes):
    rng = np.random.default_rng(seed)
    return Sae(
        w_enc=rng.normal(size=(D, N)).astype(np.float32),
        # Some of the latents never fire.
        b_enc=np.where(np.arange(N) % 4, 0, -1e6).astype(np.float32),
        w_dec=(rng.normal(size=(N, D)) / 4).astype(np.float32),
        b_dec=rng.normal(size=D).astype(np.float32) / 4,
        k=K,
        metadata=(("seed", seed),),
    ).replace(**changes)


def perfect_sae():
    """relu(x) - relu(-x)."""
    both = np.concatenate([np.eye(D), -np.eye(D)]).astype(np.float32)
    zeros = np.zeros(2 * D, np.float32)
    return Sae(w_enc=both.T, b_enc=zeros, w_dec=both, b_dec=zeros[:D], k=2 * D, arch="relu")


def naive_codes(sae, x_D):
    centred_D = x_D if sae.transcoder else x_D - sae.b_dec
    pre_N = np.maximum(centred_D @ sae.w_enc + sae.b_enc, 0)
    if sae.arch == "topk":
        pre_N[np.argsort(-pre_N)[sae.k :]] = 0
    if sae.arch == "jump_relu":
        pre_N[pre_N <= sae.threshold] = 0
    return pre_N


def naive(lm, saes, windows_WL, hookpoint, target, counts_WL):
    """Everything from whole arrays, position by position; splices are those of `splice`."""
    tokens = jnp.asarray(windows_WL, jnp.int32)
    seen = {n: np.asarray(x) for n, x in make_capture(lm, [hookpoint, target])(tokens).items()}
    x_WLD, y_WLD = seen[hookpoint], seen[target]
    places = list(zip(*np.nonzero(counts_WL), strict=True))
    mean_D = np.mean([y_WLD[p] for p in places], axis=0)
    variance = np.sum([np.square(y_WLD[p] - mean_D).sum() for p in places])

    def losses(fill):
        y = y_WLD.copy()
        for p in places:
            y[p] = fill(p)
        found = splice(lm, windows_WL, target, y[None])
        predicts = counts_WL[:, :-1]
        each = (found.loss, found.replaced_loss[0], found.kl[0])
        return [np.asarray(x)[predicts].mean() for x in each]

    own, zero, zero_kl = losses(lambda p: 0)
    _, mean, mean_kl = losses(lambda p: mean_D)
    result = {"own": own, "zero": zero, "zero_kl": zero_kl, "mean": mean, "mean_kl": mean_kl}
    result["saes"] = []
    for sae in saes:
        codes = {p: naive_codes(sae, x_WLD[p]) for p in places}
        y_hat = {p: codes[p] @ sae.w_dec + sae.b_dec for p in places}
        errors = np.array([y_WLD[p] - y_hat[p] for p in places])
        _, spliced, kl = losses(y_hat.__getitem__)
        result["saes"].append(
            {
                "fvu": np.square(errors).sum() / variance,
                "explained": 1 - errors.var(axis=0).sum() * len(places) / variance,
                "l0": np.mean([(codes[p] > 0).sum() for p in places]),
                "dead": np.mean(np.sum([codes[p] > 0 for p in places], axis=0) == 0),
                "spliced": spliced,
                "kl": kl,
                "zero": (zero - spliced) / (zero - own),
                "mean": (mean - spliced) / (mean - own),
            }
        )
    return result


def assert_like_naive(found, expected):
    def close(estimate, value):
        assert estimate.value == pytest.approx(value, rel=2e-4, abs=2e-5)
        assert 0 < estimate.standard_error < 10

    close(found.cross_entropy, expected["own"])
    for replaced, name in ((found.zero_ablation, "zero"), (found.mean_ablation, "mean")):
        close(replaced.cross_entropy, expected[name])
        close(replaced.increase, expected[name] - expected["own"])
        close(replaced.kl, expected[f"{name}_kl"])
    for scores, naive_scores in zip(found.saes, expected["saes"], strict=True):
        close(scores.fvu, naive_scores["fvu"])
        close(scores.spliced.cross_entropy, naive_scores["spliced"])
        close(scores.spliced.increase, naive_scores["spliced"] - expected["own"])
        close(scores.spliced.kl, naive_scores["kl"])
        assert scores.l0.value == pytest.approx(naive_scores["l0"])
        assert scores.dead_frac == pytest.approx(naive_scores["dead"])
        assert scores.explained_variance == pytest.approx(naive_scores["explained"], rel=1e-3)
        for recovered, name, ablation in (
            (scores.loss_recovered_zero, "zero", expected["zero"]),
            (scores.loss_recovered_mean, "mean", expected["mean"]),
        ):
            if ablation > expected["own"]:
                assert recovered.value == pytest.approx(naive_scores[name], rel=1e-2, abs=1e-2)
            else:
                assert recovered is None


def test_equals_naive_numpy_also_with_a_batch_that_is_not_full(lm, windows_WL):
    threshold = np.full(N, 0.8, np.float32)
    saes = [random_sae(1), random_sae(2, arch="jump_relu", threshold=threshold, k=N)]
    place = "layers.0.mlp"
    counts_WL = np.ones((5, 12), bool)
    counts_WL[:, :2] = False
    expected = naive(lm, saes, windows_WL, place, place, counts_WL)
    assert min(scores["dead"] for scores in expected["saes"]) >= 0.25
    found = evaluate(
        lm, saes, windows_WL, hookpoint=place, data=DataConfig(skip_tokens=2), batch_windows=2
    )
    assert (found.num_windows, found.num_tokens, found.num_predictions) == (5, 50, 45)
    assert_like_naive(found, expected)


def test_transcoder_and_positions_that_training_excludes(lm, windows_WL):
    reads, makes = "layers.1.post_attention_layernorm", "layers.1.mlp"
    sae = random_sae(3, transcoder=True, w_skip=None)
    x_WLD = np.asarray(make_capture(lm, [reads])(jnp.asarray(windows_WL, jnp.int32))[reads])
    special = [int(windows_WL[0, 3]), int(windows_WL[4, 7])]
    counts_WL = np.ones((5, 12), bool)
    counts_WL[:, 0] = False
    norms_WL = np.linalg.norm(x_WLD, axis=2)
    counts_WL &= norms_WL <= 1.2 * np.median(norms_WL[:, 1:], axis=1, keepdims=True)
    counts_WL &= ~np.isin(windows_WL, special)
    assert 0 < counts_WL.sum() < 50
    found = evaluate(
        lm,
        [sae],
        windows_WL,
        hookpoint=reads,
        target_hookpoint=makes,
        data=DataConfig(skip_tokens=1, exclude_special_tokens=True, max_norm_multiple=1.2),
        special_ids=special,
    )
    assert found.num_tokens == counts_WL.sum()
    assert_like_naive(found, naive(lm, [sae], windows_WL, reads, makes, counts_WL))


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_perfect_autoencoder_changes_nothing(tiny_lm, windows_WL, dtype):
    lm = load_lm(str(tiny_lm), dtype=dtype)
    found = evaluate(lm, [perfect_sae()], windows_WL, hookpoint="layers.0", data=DataConfig())
    [scores] = found.saes
    assert scores.fvu.value == pytest.approx(0, abs=1e-12)
    assert scores.explained_variance == pytest.approx(1)
    # bfloat16 rounds some to 0.
    assert scores.l0.value == pytest.approx(D, abs=0.1)
    assert scores.dead_frac == 0
    assert scores.spliced.kl.value == pytest.approx(0, abs=1e-7)
    assert scores.spliced.increase.value == pytest.approx(0, abs=1e-7)
    for ablation, recovered in (
        (found.zero_ablation, scores.loss_recovered_zero),
        (found.mean_ablation, scores.loss_recovered_mean),
    ):
        assert ablation.kl.value > 0.01
        if ablation.increase.value > 0:
            assert recovered is not None
            assert recovered.value == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"saes": []}, "no autoencoder"),
        ({"windows_WL": np.zeros((1, 12), np.int64)}, "1 window has no standard error"),
        ({"data": DataConfig(skip_tokens=11)}, "skip_tokens=11 leaves no prediction.*at most 10"),
        ({"hookpoint": "layers.2.mlp"}, "layers 0 to 1"),
        ({"target_hookpoint": "layers.1.mlp"}, "seed 1 is no transcoder: leave out"),
        ({"saes": [random_sae(1, transcoder=True)]}, "seed 1 is a transcoder: name target"),
        (
            {"saes": [random_sae(1, w_enc=np.zeros((8, N), np.float32))]},
            "seed 1 maps width 8 to 16, but .* have widths 16 and 16",
        ),
        (
            {"saes": [random_sae(1), random_sae(2, b_dec=np.full(D, np.nan, np.float32))]},
            "autoencoder 2 of 2: .*not finite",
        ),
        ({"windows_WL": np.full((2, 12), 300)}, "do not fit a vocabulary of 257"),
    ],
)
def test_bad_input_is_one_line(lm, windows_WL, changes, says):
    given = {
        "saes": [random_sae(1)],
        "windows_WL": windows_WL,
        "hookpoint": "layers.0.mlp",
        "data": DataConfig(),
    }
    with pytest.raises(InputError, match=says) as error:
        evaluate(lm, **(given | changes))
    assert "\n" not in str(error.value)
