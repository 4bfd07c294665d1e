"""OpenAI's files of the first kind, with ReLU, and what is wrong with files."""

import numpy as np
import pytest

import saejax
from saejax.errors import InputError
from saejax.formats import openai, torch_file

D, N = 6, 10


def tensors(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {
        "pre_bias": (D,),
        "latent_bias": (N,),
        "encoder.weight": (N, D),
        "decoder.weight": (D, N),
        "latents_activation_frequency": (N,),
        "latents_mean_square": (N,),
    }
    found = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return found | {"stats_last_nonzero": np.arange(N)}


def test_relu(tmp_path):
    path, state = tmp_path / "8.pt", tensors()
    assert not openai.is_here(path)
    torch_file.write(path, state)
    assert openai.is_here(path)
    assert not openai.is_here(tmp_path)
    sae = openai.load(path)
    assert (sae.arch, sae.k, sae.normalize_activations) == ("relu", N, "none")
    x = np.random.default_rng(1).normal(size=(9, D)).astype(np.float32)
    codes = np.maximum(
        (x - state["pre_bias"]) @ state["encoder.weight"].T + state["latent_bias"], 0
    )
    expected = codes @ state["decoder.weight"].T + state["pre_bias"]
    found = saejax.decode(sae, saejax.encode(sae, x))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pre_bias": None}, "no tensor pre_bias"),
        ({"latent_bias": np.zeros(N + 1, np.float32)}, r"latent_bias has shape \(11,\)"),
        ({"latent_bias": np.full(N, np.inf, np.float32)}, "10 entries that are NaN or infinite"),
        ({"encoder.weight": np.zeros(N, np.float32)}, r"no matrix encoder\.weight"),
        ({"encoder.weight": None}, r"no matrix encoder\.weight"),
        ({"bias": np.zeros(D, np.float32)}, "bias in it is nothing"),
        ({"activation": np.zeros(D, np.float32)}, "cannot be read, only ReLU and TopK"),
        ({"activation_state_dict": np.zeros(D, np.float32)}, "must be a dictionary"),
    ],
)
def test_broken_files(tmp_path, changes, says):
    path = tmp_path / "8.pt"
    torch_file.write(path, {k: v for k, v in (tensors() | changes).items() if v is not None})
    with pytest.raises(InputError, match=says) as error:
        openai.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
