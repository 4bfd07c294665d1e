"""PyTorch's files against PyTorch: what it saves is read, what is written it loads."""

import warnings

import numpy as np
import pytest

from saejax.errors import InputError
from saejax.formats import torch_file

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    "dtype",
    [
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "bool",
    ],
)
def test_all_types(tmp_path, dtype):
    value = (torch.arange(24).reshape(4, 6) - 9).to(getattr(torch, dtype))
    torch.save({"w": value}, tmp_path / "a.pt")
    found = torch_file.read(tmp_path / "a.pt")["w"]
    assert found.dtype.name == dtype
    np.testing.assert_array_equal(found.astype(np.float64), value.double().numpy())


def test_views_parameters_and_state_dicts(tmp_path):
    torch.manual_seed(0)
    base = torch.randn(6, 8)
    views = {
        "all": base,
        "t": base.T,
        "slice": base[1:5:2, 3:],
        "column": base[:, 2],
        "scalar": base[2, 3],
        "empty": base[:0],
        "parameter": torch.nn.Parameter(base[2:].T),
    }
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    others = {"activation": "TopK", "state": {"k": 32, "lr": 0.5, "large": 2**40, "none": None}}
    torch.save(views | others | {"model": module.state_dict()}, tmp_path / "a.pt")
    found = torch_file.read(tmp_path / "a.pt")
    assert found.items() >= others.items()
    for name, value in (views | {f"model/{k}": v for k, v in module.state_dict().items()}).items():
        folder, _, key = name.rpartition("/")
        ours = (found[folder] if folder else found)[key]
        assert ours.shape == value.shape
        np.testing.assert_array_equal(ours, value.detach().numpy())


def test_a_file_without_checksums(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.ones(3)}, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    np.testing.assert_array_equal(torch_file.read(tmp_path / "a.pt")["w"], np.ones(3))


def test_what_pytorch_saves_besides(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"w": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r"before 1\.6 is not read"):
        torch_file.read(path)
    with warnings.catch_warnings():
        # PyTorch is about to change how modules are pickled.
        warnings.simplefilter("ignore")
        torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(InputError, match=r"refers to 'torch\.nn\.modules\.linear\.Linear'"):
        torch_file.read(path)
    torch.save({"w": torch.ones(1).expand(1000)}, path)
    with pytest.raises(InputError, match="1,000 entries reaches to 0 in a storage of 1"):
        torch_file.read(path)
    torch.save({"w": torch.ones(3).to_sparse()}, path)
    with pytest.raises(InputError, match="_rebuild_sparse_tensor"):
        torch_file.read(path)
    torch.save([torch.ones(3)], path)
    with pytest.raises(InputError, match="EMPTY_LIST"):
        torch_file.read(path)


def test_pytorch_loads_what_is_written(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "z": rng.normal(size=(3, 5)).astype(np.float32),
        "a.weight": rng.normal(size=(4, 200)).astype(np.float32).T,
        "k": np.array(300, np.int32),
        "sizes": np.array([2**40, -1]),
        "empty": np.zeros((0, 3), np.float32),
    }
    torch_file.write(tmp_path / "a.pt", tensors)
    loaded = torch.load(tmp_path / "a.pt", weights_only=True)
    assert list(loaded) == list(tensors)
    for name, value in tensors.items():
        assert loaded[name].is_contiguous()
        assert loaded[name].numpy().dtype == value.dtype
        np.testing.assert_array_equal(loaded[name].numpy(), value)
    # Once more through PyTorch.
    torch.save(loaded, tmp_path / "b.pt")
    again = torch_file.read(tmp_path / "b.pt")
    for name, value in tensors.items():
        np.testing.assert_array_equal(again[name], value)
