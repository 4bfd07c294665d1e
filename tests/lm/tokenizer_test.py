"""The tokenizer: text comes back, pieces are SmolLM's, and files that do not fit are refused."""

import json
import re

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saejax.config import SAMPLE_LM, SAMPLE_TEXT
from saejax.errors import InputError
from saejax.lm import load_tokenizer
from saejax.sources import resolve

# Bytes of UTF-8 that have no token in SmolLM2's vocabulary; some are control characters.
ABSENT = b"\x04\x06\x13\x14\x16\x1d\xf1\xf2"


@pytest.fixture(scope="module")
def smol():
    return load_tokenizer(SAMPLE_LM)


def test_packaged_text_comes_back(smol):
    records = json.loads(resolve(SAMPLE_TEXT).read_text())
    texts = [record["extract"] for record in records.values()]
    ids = smol.encode_batch(texts)
    assert [smol.decode(document) for document in ids] == texts
    # Counted with the tokenizers package when the default run was designed.
    assert sum(map(len, ids)) == 1_048_280


@given(st.text())
def test_any_text_comes_back_but_for_absent_bytes(smol, text):
    [ids] = smol.encode_batch([text])
    kept = bytes(byte for byte in text.encode() if byte not in ABSENT)
    assert smol.decode(ids) == kept.decode(errors="replace")


def test_pieces_are_those_of_smollm(smol):
    """Every digit alone, GPT-2's words with their space, no space in front."""
    [ids] = smol.encode_batch(["In 1984, it's  the\n\nthree x2"])
    pieces = [smol.decode([token]) for token in ids]
    assert pieces[:7] == ["In", " ", "1", "9", "8", "4", ","]
    assert all(len(piece) == 1 for piece in pieces if re.search(r"\d", piece))
    assert "'s" in pieces
    assert " the" in pieces
    assert pieces[-1] == "2"


def test_nothing_is_added_and_documents_end_with_endoftext(smol):
    assert smol.encode_batch(["", "a"]) == [[], [*smol.encode_batch(["a"])[0]]]
    assert smol.vocab_size == 49_152
    # The file's end-of-sequence field says 2, the chat model's <|im_end|>.
    assert smol.end_of_text == 0
    assert smol.decode([0, 2]) == "<|endoftext|><|im_end|>"
    assert smol.encode_batch(["a<|endoftext|>b"])[0][1] == 0


def test_bad_texts_and_ids(smol):
    with pytest.raises(InputError, match="text 1 has an unpaired surrogate at character 2"):
        smol.encode_batch(["a", "bc\ud800"])
    for ids in ([49_152], [5, -1], np.array([0, 60_000])):
        with pytest.raises(InputError, match=r"not all in \[0, 49152\)"):
            smol.decode(ids)
    assert smol.decode(np.array([], np.int32)) == ""


# A small vocabulary: the bytes that these tests use, three merges, and special tokens.
TOKENS = ["<|endoftext|>", "<|im_end|>", "a", "b", "c", "1", "2", "\u0120", "ab", "\u0120c", "abc"]
MERGES = ["a b", "\u0120 c", "ab c"]


def write_gguf(path, **changes):
    writer = gguf.GGUFWriter(path, "llama")
    values = {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": TOKENS,
        "merges": MERGES,
        "token_type": [3, 4] + [1] * (len(TOKENS) - 2),
        "eos_token_id": 1,
    } | changes
    for name, value in values.items():
        if isinstance(value, list):
            writer.add_array(f"tokenizer.ggml.{name}", value)
        elif isinstance(value, int):
            writer.add_uint32(f"tokenizer.ggml.{name}", value)
        elif value is not None:
            writer.add_string(f"tokenizer.ggml.{name}", value)
    writer.add_tensor("token_embd.weight", np.zeros((11, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


def write_directory(path, tokenizer_file, **config):
    path.mkdir()
    (path / "tokenizer.json").write_text(tokenizer_file)
    (path / "config.json").write_text(json.dumps({"vocab_size": 11} | config))
    return str(path)


def test_gguf_and_directory_agree(tmp_path):
    from_gguf = load_tokenizer(write_gguf(tmp_path / "a.gguf"))
    from_folder = load_tokenizer(
        write_directory(tmp_path / "folder", from_gguf.backend.to_str(), eos_token_id=[1, 0])
    )
    texts = ["abc abc", "12 cab", "<|im_end|>ab<|endoftext|>", ""]
    expected = [[10, 7, 10], [5, 6, 9, 8], [1, 8, 0], []]
    for tokenizer in (from_gguf, from_folder):
        assert tokenizer.encode_batch(texts) == expected
        assert [tokenizer.decode(ids) for ids in expected] == texts
        assert (tokenizer.vocab_size, tokenizer.end_of_text) == (11, 0)


@pytest.mark.parametrize(
    ("first", "eos", "expected"),
    [("<|end_of_text|>", 1, 0), ("<s>", 1, 1), ("<s>", [1, 5], 1)],
)
def test_end_of_text_by_name_or_by_the_file(tmp_path, first, eos, expected):
    backend = load_tokenizer(write_gguf(tmp_path / "a.gguf")).backend
    text = backend.to_str().replace("<|endoftext|>", first)
    folder = write_directory(tmp_path / "folder", text, eos_token_id=eos)
    assert load_tokenizer(folder).end_of_text == expected


def test_beginning_of_sequence_and_special_ids(tmp_path, smol):
    assert (smol.bos, smol.special_ids) == (1, tuple(range(17)))
    path = write_gguf(tmp_path / "a.gguf", bos_token_id=5)
    from_gguf = load_tokenizer(path)
    assert (from_gguf.bos, from_gguf.special_ids) == (5, (0, 5))
    assert load_tokenizer(write_gguf(tmp_path / "b.gguf")).bos is None
    text = from_gguf.backend.to_str()
    folder = tmp_path / "folder"
    write_directory(folder, text, bos_token_id=2)
    assert load_tokenizer(str(folder)).bos == 2
    # tokenizer_config.json decides where it says something, and none is something.
    for said, expected in (("a", 2), ({"content": "b"}, 3), (None, None), ("not a token", None)):
        (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": said}))
        assert load_tokenizer(str(folder)).bos == expected
    (folder / "tokenizer_config.json").write_text("{}")
    assert load_tokenizer(str(folder)).bos == 2
    with pytest.raises(InputError, match="beginning-of-sequence id is 11"):
        load_tokenizer(write_directory(tmp_path / "bad", text, bos_token_id=11))


def test_fingerprints_tell_tokenizers_apart(tmp_path):
    first = load_tokenizer(write_gguf(tmp_path / "a.gguf"))
    again = load_tokenizer(write_gguf(tmp_path / "b.gguf"))
    other = load_tokenizer(write_gguf(tmp_path / "c.gguf", merges=MERGES[:2]))
    assert first.fingerprint == again.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "llama"}, "type 'llama' with pre-tokenizer 'smollm' is not supported"),
        ({"pre": "qwen2"}, "pre-tokenizer 'qwen2' is not supported"),
        ({"model": None}, "type None"),
        ({"tokens": None}, "tokens must be a list of strings"),
        ({"tokens": [1, 2]}, "tokens must be a list of strings"),
        ({"tokens": ["a"] * 11}, "must differ from each other"),
        ({"token_type": [1, 1]}, "token_type must have an entry for each"),
        ({"token_type": None}, "token_type must have an entry for each"),
        ({"merges": ["a b", "b q"]}, "merges has 'b q'"),
        ({"merges": ["b a"]}, "no two tokens"),
        ({"merges": ["abc"]}, "no two tokens"),
        ({"tokens": [*TOKENS, "x"], "token_type": [1] * 12}, "ids up to 11.*vocab_size is 11"),
        ({"tokens": ["<s>", *TOKENS[1:]], "eos_token_id": None}, "no token to put between"),
        ({"tokens": ["<s>", *TOKENS[1:]], "eos_token_id": 11}, "end-of-sequence id is 11"),
    ],
)
def test_gguf_tokenizers_that_are_refused(tmp_path, changes, words):
    with pytest.raises(InputError, match=rf"a\.gguf.*{words}"):
        load_tokenizer(write_gguf(tmp_path / "a.gguf", **changes))


def test_directories_that_are_refused(tmp_path):
    text = load_tokenizer(write_gguf(tmp_path / "a.gguf")).backend.to_str()
    for number, (content, words) in enumerate(
        [("no json", "not valid JSON"), ("{}", "not a usable tokenizer"), ("[]", "JSON object")]
    ):
        folder = write_directory(tmp_path / str(number), content)
        with pytest.raises(InputError, match=rf"tokenizer\.json.*{words}"):
            load_tokenizer(folder)
    with pytest.raises(InputError, match="vocab_size is 10"):
        load_tokenizer(write_directory(tmp_path / "small", text, vocab_size=10))
    with pytest.raises(InputError, match="vocab_size is None"):
        load_tokenizer(write_directory(tmp_path / "none", text, vocab_size=None))
    (tmp_path / "small" / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"tokenizer\.json cannot be read"):
        load_tokenizer(str(tmp_path / "small"))
    (tmp_path / "text.txt").write_text("")
    with pytest.raises(InputError, match="neither a"):
        load_tokenizer(str(tmp_path / "text.txt"))
