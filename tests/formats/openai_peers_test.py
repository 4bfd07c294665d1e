"""OpenAI's files with TopK, saved by PyTorch, against their equations in NumPy."""

import collections

import numpy as np
import pytest

import saejax
from saejax.errors import InputError
from saejax.formats import openai
from saejax.sae.sae import encode_dense

torch = pytest.importorskip("torch")

D, N, K = 12, 40, 5


def saved(path, *, dtype=torch.float32, **changes):
    """A state dict as that of a module: ordered, with the versions of its parts as attribute."""
    torch.manual_seed(0)
    state = collections.OrderedDict(
        pre_bias=torch.randn(D, dtype=dtype),
        latent_bias=torch.randn(N, dtype=dtype),
        stats_last_nonzero=torch.arange(N),
        latents_activation_frequency=torch.ones(N),
        latents_mean_square=torch.zeros(N),
    )
    state["encoder.weight"] = torch.nn.Parameter(torch.randn(N, D, dtype=dtype))
    # Their trainer keeps the decoder column-major.
    state["decoder.weight"] = torch.randn(N, D, dtype=dtype).T
    activation = collections.OrderedDict(k=K, postact_fn="ReLU")
    state |= {"activation": "TopK", "activation_state_dict": activation} | changes
    for part in (state, state["activation_state_dict"]):
        if isinstance(part, collections.OrderedDict):
            vars(part)["_metadata"] = collections.OrderedDict({"": {"version": 1}})
    torch.save(state, path)
    return {k: v.detach().double().numpy() for k, v in state.items() if torch.is_tensor(v)}


def reference(state, x_BD):
    """Codes and reconstructions from the equations: layer norm, TopK, ReLU, and back."""
    mean_B1 = x_BD.mean(1, keepdims=True)
    std_B1 = np.sqrt(((x_BD - mean_B1) ** 2).sum(1, keepdims=True) / (D - 1))
    normal_BD = (x_BD - mean_B1) / (std_B1 + 1e-5)
    pre_BN = (normal_BD - state["pre_bias"]) @ state["encoder.weight"].T + state["latent_bias"]
    largest_BK = np.argsort(-pre_BN, axis=1)[:, :K]
    code_BN = np.zeros_like(pre_BN)
    rows_B1 = np.arange(len(x_BD))[:, None]
    code_BN[rows_B1, largest_BK] = np.maximum(pre_BN[rows_B1, largest_BK], 0)
    y_hat_BD = code_BN @ state["decoder.weight"].T + state["pre_bias"]
    return code_BN, y_hat_BD * std_B1 + mean_B1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_topk(tmp_path, dtype):
    state = saved(tmp_path / "8.pt", dtype=dtype)
    sae = openai.load(tmp_path / "8.pt")
    assert (sae.arch, sae.k, sae.normalize_activations) == ("topk", K, "layer_norm")
    np.testing.assert_array_equal(sae.w_dec, state["decoder.weight"].T)
    x_BD = np.random.default_rng(1).normal(2, 3, size=(33, D)).astype(np.float32)
    code_BN, y_hat_BD = reference(state, x_BD.astype(np.float64))
    np.testing.assert_allclose(encode_dense(sae, x_BD), code_BN, rtol=1e-5, atol=1e-5)
    found = saejax.decode(sae, saejax.encode(sae, x_BD), x_BD)
    np.testing.assert_allclose(found, y_hat_BD, rtol=1e-5, atol=1e-5 * np.abs(y_hat_BD).max())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"activation": "Identity"}, "activation='Identity' cannot be read, only ReLU and TopK"),
        ({"activation_state_dict": {"k": N + 1, "postact_fn": "ReLU"}}, "k=41 is more than its 40"),
        ({"activation_state_dict": {"k": -1, "postact_fn": "ReLU"}}, "k=-1 must be a whole number"),
        ({"activation_state_dict": {"k": K, "postact_fn": "Identity"}}, "postact_fn='Identity'"),
        ({"activation_state_dict": {}}, "k=None must be a whole number"),
        ({"pre_bias": "zero"}, "pre_bias is no tensor but of type str"),
        ({"hparams": [1, 2]}, "operation EMPTY_LIST"),
    ],
)
def test_broken_files(tmp_path, changes, says):
    saved(tmp_path / "8.pt", **changes)
    with pytest.raises(InputError, match=says):
        openai.load(tmp_path / "8.pt")
