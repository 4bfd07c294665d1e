"""Two processes that share the passes find what one finds."""

import json
import os
import socket
import subprocess
import sys

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
def test_two_processes_equal_one(tmp_path, make_pair, shape):
    paths = [str(tmp_path / name) for name in ("a.npy", "b.npy")]
    for path, rows in zip(paths, make_pair(*shape, 16), strict=True):
        np.save(path, rows)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(i), port, *paths],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        said = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, error) in zip(processes, said, strict=True):
        assert process.returncode == 0, error
    found = [json.loads(output.splitlines()[-1]) for output, _ in said]
    assert found[0] == found[1]
    a, b = (np.load(path) for path in paths)
    alone = match(a, b)
    np.testing.assert_array_equal(found[0][0], alone.target)
    np.testing.assert_array_equal(found[0][1], alone.u)
    np.testing.assert_array_equal(found[0][2], match(a, b, method="max_cosine").target)
