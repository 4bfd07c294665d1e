"""What latents do, from a run on disk to files, results and table."""

import json
import shutil

import numpy as np
import pytest

import saejax
from saejax import run as stages
from saejax.analysis import latents
from saejax.analysis.latent_files import PairLatents, SeedLatents
from saejax.analysis.latent_table import latents_table
from saejax.analysis.latents import describe_latents
from saejax.analysis.text import chosen_windows, open_text
from saejax.data.store import ActivationStore
from saejax.errors import InputError
from saejax.rundir import RunDir, open_run

HOOKPOINT = "layers.1.mlp"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Copies of a run, trained and matched once, with or without excluded tokens."""
    made = {}

    def copy(cfg, to):
        cfg.data.store_dtype = "float32"
        key = cfg.data.exclude_special_tokens
        if key not in made:
            run = open_run(cfg, tmp_path_factory.mktemp("finished") / "run")
            stages.overlap_run(cfg, run, stages.train_run(cfg, run))
            made[key] = run.root
        shutil.copytree(made[key], to)
        run = RunDir(to)
        return run, {seed: saejax.load_sae(run.sae(HOOKPOINT, seed)) for seed in cfg.init_seeds}

    return copy


def test_files_and_results_are_those_of_all_codes(cfg, finished, tmp_path):
    run, saes = finished(cfg, tmp_path / "run")
    found = describe_latents(cfg, run, saes)
    assert not list(run.root.rglob("*partial*"))
    store = ActivationStore(run.activations, (HOOKPOINT,))
    x_TD = np.concatenate([store[i][HOOKPOINT] for i in range(len(store))]).astype(np.float32)
    assert found["num_tokens"] == len(x_TD) == 48 * 31
    assert (found["activations"], found["missing_pairs"]) == ("store", [])
    dense = {}
    for seed, sae in saes.items():
        codes = saejax.encode(sae, x_TD)
        dense[seed] = code_TN = np.zeros((len(x_TD), 32))
        np.put_along_axis(code_TN, np.asarray(codes.indices), np.asarray(codes.values), axis=1)
        seen = SeedLatents.load(run.latents(HOOKPOINT, seed))
        assert seen.num_tokens == len(x_TD)
        np.testing.assert_array_equal(seen.firings_N, (code_TN > 0).sum(0))
        np.testing.assert_allclose(seen.max_N, code_TN.max(0), rtol=1e-5)
        np.testing.assert_allclose(seen.context_values_NCW[:, 0, 16], code_TN.max(0), rtol=1e-3)
        assert (np.diff(seen.context_values_NCW[:, :, 16].astype(float), axis=1) <= 0).all()
        windows_WL = open_text(cfg).windows
        for n in np.flatnonzero(seen.firings_N):
            window, token = divmod(int(code_TN[:, n].argmax()), 31)
            assert seen.context_tokens_NCW[n, 0, 16] == windows_WL[window][token + 1]
        assert seen.promoted_NP.shape == (32, 8)
    (row,) = [row for row in found["seeds"] if row["seed"] == 2]
    frequency_N = (dense[2] > 0).mean(0)
    assert row["dead_frac"] == (frequency_N == 0).mean()
    assert row["high_frequency_frac"] == (frequency_N > 0.1).mean()
    assert row["frequency_quantiles"]["0.5"] == pytest.approx(np.median(frequency_N))
    pair = PairLatents.load(run.latents(HOOKPOINT, 1, 2))
    matching = saejax.Matching.load(run.matching(HOOKPOINT, (1, 2), "exact"), "decoder")
    g_TN = dense[2][:, matching.target]
    np.testing.assert_array_equal(pair.both_N, ((dense[1] > 0) & (g_TN > 0)).sum(0))
    nearest_N = np.take_along_axis(pair.neighbour_NR, np.zeros((32, 1), int), axis=1)[:, 0]
    maxima = saejax.Matching.load(run.matching(HOOKPOINT, (1, 2), "max_cosine"), "decoder")
    np.testing.assert_array_equal(nearest_N, maxima.target)
    (summary,) = found["pairs"]
    assert summary["shared"]["num_latents"] + summary["unshared"]["num_latents"] == 32
    parts = [summary[name] for name in ("shared", "unshared") if summary[name]["num_latents"]]
    mean = sum(part["num_latents"] * part["jaccard"]["mean"] for part in parts) / 32
    assert mean == pytest.approx(pair.jaccard_N.mean(), rel=1e-5)
    assert json.loads(run.result("latents").read_text()) == found
    table = latents_table(found)
    assert f"{48 * 31:,} tokens, from the store" in table
    assert "1, 2 unshared" in table


def test_what_is_there_is_not_read_again(cfg, finished, tmp_path, monkeypatch):
    run, saes = finished(cfg, tmp_path / "run")
    found = describe_latents(cfg, run, saes)
    with monkeypatch.context() as patch:
        patch.setattr(latents, "run_pass", None)
        assert describe_latents(cfg, run, saes) == found
    run.latents(HOOKPOINT, 2).unlink()
    assert describe_latents(cfg, run, saes) == found
    assert run.latents(HOOKPOINT, 2).exists()
    saes[1].b_enc[5] = -1e6
    assert describe_latents(cfg, run, saes)["seeds"][0]["dead_frac"] == 1 / 32


def test_store_and_model_agree(cfg, finished, tmp_path):
    run, saes = finished(cfg, tmp_path / "run")
    found = {}
    shard = run.activations / HOOKPOINT / "00000.npy"
    for origin in ("store", "model"):
        found[origin] = describe_latents(cfg, run, saes, num_tokens=20 * 31 + 5)
        seen = SeedLatents.load(run.latents(HOOKPOINT, 1))
        found[origin + " firings"] = seen.firings_N
        assert (found[origin]["activations"], seen.num_tokens) == (origin, 20 * 31)
        run.result("latents").unlink()
        if origin == "store":
            shard.write_bytes(shard.read_bytes()[:-1] + b"!")
            with pytest.warns(UserWarning, match=r"00000\.npy .*; the model is run instead"):
                describe_latents(cfg, run, saes, num_tokens=20 * 31)
            run.result("latents").unlink()
            shutil.rmtree(run.activations)
    # A code at the edge of the k largest may fall either way.
    difference_N = np.abs(found["store firings"] - found["model firings"])
    assert difference_N.sum() <= 4


def test_excluded_positions_do_not_count(cfg, finished, tmp_path):
    cfg.data.exclude_special_tokens = True
    run, saes = finished(cfg, tmp_path / "run")
    found = describe_latents(cfg, run, saes)
    text = open_text(cfg)
    ids = text.windows[:][:, 1:]
    special = np.isin(ids, text.tokenizer.special_ids).sum()
    assert special
    assert (found["activations"], found["num_tokens"]) == ("model", ids.size - special)


def test_without_matchings_each_seed_is_described(cfg, finished, tmp_path):
    run, saes = finished(cfg, tmp_path / "run")
    run.matching(HOOKPOINT, (1, 2), "exact").unlink()
    with pytest.warns(UserWarning, match=r"no matchings of seeds 1-2 .*seed_overlap\.py makes"):
        found = describe_latents(cfg, run, saes)
    assert (found["pairs"], found["missing_pairs"]) == ([], [[1, 2]])
    assert run.latents(HOOKPOINT, 1).exists()
    assert not run.latents(HOOKPOINT, 1, 2).exists()
    alone = describe_latents(cfg, run, {2: saes[2]})
    assert alone["seeds"] == found["seeds"][1:]
    assert alone["missing_pairs"] == []
    assert "unshared" not in latents_table(alone)


def test_bad_input_is_named(cfg, finished, tmp_path):
    run, saes = finished(cfg, tmp_path / "run")
    with pytest.raises(InputError, match="tokens=30: a window has 31"):
        describe_latents(cfg, run, saes, num_tokens=30)
    small = saes[2].replace(w_dec=saes[2].w_dec[:-1])
    with pytest.raises(InputError, match=r"does not pair 32 with 31 latents: delete it"):
        describe_latents(cfg, run, {1: saes[1], 2: small})
    wide = saes[2].replace(w_dec=np.zeros((32, 17), np.float32))
    with pytest.raises(InputError, match=r"seed 2 maps width 16 to 17, but .* has width 16"):
        describe_latents(cfg, run, {1: saes[1], 2: wide})
    for file, says in (
        (run.latents(HOOKPOINT, 1), "no such file; experiments/analyze.py writes it"),
        (run.matching(HOOKPOINT, (1, 2), "exact"), "cannot be read"),
    ):
        with pytest.raises(InputError, match=says):
            SeedLatents.load(file)
    describe_latents(cfg, run, saes)
    path = run.latents(HOOKPOINT, 1)
    with np.load(path) as parts:
        arrays = dict(parts)
    np.savez(path, **(arrays | {"firings_N": arrays["firings_N"][:-1]}))
    with pytest.raises(InputError, match=r"firings_N is int64\[31\], not int64 as the others"):
        SeedLatents.load(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"seed1\.npz cannot be read"):
        SeedLatents.load(path)


def test_windows_are_spread_over_the_corpus_unless_in_order(cfg):
    text = open_text(cfg)
    assert chosen_windows(cfg, text, 4 * 31).tolist() == [0, 12, 24, 36]
    cfg.data.order = "in_order"
    assert chosen_windows(cfg, text, 4 * 31).tolist() == [0, 1, 2, 3]
