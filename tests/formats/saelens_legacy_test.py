"""Configurations of SAELens before version 6, as they are on the hub."""

import json
import re

import numpy as np
import pytest
import safetensors.numpy

from saejax.errors import InputError
from saejax.formats import saelens, saelens_legacy

# The fields that matter of jbloom/GPT2-Small-SAEs-Reformatted, written by SAELens 2.
FLAT = {
    "model_name": "gpt2-small",
    "hook_point": "blocks.8.hook_resid_pre",
    "hook_point_layer": 8,
    "hook_point_head_index": None,
    "dataset_path": "Skylion007/openwebtext",
    "d_in": 5,
    "d_sae": 12,
    "context_size": 128,
    "lr": 0.0004,
    "seed": 42,
    "dtype": "torch.float32",
    "device": "cuda",
}


def test_flat_configurations(tmp_path):
    new = saelens_legacy.modern(FLAT, tmp_path)
    assert new["architecture"] == "standard"
    assert new["apply_b_dec_to_input"] is True
    assert new["normalize_activations"] == new["reshape_activations"] == "none"
    assert new["metadata"] == {
        "prepend_bos": True,
        "model_name": "gpt2-small",
        "hook_name": "blocks.8.hook_resid_pre",
        "hook_head_index": None,
        "dataset_path": "Skylion007/openwebtext",
        "context_size": 128,
        "seed": 42,
    }


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"normalize_activations": True}, {"normalize_activations": "expected_average_only_in"}),
        ({"normalize_activations": False}, {"normalize_activations": "none"}),
        ({"normalize_activations": None}, {"normalize_activations": "none"}),
        ({"hook_name": "blocks.1.attn.hook_z"}, {"reshape_activations": "hook_z"}),
        ({"activation_fn_str": None}, {"architecture": "standard"}),
        ({"apply_b_dec_to_input": False}, {"apply_b_dec_to_input": False}),
        (
            {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}},
            {"architecture": "topk", "k": 4},
        ),
        ({"architecture": "topk", "k": 4}, {"architecture": "topk", "k": 4}),
        ({"architecture": "jumprelu", "activation_fn": "relu"}, {"architecture": "jumprelu"}),
        ({"sae_lens_version": "5.11.0"}, {"architecture": "standard"}),
    ],
)
def test_older_forms(tmp_path, changes, found):
    assert found.items() <= saelens_legacy.modern(FLAT | changes, tmp_path).items()


def test_version_six_stays_as_it_is(tmp_path):
    for where in ({"sae_lens_version": "6.0.0-rc.0"}, {"metadata": {"sae_lens_version": "6.54"}}):
        config = {"architecture": "gated", "hook_name": "x"} | where
        assert saelens_legacy.modern(config, tmp_path) == {"metadata": {}} | config


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"activation_fn": "tanh-relu"}, "activation_fn='tanh-relu' cannot be read"),
        ({"activation_fn": "topk", "activation_fn_kwargs": [1]}, "=[1] must be a JSON object"),
        ({"sae_lens_version": [6]}, "sae_lens_version=[6] must be text"),
        ({"sae_lens_version": "six"}, "sae_lens_version='six' must be text"),
    ],
)
def test_what_cannot_be_read(tmp_path, changes, says):
    with pytest.raises(InputError, match=re.escape(says)):
        saelens_legacy.modern(FLAT | changes, tmp_path)


def test_an_old_folder(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "W_enc": rng.normal(size=(5, 12)),
        "b_enc": rng.normal(size=12),
        "W_dec": rng.normal(size=(12, 5)),
        "b_dec": rng.normal(size=5),
        "scaling_factor": np.ones(12),
    }
    tensors = {name: value.astype(np.float32) for name, value in tensors.items()}
    (tmp_path / "cfg.json").write_text(json.dumps(FLAT))
    safetensors.numpy.save_file(tensors, tmp_path / "sae_weights.safetensors")
    sae = saelens.load(tmp_path)
    assert (sae.arch, sae.k, sae.centers_input) == ("relu", 12, True)
    np.testing.assert_array_equal(sae.w_dec, tensors["W_dec"])
    assert dict(sae.metadata)["hookpoint"] == "h.7"
    saelens.save(sae, tmp_path / "again")
    again = json.loads((tmp_path / "again" / "cfg.json").read_text())
    assert int(again["metadata"]["sae_lens_version"].split(".")[0]) >= 6
    assert again["metadata"]["prepend_bos"] is True
