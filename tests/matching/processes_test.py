"""Two processes that share the passes find what one finds."""

import json

import numpy as np
import pytest

from saejax.matching import match

_PROGRAM = """
import json, sys
import jax
import numpy as np

process, port = int(sys.argv[1]), sys.argv[2]
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=process)
assert len(jax.devices()) == 4 and len(jax.local_devices()) == 2
import saejax

a, b = np.load(sys.argv[3]), np.load(sys.argv[4])
exact, best = saejax.match(a, b), saejax.match(a, b, method="max_cosine")
saejax.verify(a, b, exact)
print(json.dumps([exact.target.tolist(), exact.u.tolist(), best.target.tolist()]))
"""


@pytest.mark.parametrize("shape", [(300, 300), (200, 300)])
def test_two_processes_equal_one(tmp_path, make_pair, run_two, shape):
    paths = [str(tmp_path / name) for name in ("a.npy", "b.npy")]
    for path, rows in zip(paths, make_pair(*shape, 16), strict=True):
        np.save(path, rows)
    found = [json.loads(output) for output in run_two(_PROGRAM, *paths)]
    assert found[0] == found[1]
    a, b = (np.load(path) for path in paths)
    alone = match(a, b)
    np.testing.assert_array_equal(found[0][0], alone.target)
    np.testing.assert_array_equal(found[0][1], alone.u)
    np.testing.assert_array_equal(found[0][2], match(a, b, method="max_cosine").target)
