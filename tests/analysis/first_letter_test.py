"""Words of a tokenizer, their split, and where prompts are read."""

import itertools

import numpy as np
import pytest
import tokenizers
from tokenizers.pre_tokenizers import ByteLevel

from saejax.analysis.first_letter import (
    LETTERS,
    find_words,
    make_prompts,
    read_words,
    split_words,
)
from saejax.errors import InputError
from saejax.lm import Tokenizer


def make_tokenizer(words):
    """A token a byte, and one for each word with its space."""
    vocabulary = {symbol: i for i, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_tokens([tokenizers.AddedToken(word, normalized=False) for word in words])
    return Tokenizer(backend, 256 + len(words), 0, None, ())


def spelled(first, num):
    return [f" {first}{a}{b}" for a, b in itertools.islice(itertools.product(LETTERS, "mno"), num)]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer([*spelled("b", 60), *spelled("A", 50), *spelled("q", 10)])


def test_words_are_a_space_and_three_letters():
    kept = [" dog", " Cats"]
    found = find_words(make_tokenizer([*kept, " cats", "cow", " at", " o'er", " été", " b2b"]))
    assert list(found.texts) == kept
    assert found.letters.tolist() == [3, 2]
    assert found.tokens.tolist() == [256, 257]


def test_words_that_a_prompt_tears_apart_are_left_out():
    # The line break in front of " dog" has become part of another token.
    tokenizer = make_tokenizer([" dog", "\n dog", " cat"])
    assert find_words(tokenizer).texts == (" cat",)


def test_a_split_keeps_words_apart(tokenizer):
    train, test = split_words(find_words(tokenizer), "", per_letter=50)
    assert set(train.texts).isdisjoint(test.texts)
    for words, each in ((train, 40), (test, 10)):
        # q has too few words.
        assert np.unique(words.letters, return_counts=True)[1].tolist() == [each, each]
        assert [LETTERS[i] for i in words.letters] == [text[1].lower() for text in words.texts]
        assert tokenizer.decode(words.tokens) == "".join(words.texts)
    again, _ = split_words(find_words(tokenizer), "ab", per_letter=50)
    assert again.texts == train.texts


def test_prompts_spell_every_word_once_after_ten_examples(tokenizer):
    words, _ = split_words(find_words(tokenizer), "", per_letter=50)
    prompts = make_prompts(words, tokenizer, begin=(7,))
    np.testing.assert_array_equal(prompts.tokens[prompts.rows, prompts.columns], words.tokens)
    assert (prompts.tokens[:, 0] == 7).all()
    for row, ids in enumerate(prompts.tokens):
        text = tokenizer.decode(ids[1:])
        lines = [line for line in text.rstrip("!").split("\n") if line]
        assert len(lines) == 30
        for line in lines:
            assert line == f"{line[:4]} has the first letter: {line[1].upper()}"
        own = [words.texts[i] for i in np.flatnonzero(prompts.rows == row)]
        assert len(own) == 20
        assert sorted(line[:4] for line in lines[10:]) == sorted(own)
        spelled_once = {line[:4] for line in lines}
        assert len(spelled_once) == 30
        assert spelled_once <= set(words.texts)


def test_activations_are_read_at_the_words(tokenizer):
    words, _ = split_words(find_words(tokenizer), "", per_letter=50)
    prompts = make_prompts(words, tokenizer)
    shapes = set()

    def capture(tokens_WL):
        shapes.add(tokens_WL.shape)
        places = np.broadcast_to(np.arange(tokens_WL.shape[1]), tokens_WL.shape)
        return {"here": np.stack([tokens_WL, places], axis=-1)}

    x = read_words(prompts, capture, "here", batch_windows=3)
    np.testing.assert_array_equal(x, np.stack([words.tokens, prompts.columns], axis=1))
    assert shapes == {(3, prompts.tokens.shape[1])}


@pytest.mark.parametrize(
    ("letters", "per_letter", "message"),
    [
        ("", 39, "words_per_letter=39: 40 or more"),
        ("aq", 50, "'q' has 10 words of one token, fewer than 40.*'ab'"),
        ("a1", 50, "'1' has 0 words"),
        ("a", 50, "needs two letters or more"),
    ],
)
def test_what_makes_no_task_is_refused(tokenizer, letters, per_letter, message):
    with pytest.raises(InputError, match=message):
        split_words(find_words(tokenizer), letters, per_letter=per_letter)


def test_a_tokenizer_without_words_is_refused():
    with pytest.raises(InputError, match="this tokenizer has 0 such words"):
        split_words(find_words(make_tokenizer([])), "", per_letter=50)
