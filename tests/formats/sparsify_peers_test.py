"""Codes and reconstructions against the installed sparsify, both ways."""

import json

import numpy as np
import pytest

import saejax
from saejax.formats import sparsify
from saejax.sae.sae import Sae, encode_dense

torch = pytest.importorskip("torch")
theirs_lib = pytest.importorskip("sparsify")

D, N, B = 6, 24, 40


def inputs():
    return np.random.default_rng(3).normal(0.3, 1.5, size=(B, D)).astype(np.float32)


def coder(dtype=torch.float32, **config):
    """A sparse coder of sparsify with random weights."""
    made = theirs_lib.SparseCoder(D, theirs_lib.SparseCoderConfig(**config), dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.7)
    return made


def assert_same(ours, theirs, x):
    """Codes, reconstructions and FVU of a sparse coder here and there."""
    ours = ours.replace(metadata=())  # Which would compile all of it anew.
    with torch.no_grad():
        values_BK, indices_BK, _ = theirs.encode(torch.tensor(x))
        output = theirs(torch.tensor(x))
    code_BN = np.zeros((len(x), ours.num_latents), np.float32)
    np.put_along_axis(code_BN, indices_BK.numpy(), values_BK.numpy(), axis=1)
    assert ((code_BN > 0).sum(axis=1) == ours.k).mean() > 0.5
    np.testing.assert_allclose(encode_dense(ours, x), code_BN, rtol=1e-5, atol=1e-5)
    found = np.asarray(saejax.decode(ours, saejax.encode(ours, x), x))
    np.testing.assert_allclose(found, output.sae_out, rtol=1e-5, atol=1e-5)
    fvu = ((x - found) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    assert fvu == pytest.approx(float(output.fvu), rel=1e-5)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("transcode", [False, True])
@pytest.mark.parametrize("sizes", [{"num_latents": N}, {"expansion_factor": 4}])
def test_their_files(tmp_path, sizes, transcode, skip):
    theirs = coder(k=4, transcode=transcode, skip_connection=skip, **sizes)
    theirs.save_to_disk(tmp_path)
    ours = sparsify.load(tmp_path)
    assert_same(ours, theirs, inputs())
    sparsify.save(ours, tmp_path / "again")
    again = theirs_lib.SparseCoder.load_from_disk(tmp_path / "again")
    assert again.cfg.transcode == transcode
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    assert_same(ours, again, inputs())


@pytest.mark.parametrize("skip", [False, True])
def test_their_old_files(tmp_path, skip):
    coder(num_latents=N, k=4, transcode=True, skip_connection=skip).save_to_disk(tmp_path)
    old = {"expansion_factor": 4, "normalize_decoder": True, "k": 4, "signed": False, "d_in": D}
    old |= {"skip_connection": True} if skip else {}
    (tmp_path / "cfg.json").write_text(json.dumps(old))
    assert_same(sparsify.load(tmp_path), theirs_lib.SparseCoder.load_from_disk(tmp_path), inputs())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_floats(tmp_path, dtype):
    theirs = coder(dtype, num_latents=N, k=4)
    theirs.save_to_disk(tmp_path)
    assert_same(sparsify.load(tmp_path), theirs.float(), inputs())


@pytest.mark.parametrize("transcoder", [False, True])
@pytest.mark.parametrize("center", [False, True])
def test_our_files(tmp_path, transcoder, center):
    rng = np.random.default_rng(1)
    shapes = {"w_enc": (D, N), "b_enc": (N,), "w_dec": (N, D), "b_dec": (D,)}
    leaves = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    ours = Sae(**leaves, k=4, transcoder=transcoder, apply_b_dec_to_input=center)
    ours = ours.replace(metadata=(("hookpoint", "layers.6.mlp"),))
    sparsify.save(ours, tmp_path)
    assert_same(ours, theirs_lib.SparseCoder.load_from_disk(tmp_path), inputs())
