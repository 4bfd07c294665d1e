"""Corpora: what is read, how it is packed, and what bad input says."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saejax.config import DataConfig
from saejax.data.corpus import documents, read_windows
from saejax.errors import InputError

EOT = 0


def encode(texts):
    """A token a character, never the end-of-text token."""
    return [[ord(c) for c in text] for text in texts]


def read(path, **fields):
    return list(documents(DataConfig(source=str(path), **fields)))


def test_text_json_jsonl_and_directories(tmp_path):
    (tmp_path / "a.txt").write_text("one text")
    (tmp_path / "b.jsonl").write_text('{"text": "two"}\n\n"three"\n')
    (tmp_path / "c.json").write_text(json.dumps({"x": {"text": "four"}, "y": {"text": " "}}))
    (tmp_path / "ignored.md").write_text("five")
    assert read(tmp_path / "a.txt") == ["one text"]
    assert read(tmp_path / "b.jsonl") == ["two", "three"]
    assert read(tmp_path / "c.json") == ["four"]
    assert read(tmp_path) == ["one text", "two", "three", "four"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", '{"text": "x"}\n{"text": \n', "line 2: not JSON"),
        ("a.jsonl", '{"body": "x", "id": 1}\n', "no text in field 'text' (found: body, id)"),
        ("a.json", "[", "not JSON"),
        ("a.json", "3", "list or an object"),
        ("a.md", "x", "cannot read '.md' files"),
        ("a.txt", b"\xff\xfe", "byte 0 is not UTF-8"),
    ],
)
def test_bad_files_are_named_with_the_place(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as error:
        read(path)
    assert str(path) in str(error.value)
    assert says in str(error.value)


def test_missing_and_empty(tmp_path):
    with pytest.raises(InputError, match="nothere"):
        read(tmp_path / "nothere.txt")
    with pytest.raises(InputError, match=r"holds no \.txt"):
        read(tmp_path)
    (tmp_path / "empty.txt").write_text("  \n")
    with pytest.raises(InputError, match="corpus is empty"):
        read_windows(DataConfig(source=str(tmp_path / "empty.txt")), encode, EOT)


def test_corpus_shorter_than_a_window(tmp_path):
    (tmp_path / "a.txt").write_text("short")
    with pytest.raises(
        InputError, match=r"5 tokens do not fill one window of data\.context_length=6"
    ):
        read_windows(DataConfig(source=str(tmp_path / "a.txt"), context_length=6), encode, EOT)
    cfg = DataConfig(source=str(tmp_path / "a.txt"), context_length=4, num_tokens=3)
    with pytest.raises(InputError, match=r"data\.num_tokens=3 is below one window"):
        read_windows(cfg, encode, EOT)


@given(
    texts=st.lists(st.text("abc", min_size=1, max_size=9), min_size=1, max_size=40),
    length=st.integers(2, 7),
    num_tokens=st.integers(0, 60),
    order=st.sampled_from(["in_order", "shuffled"]),
)
def test_windows_are_the_joined_documents_in_order(
    tmp_path_factory, texts, length, num_tokens, order
):
    path = tmp_path_factory.mktemp("corpus") / "a.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    expected = []
    for ids in encode(texts):
        expected += [EOT, *ids] if expected else ids
    total = len(expected)
    cfg = DataConfig(source=str(path), context_length=length, num_tokens=num_tokens, order=order)
    if total < length or 0 < num_tokens < length:
        with pytest.raises(InputError):
            read_windows(cfg, encode, EOT)
        return
    windows = read_windows(cfg, encode, EOT)
    whole = np.array(expected[: total // length * length]).reshape(-1, length)
    if order == "in_order":
        np.testing.assert_array_equal(windows, whole[: num_tokens // length or None])
        return
    # Distinct windows of the corpus in its order, with gaps that differ by at most one.
    assert len(windows) == min(num_tokens // length or len(whole), len(whole))
    places = np.linspace(0, len(whole), len(windows), endpoint=False).astype(int)
    gaps = np.diff([*places, len(whole)])
    assert gaps.max() - gaps.min() <= 1
    np.testing.assert_array_equal(windows, whole[places])
