"""Levels and partners against the analysis of seeds and the matchings themselves."""

import numpy as np
import pytest

import saejax
from saejax.analysis.seeds_of_run import seeds_of_run
from saejax.errors import InputError
from saejax.interp.sharing import read_sharing
from saejax.rundir import open_run

N, D = 32, 16


@pytest.fixture
def matched(cfg, tmp_path):
    """Three seeds that share some directions, up to noise, in other places."""
    cfg.init_seeds, cfg.match.methods, cfg.match.threshold = (5, 1, 3), ("scipy",), 0.8
    run = open_run(cfg, tmp_path / "run")
    rng = np.random.default_rng(0)
    base_ND, zeros = rng.normal(size=(N, D)), np.zeros(N, np.float32)
    saes = {}
    for seed, kept in zip(cfg.init_seeds, (32, 20, 12), strict=True):
        row_ND = np.where(np.arange(N)[:, None] < kept, base_ND, rng.normal(size=(N, D)))
        row_ND = (row_ND + 0.05 * rng.normal(size=(N, D)))[rng.permutation(N)].astype(np.float32)
        saes[seed] = saejax.Sae(row_ND.T, zeros, row_ND, zeros[:D], k=4)
    for i, j in ((5, 1), (5, 3), (1, 3)):
        files = [run.matching(cfg.hookpoint, (i, j), name) for name in ("scipy", "max_cosine")]
        saejax.compare(saes[i], saes[j], method="scipy").save(*files)
    return cfg, run, saes


def test_levels_are_those_of_the_analysis(matched):
    cfg, run, saes = matched
    found = read_sharing(cfg, run)
    levels = seeds_of_run(run, method="scipy")["levels"]
    for own, counts in zip(found.levels, levels, strict=False):
        assert np.bincount(own, minlength=3).tolist() == counts
    assert len(set(found.levels[0])) == 3, "the test has all levels"
    unit = {
        seed: sae.w_dec / np.linalg.norm(sae.w_dec, axis=1)[:, None] for seed, sae in saes.items()
    }
    cosine_N = (unit[5] * unit[1][found.partner]).sum(axis=1)
    np.testing.assert_allclose(found.cosine, cosine_N, atol=1e-5)
    # Encoders are the same as decoders here.
    np.testing.assert_array_equal(found.shared, cosine_N >= 0.8)


def test_what_is_missing_is_named(matched):
    cfg, run, _ = matched
    run.matching(cfg.hookpoint, (1, 3), "scipy").unlink()
    with pytest.raises(InputError, match=r"seed1-seed3\.scipy\.npz is missing: .*analyze\.py"):
        read_sharing(cfg, run)
    cfg.init_seeds = (5,)
    with pytest.raises(InputError, match="one seed"):
        read_sharing(cfg, run)
