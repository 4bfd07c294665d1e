"""Nearest decoder rows against all cosines at once."""

import numpy as np
import pytest

from saejax.analysis.neighbours import neighbours
from saejax.config import MeshConfig
from saejax.mesh import make_mesh
from saejax.progress import Progress


@pytest.mark.parametrize("num_b", [3, 40])
def test_neighbours_are_the_largest_cosines(num_b):
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(n, 6)) for n in (50, num_b)]
    a_ND, b_MD = ((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in rows)
    with Progress("nearest", total=50, unit="latents") as progress:
        found_NR, cosine_NR = neighbours(a_ND, b_MD, 4, progress, mesh=make_mesh(MeshConfig()))
    all_NM = a_ND.astype(np.float64) @ b_MD.T
    order_NR = np.argsort(-all_NM, axis=1)[:, :4]
    np.testing.assert_array_equal(found_NR, order_NR)
    np.testing.assert_allclose(cosine_NR, np.take_along_axis(all_NM, order_NR, axis=1), atol=1e-6)
    assert (np.diff(cosine_NR, axis=1) <= 0).all()
