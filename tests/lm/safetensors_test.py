"""Hugging Face directories: types, shards, and what is wrong with damaged ones."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from saejax.errors import InputError
from saejax.lm.safetensors import open_directory, read_json


def values(checkpoint):
    return {name: np.float32(tensor.read()) for name, tensor in checkpoint.tensors.items()}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shards", [1, 2, 5])
def test_shards_and_types_do_not_change_values(
    tiny, random_weights, write_directory, dtype, shards
):
    config = tiny(tie_word_embeddings=False)
    weights = random_weights(config)
    checkpoint = open_directory(write_directory(config, weights, shards=shards, dtype=dtype))
    found = values(checkpoint)
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    assert found.keys() == {name.removeprefix("model.") for name in weights}
    for name, expected in weights.items():
        short = name.removeprefix("model.")
        np.testing.assert_array_equal(found[short], expected.astype(kind).astype(np.float32))
        assert checkpoint.tensors[short].num_bytes == expected.astype(kind).nbytes
    assert len(checkpoint.files) == shards + 1


def test_names_without_prefix_and_redundant_tensors(tiny, random_weights, write_directory):
    config = tiny()
    weights = random_weights(config)
    plain = {name.removeprefix("model."): x for name, x in weights.items()}
    plain["lm_head.weight"] = plain["embed_tokens.weight"]
    plain["layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float32)
    found = values(open_directory(write_directory(config, plain, name="plain")))
    twin = values(open_directory(write_directory(config, weights)))
    assert found.keys() == twin.keys()
    assert all((found[name] == twin[name]).all() for name in twin)


@pytest.fixture
def folder(tiny, random_weights, write_directory):
    config = tiny(tie_word_embeddings=False)
    return write_directory(config, random_weights(config), shards=2)


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_truncated_shard(folder):
    shard = folder / "model-00001.safetensors"
    content = shard.read_bytes()
    for length in (0, 5, 100, 900):
        shard.write_bytes(content[:length])
        with pytest.raises(InputError, match=rf"00001\.safetensors \({length} bytes\).*download"):
            open_directory(folder)


def test_missing_files(folder):
    (folder / "model-00001.safetensors").rename(folder / "elsewhere")
    with pytest.raises(InputError, match=r"lacks model-00001\.safetensors"):
        open_directory(folder)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(InputError, match=r"neither model\.safetensors nor"):
        open_directory(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json cannot be read: No such file"):
        open_directory(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "not valid JSON"), ("[]", "must hold a JSON object"), (b"\xff", "not valid JSON")],
)
def test_json_that_is_none(tmp_path, content, words):
    path = tmp_path / "config.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=rf"config\.json.*{words}"):
        read_json(path)


@pytest.mark.parametrize("weight_map", [None, ["a"], {"a": 1}])
def test_index_that_is_none(folder, weight_map):
    change(folder / "model.safetensors.index.json", weight_map=weight_map)
    with pytest.raises(InputError, match="weight_map must map"):
        open_directory(folder)


def test_tensor_in_two_shards(folder):
    (folder / "model-00001.safetensors").write_bytes(
        (folder / "model-00000.safetensors").read_bytes()
    )
    with pytest.raises(InputError, match="is in another file"):
        open_directory(folder)


def test_another_family(folder):
    change(folder / "config.json", model_type="gemma")
    with pytest.raises(InputError, match=r"model_type='gemma'.*supported: llama, mistral"):
        open_directory(folder)


def test_a_type_that_holds_no_weights(tiny, random_weights, write_directory):
    config = tiny()
    folder = write_directory(config, random_weights(config))
    weights = random_weights(config) | {"model.norm.weight": np.ones(32, np.int8)}
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.norm\.weight has type I8; supported: F64, F32"):
        open_directory(folder)
