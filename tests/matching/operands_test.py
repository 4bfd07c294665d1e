"""Rounding residuals, shape buckets, and where the copies lie."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saejax.config import MeshConfig
from saejax.matching import operands
from saejax.matching.operands import Side, bucket, pass_dtype, row_norms
from saejax.mesh import make_mesh


def mesh():
    return make_mesh(MeshConfig())


@given(st.integers(1, 2**22), st.sampled_from([1, 2, 8, 32]))
def test_buckets_are_few_and_hardly_larger(size, parts):
    padded = bucket(size, parts)
    assert size <= padded < size + max(256, size / parts)
    assert padded % 256 == 0
    assert bucket(padded, parts) == padded


def test_the_number_of_buckets():
    assert len({bucket(size, 8) for size in range(2**15 + 1, 2**16 + 1)}) == 8


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_residuals_are_what_rounding_loses(dtype):
    rows = np.random.default_rng(0).normal(size=(300, 7)).astype(np.float32)
    side = Side(rows, dtype=jnp.dtype(dtype), mesh=mesh())
    lost = rows.astype(np.float64) - np.asarray(jnp.asarray(rows, dtype)).astype(np.float64)
    np.testing.assert_allclose(side.residuals, np.linalg.norm(lost, axis=1), rtol=1e-12)
    np.testing.assert_allclose(side.norms, np.linalg.norm(rows.astype(np.float64), axis=1))
    assert side.num_bytes == 0
    assert side.on_devices.dtype == dtype
    assert side.on_devices.shape == (512, 7)
    np.testing.assert_array_equal(np.asarray(side.exact)[:300], rows)
    assert side.num_bytes == side.on_devices.nbytes + side.exact.nbytes


def test_norms_do_not_depend_on_the_chunk():
    rows = np.random.default_rng(0).normal(size=(2500, 3)).astype(np.float32)
    np.testing.assert_allclose(
        row_norms(rows), np.linalg.norm(rows.astype(np.float64), axis=1), rtol=1e-15
    )


def test_the_type_of_the_passes_follows_the_hardware(monkeypatch, tmp_path):
    assert pass_dtype("float32") == jnp.float32
    assert pass_dtype("bfloat16") == jnp.bfloat16
    cpu = tmp_path / "cpuinfo"
    monkeypatch.setattr(operands, "_CPU_INFO", cpu)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert pass_dtype("auto") == jnp.float32
    for flags, dtype in (("avx2 amx_bf16", jnp.bfloat16), ("avx2", jnp.float32)):
        cpu.write_text(f"flags : {flags}")
        assert pass_dtype("auto") == dtype
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert pass_dtype("auto") == jnp.bfloat16
