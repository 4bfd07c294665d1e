"""Windows: how a corpus is packed, what is dropped, and what bad input says."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saejax.config import Config, DataConfig
from saejax.data import tokenize
from saejax.data.corpus import read_held_out_windows, read_windows
from saejax.data.loader import make_batches
from saejax.errors import InputError

EOT, BOS, VOCABULARY = 0, 1, 0x110000


@pytest.fixture(scope="module", autouse=True)
def _small_calls():
    """A few documents in each call of the tokenizer, cut at line ends after 5 characters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenize, "_CHARACTERS_PER_CALL", 20)
        patch.setattr(tokenize, "_CHARACTERS_PER_PIECE", 2)
        yield


def write(path, texts):
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return str(path)


@pytest.fixture(scope="module")
def windows_of(letters):
    """The windows of texts, written to a file."""

    def read(path, texts, encoder=None, **fields):
        cfg = DataConfig(source=write(path, texts), **fields)
        return read_windows(cfg, encoder or letters(), vocab_size=VOCABULARY)

    return read


def ids(text):
    return [ord(c) for c in text]


def test_empty_and_shorter_than_a_window(tmp_path, windows_of):
    with pytest.raises(InputError, match="corpus is empty"):
        windows_of(tmp_path / "a.jsonl", ["  \n"])
    with pytest.raises(
        InputError, match=r"5 tokens do not fill one window of data\.context_length=6"
    ):
        windows_of(tmp_path / "a.jsonl", ["short"], context_length=6)
    with pytest.raises(InputError, match=r"data\.num_tokens=3 is below one window"):
        windows_of(tmp_path / "a.jsonl", ["short"], context_length=4, num_tokens=3)


@given(
    texts=st.lists(st.text("abc\n", min_size=1, max_size=9), min_size=1, max_size=40),
    length=st.integers(2, 7),
    num_tokens=st.integers(0, 60),
    order=st.sampled_from(["in_order", "shuffled"]),
    bos=st.sampled_from(["none", "document", "window"]),
)
def test_packed_windows_are_the_joined_documents(
    tmp_path_factory, windows_of, texts, length, num_tokens, order, bos
):
    path = tmp_path_factory.mktemp("corpus") / "a.jsonl"
    stream = []
    for text in filter(str.strip, texts):
        stream += [EOT] * bool(stream) + [BOS] * (bos == "document") + ids(text)
    step = length - (bos == "window")
    whole = [
        [BOS] * (bos == "window") + stream[start : start + step]
        for start in range(0, len(stream) - step + 1, step)
    ]
    fields = {"context_length": length, "num_tokens": num_tokens, "order": order, "bos": bos}
    if not whole or 0 < num_tokens < length:
        with pytest.raises(InputError):
            windows_of(path, texts, **fields)
        return
    for _ in ("tokenized", "from the cache"):
        windows = windows_of(path, texts, **fields)
        assert windows[0].dtype == np.int32
        if order == "in_order":
            np.testing.assert_array_equal(windows[:], whole[: num_tokens // length or None])
            continue
        # Distinct windows of the corpus in its order, with gaps that differ by at most one.
        assert len(windows) == min(num_tokens // length or len(whole), len(whole))
        places = np.linspace(0, len(whole), len(windows), endpoint=False).astype(int)
        gaps = np.diff([*places, len(whole)])
        assert gaps.max() - gaps.min() <= 1
        np.testing.assert_array_equal(windows[:], np.array(whole)[places])


@given(
    texts=st.lists(st.text("abc\n", min_size=1, max_size=9), min_size=1, max_size=40),
    length=st.integers(2, 7),
    wanted=st.integers(0, 9),
    bos=st.sampled_from(["none", "document", "window"]),
)
@pytest.mark.filterwarnings("ignore:data.documents=separate")
def test_separate_windows_are_the_beginnings_of_long_documents(
    tmp_path_factory, windows_of, texts, length, wanted, bos
):
    path = tmp_path_factory.mktemp("corpus") / "a.jsonl"
    documents = [[BOS] * (bos != "none") + ids(text) for text in texts if text.strip()]
    expected = [document[:length] for document in documents if len(document) >= length]
    fields = {"documents": "separate", "context_length": length, "bos": bos, "order": "in_order"}
    if not expected:
        with pytest.raises(
            InputError, match=r"none of .* documents fills a window|corpus is empty"
        ):
            windows_of(path, texts, **fields)
        return
    windows = windows_of(path, texts, num_tokens=wanted * length, **fields)
    np.testing.assert_array_equal(windows[:], expected[: wanted or None])


@given(
    num_characters=st.integers(12, 90),
    length=st.integers(3, 7),
    num_tokens=st.integers(7, 80),
    num_windows=st.integers(1, 9),
    order=st.sampled_from(["in_order", "shuffled"]),
    bos=st.sampled_from(["none", "window"]),
)
def test_held_out_windows_share_no_position_with_those_used(
    tmp_path_factory, letters, num_characters, length, num_tokens, num_windows, order, bos
):
    # Every character once, in documents of 9: a window tells where it is from.
    characters = [chr(0x4E00 + i) for i in range(num_characters)]
    texts = ["".join(characters[i : i + 9]) for i in range(0, num_characters, 9)]
    cfg = DataConfig(
        source=write(tmp_path_factory.mktemp("corpus") / "a.jsonl", texts),
        context_length=length,
        num_tokens=num_tokens,
        order=order,
        bos=bos,
    )

    def held_out():
        return read_held_out_windows(cfg, letters(), vocab_size=VOCABULARY, num_windows=num_windows)

    stream, step = ids(chr(EOT).join(texts)), length - (bos == "window")
    whole = [
        [BOS] * (bos == "window") + stream[start : start + step]
        for start in range(0, len(stream) - step + 1, step)
    ]
    used = read_windows(cfg, letters(), vocab_size=VOCABULARY)[:].tolist()
    if len(used) == len(whole):
        with pytest.raises(InputError, match=r"training uses all \d+ windows.*--text"):
            held_out()
        return
    found = held_out()[:].tolist()
    assert len(found) == min(num_windows, len(whole) - len(used))
    places = [whole.index(window) for window in found]
    assert places == sorted(set(places))
    assert not {tuple(window) for window in found} & {tuple(window) for window in used}
    if order == "in_order":
        assert found == whole[len(used) :][:num_windows]


def test_nothing_is_held_out_of_a_corpus_that_is_used_whole(tmp_path, letters):
    cfg = DataConfig(source=write(tmp_path / "a.jsonl", ["abcdefghij"]), context_length=3)
    with pytest.raises(InputError, match=r"data\.num_tokens=0: training uses all 3 windows"):
        read_held_out_windows(cfg, letters(), vocab_size=VOCABULARY, num_windows=2)


def test_dropped_documents_are_counted(tmp_path, windows_of):
    with pytest.warns(UserWarning, match="2 of 3 documents do not fill a window of 4 tokens"):
        windows = windows_of(
            tmp_path / "a.jsonl", ["abc", "defgh", "i"], documents="separate", context_length=4
        )
    np.testing.assert_array_equal(windows[:], [ids("defg")])


def test_reading_stops_when_there_is_enough(tmp_path, letters):
    encoder = letters()
    path = tmp_path / "a.jsonl"
    path.write_text('"abcdefghij"\n' * 5 + "not JSON\n")
    cfg = DataConfig(source=str(path), context_length=5, num_tokens=20, order="in_order")
    windows = read_windows(cfg, encoder, vocab_size=VOCABULARY)
    assert len(windows) == 4
    assert encoder.seen == ["abcdefghij"] * 2
    cfg.order = "shuffled"
    with pytest.raises(InputError, match="line 6: not JSON"):
        read_windows(cfg, encoder, vocab_size=VOCABULARY)


def test_a_tokenizer_without_bos_and_one_of_another_model(tmp_path, letters, windows_of):
    for bos in ("document", "window"):
        with pytest.raises(InputError, match=f"data.bos={bos}: the tokenizer has no beginning"):
            windows_of(tmp_path / "a.jsonl", ["abc"], encoder=letters(bos=None), bos=bos)
    with pytest.raises(InputError, match="ids up to 122 do not fit a vocabulary of 100"):
        read_windows(
            DataConfig(source=write(tmp_path / "a.jsonl", ["abcz"]), context_length=2),
            letters(),
            vocab_size=100,
        )


def test_windows_are_indexed_as_an_array(tmp_path, windows_of):
    windows = windows_of(tmp_path / "a.jsonl", ["abcdefghij"], context_length=3)
    array = np.array([ids("abc"), ids("def"), ids("ghi")])
    assert (len(windows), windows.shape) == (3, (3, 3))
    for index in (0, -1, np.int64(2), slice(1, None), slice(None, None, -2), slice(5, 9)):
        np.testing.assert_array_equal(windows[index], array[index])
    for index in (3, -4):
        with pytest.raises(IndexError):
            windows[index]


def test_the_loader_takes_them(tmp_path, windows_of):
    cfg = Config()
    cfg.data.context_length, cfg.train.batch_tokens, cfg.data.order = 3, 6, "in_order"
    windows = windows_of(tmp_path / "a.jsonl", ["abcdefghijklm"], context_length=3)
    batches = list(make_batches(cfg, windows))
    np.testing.assert_array_equal(np.concatenate(batches), windows[:])
