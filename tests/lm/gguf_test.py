"""The header parser against the gguf package's own reader, and on damaged files."""

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saejax.config import SAMPLE_LM
from saejax.errors import InputError
from saejax.lm.gguf import read_gguf
from saejax.sources import resolve

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file with every kind of value, and a tensor of several types."""
    path = tmp_path_factory.mktemp("gguf") / "a.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -100)
    writer.add_uint16("u16", 60_000)
    writer.add_int16("i16", -30_000)
    writer.add_uint32("u32", 2**32 - 1)
    writer.add_int32("i32", -(2**31))
    writer.add_uint64("u64", 2**64 - 1)
    writer.add_int64("i64", -(2**63))
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 1e300)
    writer.add_bool("yes", True)
    writer.add_string("text", "Grüße \u2603")
    writer.add_array("texts", ["", "a", "\u0120x"])
    writer.add_array("numbers", [1, -2, 3])
    writer.add_array("floats", [0.25, 1.5])
    rng = np.random.default_rng(0)
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        values = rng.normal(size=(3, 64)).astype(np.float32)
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_reads_what_the_gguf_package_reads(file):
    theirs, ours = gguf.GGUFReader(file), read_gguf(file)
    values = {n: f.contents() for n, f in theirs.fields.items() if not n.startswith("GGUF.")}
    assert ours.metadata == values
    assert ours.metadata["text"] == "Grüße \u2603"
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        found = ours.tensors[tensor.name]
        expected = gguf.dequantize(tensor.data, tensor.tensor_type)
        assert found.shape == expected.shape == (3, 64)
        assert found.num_bytes == tensor.n_bytes
        np.testing.assert_array_equal(found.read(), expected)


def test_header_of_the_packaged_model():
    file = read_gguf(resolve(SAMPLE_LM))
    assert file.metadata["llama.block_count"] == 30
    assert len(file.metadata["tokenizer.ggml.merges"]) == 48_900
    assert len(file.tensors) == 272
    assert file.tensors["blk.29.ffn_down.weight"].shape == (576, 1536)


def damaged(tmp_path, content):
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content)
    return path


@settings(max_examples=60)
@given(data=st.data())
def test_every_truncation_is_an_input_error(file, tmp_path_factory, data):
    content = file.read_bytes()
    # The writer pads the end of the file to the alignment of 32 bytes.
    length = data.draw(st.integers(0, len(content) - 33))
    path = damaged(tmp_path_factory.mktemp("cut"), content[:length])
    with pytest.raises(InputError, match=r"damaged\.gguf.*download it again"):
        read_gguf(path)


@settings(max_examples=150)
@given(data=st.data())
def test_flipped_bytes_give_an_input_error_or_a_file(file, tmp_path_factory, data):
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, 1500))] = data.draw(st.integers(0, 255))
    try:
        opened = read_gguf(damaged(tmp_path_factory.mktemp("flipped"), bytes(content)))
        for tensor in opened.tensors.values():
            tensor.read()
        message = "damaged.gguf"
    except InputError as error:
        message = str(error)
    assert "damaged.gguf" in message


def test_a_cut_tensor_is_named_with_its_end(file, tmp_path):
    content = file.read_bytes()
    with pytest.raises(InputError, match=r"tensor 'Q5_0' ends at byte [\d,]+; it has [\d,]+ bytes"):
        read_gguf(damaged(tmp_path, content[:-100]))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"not a GGUF file at all", "does not begin with 'GGUF'"),
        (b"GGUF" + (9).to_bytes(4, "little") + bytes(16), "version 9"),
        (b"GGUF" + (3).to_bytes(4, "big") + bytes(16), "version 50331648"),
    ],
)
def test_other_files_are_refused(tmp_path, content, words):
    with pytest.raises(InputError, match=words):
        read_gguf(damaged(tmp_path, content))


def test_unknown_and_unsupported_quantisation(file, tmp_path):
    content = file.read_bytes()
    # The type follows the name, the number of dimensions and two dimensions.
    at = content.index(b"Q4_1", content.index(b"Q4_0")) + 4 + 4 + 16
    assert content[at] == gguf.GGMLQuantizationType.Q4_1

    def with_type(number):
        return damaged(tmp_path, content[:at] + bytes([number]) + content[at + 1 :])

    with pytest.raises(InputError, match="tensor 'Q4_1' has the unknown type 250"):
        read_gguf(with_type(250))
    opened = read_gguf(with_type(gguf.GGMLQuantizationType.I8))
    with pytest.raises(InputError, match="tensor 'Q4_1' has type I8, which cannot be dequantised"):
        opened.tensors["Q4_1"].read()


def test_unreadable_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_gguf(tmp_path / "missing.gguf")
