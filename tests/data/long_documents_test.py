"""Long documents in pieces: nothing is lost, and no token of a real tokenizer changes."""

import itertools
import random
import re

import pytest
import tokenizers
from tokenizers import Regex, models, pre_tokenizers, trainers

from saejax.data.long_documents import cut

# The expression of Llama 3, which joins line ends to what stands before.
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def text_of(seed):
    """Words, numbers and code with every kind of blank between."""
    rng = random.Random(seed)
    parts = ["word", "Other", "don't", "1234", "f(x);", "...", "ünïcode", "\t"]
    blanks = [" ", " ", "  ", "\n", "\n\n", " \n", "\n  ", ".\n", "\r\n", "\n" * 9]
    return "".join(rng.choice(parts) + rng.choice(blanks) for _ in range(4000))


def trained(pre_tokenizer):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([text_of(99)], trainer)
    return lambda texts: [found.ids for found in tokenizer.encode_batch(list(texts))]


@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA_3), "isolated"), BYTES]),
        # No words at all: tokens may span line ends.
        BYTES,
    ],
    ids=["gpt2", "llama3", "no_words"],
)
def test_tokens_are_those_of_the_whole(pre_tokenizer):
    encode_batch = trained(pre_tokenizer)
    for seed in range(3):
        text = text_of(seed)
        pieces = list(cut(text, encode_batch, 2000))
        assert "".join(pieces) == text
        assert len(pieces) > 8
        assert list(itertools.chain(*encode_batch(pieces))) == encode_batch([text])[0]


def test_a_tokenizer_that_marks_beginnings_gets_the_whole_text():
    text = text_of(0)
    assert list(cut(text, lambda texts: [[-1, *t.encode()] for t in texts], 2000)) == [text]


def test_without_places_the_rest_is_one_piece():
    def encode_batch(texts):
        return [re.findall(r"\s+|\S+", text) for text in texts]

    for text in ("a" * 9999, "", "short", "a\n" * 1000 + "b" * 9000):
        pieces = list(cut(text, encode_batch, 1000))
        assert "".join(pieces) == text
    assert len(pieces) == 2
    # Blanks as far as can be seen are no place to cut.
    blank = "a" * 3000 + "\n" * 9000
    assert len(list(cut(blank, encode_batch, 2000))) == 1
