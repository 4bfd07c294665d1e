"""Files of bare ids: cut as they are, across shards, and checked as they are read."""

import numpy as np
import pytest

from saejax.config import DataConfig
from saejax.data.corpus import read_windows
from saejax.errors import InputError


@pytest.fixture
def shards(tmp_path):
    """0, 1, ..., 299 in three files of unequal size, and their directory."""
    parts = np.split(np.arange(300, dtype=np.uint16), [7, 130])
    for number, part in enumerate(parts):
        part.tofile(tmp_path / f"document-{number:05d}-of-00020.bin")
    return tmp_path


@pytest.fixture
def read(letters):
    """Windows of a corpus in order; a tokenizer that would change them is not used."""

    def windows(path, vocab_size=2**16, **fields):
        encoder = letters()
        fields = {"order": "in_order", "context_length": 20} | fields
        found = read_windows(DataConfig(source=str(path), **fields), encoder, vocab_size=vocab_size)
        assert not encoder.seen
        return found

    return windows


@pytest.mark.parametrize("length", [2, 20, 200, 300])
def test_windows_are_consecutive_across_shards(shards, read, length):
    windows = read(shards, context_length=length)
    expected = np.arange(300 // length * length).reshape(-1, length)
    np.testing.assert_array_equal(windows[:], expected)
    assert windows[0].dtype == np.int32
    some = read(shards, context_length=length, num_tokens=length)
    np.testing.assert_array_equal(some[:], expected[:1])


def test_one_file_and_evenly_spread_windows(shards, read):
    path = shards / "document-00002-of-00020.bin"
    np.testing.assert_array_equal(read(path)[:], np.arange(130, 290).reshape(8, 20))
    spread = read(path, num_tokens=4 * 20, order="shuffled")
    np.testing.assert_array_equal(spread[:][:, 0], [130, 170, 210, 250])


def test_ids_out_of_range_name_the_byte(shards, read):
    with pytest.raises(InputError, match=r"document-00002-of-00020\.bin, byte 140: id 200 does"):
        read(shards, vocab_size=200)
    # Far into a large file they are found when they are read.
    ids = np.zeros(20_000, np.uint16)
    ids[12_345] = 500
    ids.tofile(shards / "large.bin")
    windows = read(shards / "large.bin", vocab_size=500, context_length=10)
    windows[:1234], windows[1235:]
    with pytest.raises(InputError, match=r"large\.bin, byte 24690: id 500 does not fit .* of 500"):
        windows[1234]


def test_bad_files(shards, read):
    (shards / "odd.bin").write_bytes(b"abc")
    with pytest.raises(InputError, match=r"odd\.bin: 3 bytes are no whole number of uint16"):
        read(shards / "odd.bin")
    (shards / "empty.bin").write_bytes(b"")
    with pytest.raises(InputError, match="corpus is empty"):
        read(shards / "empty.bin")
    with pytest.raises(InputError, match="7 tokens do not fill one window"):
        read(shards / "document-00000-of-00020.bin")
    (shards / "odd.bin").unlink()
    (shards / "document-00001-of-00020.bin").unlink()
    with pytest.raises(InputError, match=r"a shard between document-00000-of-00020\.bin and"):
        read(shards)


@pytest.mark.parametrize(
    "fields",
    [
        {"documents": "separate"},
        {"bos": "window"},
        {"bos": "document"},
        {"split": "x"},
        {"subset": "x"},
    ],
)
def test_what_bare_ids_cannot_be_asked(shards, read, fields):
    (name,) = fields
    with pytest.raises(InputError, match=rf"data\.{name}=.*bare ids"):
        read(shards, **fields)
