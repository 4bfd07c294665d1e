"""Sources of text: all kinds of file give the same documents; bad ones are named with the place."""

import gzip
import io
import json
import os

import pyarrow as pa
import pyarrow.parquet
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from saejax.config import DataConfig
from saejax.data.documents import is_on_hub, open_documents
from saejax.errors import InputError

TEXTS = ["one", "two\nlines", "dröe ☃", "four"]


def read(path, **fields):
    return list(open_documents(DataConfig(source=str(path), **fields)).texts)


def zstd(content):
    return pa.compress(content, "zstd", asbytes=True)


def arrow(texts, kind=None, new=pa.ipc.new_stream):
    table = pa.table({"id": range(len(texts)), "text": pa.array(texts, kind or pa.string())})
    target = io.BytesIO()
    with new(target, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    return target.getvalue()


def parquet(table):
    target = io.BytesIO()
    pa.parquet.write_table(table, target, row_group_size=3)
    return target.getvalue()


LINES = "".join(json.dumps({"text": text, "id": 1}) + "\n" for text in TEXTS).encode()


def label(value):
    """Of a case, the same in every process: what is compressed holds the time, or noise."""
    return "bytes" if isinstance(value, bytes) else None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps([{"text": text} for text in TEXTS]).encode()),
        ("a.json.gz", gzip.compress(json.dumps(dict(enumerate(TEXTS))).encode())),
        ("a.jsonl", LINES),
        ("windows.jsonl", b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n")),
        ("a.v2.jsonl.gz", gzip.compress(LINES[:40]) + gzip.compress(LINES[40:])),
        ("a.jsonl.zst", zstd(LINES[:40]) + zstd(LINES[40:])),
        ("a.parquet", parquet(pa.table({"text": TEXTS, "id": range(4)}))),
        ("null.parquet", parquet(pa.table({"text": [None, *TEXTS, ""]}))),
        ("a.arrow", arrow(TEXTS)),
        ("b.arrow", arrow(TEXTS, pa.large_string(), pa.ipc.new_file)),
        ("c.arrow", arrow(TEXTS, pa.dictionary(pa.int32(), pa.string()))),
    ],
    ids=label,
)
def test_every_kind_gives_the_same_documents(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path / name) == TEXTS


def test_text_files_and_directories(tmp_path):
    (tmp_path / "a.txt").write_text("one text\n")
    (tmp_path / "b.jsonl").write_text('{"text": "two"}\n\n"three"\n{"text": null}\n')
    (tmp_path / "c.json").write_text(json.dumps({"x": {"text": "four"}, "y": {"text": " "}}))
    (tmp_path / "ignored.md").write_text("five")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "d.txt.gz").write_bytes(gzip.compress(b"six"))
    assert read(tmp_path / "a.txt") == ["one text\n"]
    assert read(tmp_path / "b.jsonl") == ["two", "three"]
    assert read(tmp_path / "c.json") == ["four"]
    assert read(tmp_path) == ["one text\n", "two", "three", "six", "four"]


def test_array_records_hold_text_or_json(tmp_path):
    path = tmp_path / "a.array_record-00000-of-00001"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in (b"plain", b'{"text": "in JSON"}', "{☃".encode()):
        writer.write(record)
    writer.close()
    assert read(path) == ["plain", "in JSON", "{☃"]
    with pytest.raises(InputError, match=r"record 2: no text in field 'body' \(found: text\)"):
        read(path, text_field="body")
    path.write_bytes(b"no records")
    with pytest.raises(InputError, match="cannot be read"):
        read(path)


def test_directories_of_save_to_disk(tmp_path):
    """As `datasets` writes them; hub_peers_test.py reads those that it wrote itself."""
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        parts = ["data-00001.arrow", "data-00000.arrow"]
        for part, texts in zip(parts, ([name], TEXTS), strict=True):
            (tmp_path / name / part).write_bytes(arrow(texts))
        state = {"_data_files": [{"filename": part} for part in parts]}
        (tmp_path / name / "state.json").write_text(json.dumps(state))
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert read(tmp_path) == read(tmp_path / "train") == ["train", *TEXTS]
    assert read(tmp_path, split="test") == ["test", *TEXTS]
    with pytest.raises(InputError, match=r"data\.split='dev': .* has the splits train, test"):
        read(tmp_path, split="dev")
    with pytest.raises(InputError, match="is a single split"):
        read(tmp_path / "train", split="train")
    (tmp_path / "train" / "data-00000.arrow").unlink()
    with pytest.raises(InputError, match=r"data-00000\.arrow is missing"):
        read(tmp_path)
    (tmp_path / "train" / "state.json").write_text("{}")
    with pytest.raises(InputError, match=r"state\.json: not as datasets writes it"):
        read(tmp_path)


NOISE = "".join(json.dumps({"text": os.urandom(300).hex()}) + "\n" for _ in range(400)).encode()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", '{"text": "x"}\n{"text": \n', "line 2: not JSON"),
        ("a.jsonl", '{"body": "x", "id": 1}\n', "no text in field 'text' (found: body, id)"),
        ("a.jsonl", '{"text": 3}\n', "line 1: no text in field 'text' (found: text)"),
        ("a.jsonl", "3\n", "line 1: no text in field 'text' (found: int)"),
        ("a.jsonl", b'"x"\n"y\xff"\n', "line 2, byte 2: not UTF-8"),
        ("a.jsonl", '"x"\n"a\\ud800"\n', "line 2: unpaired surrogate at character 1"),
        ("a.json", "[", "not JSON"),
        ("a.json", '"x"\n"y"', "line 2: not JSON: Extra data; a file with a record a line is"),
        ("a.json", "3", "list or an object"),
        ("a.md", "x", "cannot read '.md' files; use .txt, .json, .jsonl, .parquet"),
        ("a.parquet.gz", "x", "cannot read '.gz' files; use .txt"),
        ("a.txt", b"\xff\xfe", "byte 0 is not UTF-8"),
        ("a.jsonl.gz", gzip.compress(NOISE)[:-100_000], "cannot be read on"),
        ("a.jsonl.gz", gzip.compress(NOISE)[:-4] + b"abcd", "cannot be read on (zlib"),
        ("a.jsonl.zst", zstd(NOISE)[:-100_000], "cannot be read on"),
        ("a.txt.zst", b"no Zstandard", "cannot be read"),
        ("a.txt.gz", b"no gzip", "cannot be read"),
        ("a.parquet", b"PAR1 not really PAR1", "cannot be read"),
        ("a.parquet", parquet(pa.table({"body": ["x"], "id": [1]})), "(columns: body (string), id"),
        ("a.parquet", parquet(pa.table({"text": [1]})), "no column 'text' with text"),
        ("a.arrow", arrow(TEXTS)[:-150], "cannot be read"),
        ("a.arrow", b"no Arrow at all", "cannot be read"),
    ],
    ids=label,
)
def test_bad_files_are_named_with_the_place(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as error:
        read(path)
    assert str(path) in str(error.value)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_damage_within_a_parquet_file(tmp_path):
    path = tmp_path / "a.parquet"
    content = bytearray(parquet(pa.table({"text": [line.decode() for line in NOISE.split()]})))
    content[1000:2000] = bytes(1000)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.parquet: cannot be read"):
        read(path)


def test_missing_unreadable_and_without_splits(tmp_path):
    with pytest.raises(InputError, match="nothere"):
        read(tmp_path / "nothere.txt")
    with pytest.raises(InputError, match=r"holds no \.txt"):
        read(tmp_path)
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "folder.txt" / "a.txt").write_text("x")
    assert read(tmp_path / "folder.txt") == ["x"]
    with pytest.raises(InputError, match=r"data\.split='test': .* has no splits"):
        read(tmp_path / "folder.txt", split="test")
    with pytest.raises(InputError, match=r"data\.subset='en': only data sets on the hub have"):
        read(tmp_path / "folder.txt", subset="en")


@pytest.mark.parametrize(
    ("source", "hub"),
    [
        ("monology/pile-uncopyrighted", True),
        ("org/name-v1.5@refs/convert", True),
        ("data/corpus.jsonl", False),
        ("data/document.bin", False),
        ("./name", False),
        ("/data/corpus", False),
        ("package:module/file", False),
        ("name", False),
        ("", False),
    ],
)
def test_what_counts_as_a_name_on_the_hub(source, hub):
    assert is_on_hub(source) == hub


def test_an_existing_path_is_no_name_on_the_hub(tmp_path, monkeypatch):
    (tmp_path / "data" / "corpus").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not is_on_hub("data/corpus")


def test_identity_differs_when_a_file_does(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    cfg = DataConfig(source=str(path))
    before, times = open_documents(cfg).identity, path.stat()
    assert open_documents(cfg).identity == before
    path.write_text("two")
    # The same path, size and time of modification.
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert open_documents(cfg).identity != before
