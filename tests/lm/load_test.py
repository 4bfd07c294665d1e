"""Sources, partial models, and fingerprints."""

import shutil

import numpy as np
import pytest

from saejax.errors import InputError
from saejax.lm import lm_fingerprint, load_config, load_lm
from saejax.lm.checkpoint import fingerprint


@pytest.fixture
def folder(tiny, random_weights, write_directory):
    config = tiny(tie_word_embeddings=False)
    return write_directory(config, random_weights(config), shards=2)


def test_only_the_first_layers_are_read(folder, capsys):
    full, part, none = (load_lm(str(folder), num_layers=n) for n in (None, 1, 0))
    kernels = [lm.model.layers.mlp.gate_proj.kernel for lm in (full, part, none)]
    assert [kernel.shape for kernel in kernels] == [(3, 32, 64), (1, 32, 64), (0, 32, 64)]
    np.testing.assert_array_equal(kernels[0][:1], kernels[1][...])
    assert full.config == part.config == none.config == load_config(str(folder))
    block_bytes = 4 * (2 * 32 + 2 * 64 * 32 + 2 * 32 * 32 + 3 * 64 * 32)
    embedding_bytes = 4 * 48 * 32
    totals = [2 * embedding_bytes + 3 * block_bytes + 4 * 32, embedding_bytes + block_bytes]
    shown = capsys.readouterr().err
    for total in (*totals, embedding_bytes):
        assert f"{total:,}/{total:,} bytes" in shown


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_layers": 4}, "num_layers=4: .*has 3 layers"),
        ({"num_layers": -1}, "num_layers=-1"),
        ({"dtype": "float16"}, "dtype='float16': choose one of float32, bfloat16"),
    ],
)
def test_bad_options(folder, options, words):
    with pytest.raises(InputError, match=words):
        load_lm(str(folder), **options)


def test_sources_that_are_no_model(tmp_path):
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(InputError, match=r"notes\.txt is neither a \.gguf file nor"):
        load_lm(str(tmp_path / "notes.txt"))
    with pytest.raises(InputError, match="does not exist"):
        load_lm("no/such/model")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(tiny, random_weights, write_directory, value):
    config = tiny()
    weights = random_weights(config)
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    folder = str(write_directory(config, weights, dtype="bfloat16"))
    load_lm(folder, num_layers=1)
    with pytest.raises(
        InputError, match=r"layers\.1\.mlp\.up_proj\.weight has values that are not"
    ):
        load_lm(folder)


def test_fingerprint_follows_contents_not_place(folder, tmp_path):
    first = load_lm(str(folder)).fingerprint
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert load_lm(str(copy)).fingerprint == first
    assert len(first) == 16
    config = copy / "config.json"
    config.write_text(config.read_text().replace("300.0", "301.0"))
    assert load_lm(str(copy)).fingerprint != first


def test_fingerprint_and_configuration_without_reading_weights(folder, tmp_path):
    assert lm_fingerprint(str(folder)) == load_lm(str(folder)).fingerprint
    shutil.copy(folder / "config.json", tmp_path)
    assert load_config(str(tmp_path)) == load_config(str(folder))
    with pytest.raises(InputError, match=r"neither model\.safetensors nor"):
        lm_fingerprint(str(tmp_path))


def test_fingerprint_sees_the_ends_the_length_and_the_name(tmp_path):
    path = tmp_path / "large"
    content = bytearray(3 << 20)
    path.write_bytes(content)
    seen = {fingerprint([path])}
    for change in (0, len(content) - 1):
        changed = bytearray(content)
        changed[change] = 1
        path.write_bytes(changed)
        seen.add(fingerprint([path]))
    path.write_bytes(content + b"\0")
    seen.add(fingerprint([path]))
    path.write_bytes(content)
    seen.add(fingerprint([path.rename(tmp_path / "other")]))
    assert len(seen) == 5
