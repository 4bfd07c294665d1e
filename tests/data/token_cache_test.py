"""The token cache: a text is tokenized once; nothing stale or unfinished is ever read."""

import json
import os
import threading

import numpy as np
import pytest

from saejax.config import DataConfig
from saejax.data import token_cache, tokenize
from saejax.data.corpus import read_windows
from saejax.errors import InputError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "saejax" / "tokens"


@pytest.fixture
def path(tmp_path):
    """A corpus of three documents."""
    (tmp_path / "a.jsonl").write_text('{"text": "abcdef", "b": "x"}\n{"text": "gh", "b": "y"}\n')
    return tmp_path / "a.jsonl"


@pytest.fixture
def read(path, cache, letters):
    """Windows of the corpus, and whether it had to be tokenized."""
    del cache

    def windows(vocab_size=2**16, encoder=None, **fields):
        encoder = encoder or letters()
        cfg = DataConfig(source=str(path), **({"context_length": 3} | fields))
        found = read_windows(cfg, encoder, vocab_size=vocab_size)[:].tolist()
        return found, bool(encoder.seen)

    return windows


def test_tokenized_once_and_small(read, cache):
    first = read()
    assert first == ([[97, 98, 99], [100, 101, 102], [0, 103, 104]], True)
    assert read() == (first[0], False)
    (entry,) = cache.iterdir()
    assert (entry / "tokens.bin").stat().st_size == 2 * 9
    # Other windows of the same tokens.
    for fields in (
        {"context_length": 4},
        {"bos": "window"},
        {"order": "in_order", "num_tokens": 6},
        {"num_tokens": 6},
        {"vocab_size": 105},
    ):
        assert not read(**fields)[1], fields


def test_nothing_stale_is_read(read, path, letters):
    read()
    for fields in (
        {"text_field": "b"},
        {"bos": "document"},
        {"encoder": letters(bos=2), "bos": "document"},
        {"encoder": letters(fingerprint="other")},
    ):
        assert read(**fields)[1], fields
        assert not read(**fields | {"encoder": None} if "encoder" not in fields else {})[1]
    times = path.stat()
    path.write_text(path.read_text().replace("abcdef", "uvwxyz"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert read()[0][0] == [117, 118, 119]
    with pytest.raises(InputError, match="ids up to 122 do not fit a vocabulary of 122"):
        read(vocab_size=122)


def test_a_part_of_the_corpus_does_not_pass_for_all_of_it(read, monkeypatch):
    monkeypatch.setattr(tokenize, "_CHARACTERS_PER_CALL", 1)
    limited = {"order": "in_order", "num_tokens": 3}
    assert read(**limited) == ([[97, 98, 99]], True)
    assert read(**limited) == ([[97, 98, 99]], False)
    assert read(order="in_order", num_tokens=9)[1]
    assert len(read()[0]) == 3
    # Reading to the end made an entry that serves all.
    assert not read(order="in_order", num_tokens=6)[1]


def test_interrupted_and_damaged_entries_are_not_read(read, cache, letters, monkeypatch):
    class Interrupted(letters):
        def encode_batch(self, texts):
            if "gh" in texts:
                raise KeyboardInterrupt
            return super().encode_batch(texts)

    monkeypatch.setattr(tokenize, "_CHARACTERS_PER_CALL", 1)
    with pytest.raises(KeyboardInterrupt):
        read(encoder=Interrupted())
    assert list(cache.iterdir()) == []
    # A process that was killed leaves its folder, which is not read, and removed one day later.
    (cache / "partial-killed").mkdir()
    (cache / "partial-killed" / "tokens.bin").write_bytes(b"ab")
    expected = read()
    assert expected[1]
    assert (cache / "partial-killed").exists()
    for path in (cache / "partial-killed" / "tokens.bin", cache / "partial-killed"):
        os.utime(path, (0, 0))
    for name in ("tokens.bin", "starts.npy", "header.json"):
        (entry,) = (folder for folder in cache.iterdir() if "partial" not in folder.name)
        (entry / name).write_bytes((entry / name).read_bytes()[:-2])
        assert read() == expected
        assert not (cache / "partial-killed").exists()
        assert read() == (expected[0], False)


def test_two_processes_may_write_the_same_entry(read, cache, letters):
    """Both begin before either has finished."""
    both = threading.Barrier(2)

    class Slow(letters):
        def encode_batch(self, texts):
            both.wait(10)
            return super().encode_batch(texts)

    found = []
    threads = [
        threading.Thread(target=lambda: found.append(read(encoder=Slow()))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1] == (read()[0], True)
    assert len(list(cache.iterdir())) == 1


def test_without_a_cache_folder_tokens_stay_in_memory(read, cache, tmp_path):
    expected, _ = read()
    (tmp_path / "cache" / "saejax").rename(tmp_path / "elsewhere")
    (tmp_path / "cache" / "saejax").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="stay in memory .* cannot write .*tokens"):
        assert read() == (expected, True)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a full device")
def test_a_full_disk_says_so_and_leaves_nothing(read, cache, tmp_path, monkeypatch):
    def full(prefix, dir):
        folder = dir / f"{prefix}x"
        folder.mkdir()
        (folder / "tokens.bin").symlink_to("/dev/full")
        return str(folder)

    with monkeypatch.context() as patch:
        patch.setattr(token_cache.tempfile, "mkdtemp", full)
        with pytest.raises(InputError, match=r"no space left .*XDG_CACHE_HOME"):
            read()
    assert list(cache.iterdir()) == []
    assert read()[1]


def test_large_vocabularies_take_four_bytes(read, cache):
    assert read(vocab_size=2**16 + 1) == (*read()[:1], True)
    (entry,) = cache.iterdir()
    assert json.loads((entry / "header.json").read_text())["dtype"] == "uint32"
    assert np.fromfile(entry / "tokens.bin", np.uint32).tolist() == [*b"abcdef", 0, *b"gh"]
