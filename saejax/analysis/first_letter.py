"""The first-letter task: words of one token, prompts that spell them, activations at the words.

Letters: B words, W windows, L context length, D activation width, V vocabulary.
"""

import dataclasses
import re
import string

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from saejax.errors import InputError
from saejax.lm import Tokenizer
from saejax.lm.capture import Capture
from saejax.progress import Progress

LETTERS = string.ascii_lowercase
# A space and at least three letters: shorter tokens are seldom words.
_WORD = re.compile(r" [A-Za-z]{3,}", re.ASCII)
# Prompt and number of examples of Chanin et al. 2024 (arXiv 2409.14507) and SAEBench.
_ASK = " has the first letter:"
_EXAMPLES = 10
# Words that are read in a window, after the examples.
_READ = 20
# Fraction of the words that probes are trained on (sae-spelling, SAEBench).
_TRAIN_FRAC = 0.8
# Words of a letter below which a test of it says nothing: 40 leave 8 to test on.
MIN_WORDS = 40


@dataclasses.dataclass(frozen=True, eq=False)
class Words:
    """Words of one token each, no two of which differ in case alone.

    Attributes:
      texts: As in " dog", with the space.
      tokens: [B] token ids.
      letters: [B] first letters, as places in the alphabet.
    """

    texts: tuple[str, ...]
    tokens: Int[np.ndarray, " B"]
    letters: Int[np.ndarray, " B"]

    def __getitem__(self, places: Int[np.ndarray, " P"]) -> "Words":
        texts = tuple(self.texts[place] for place in places)
        return Words(texts, self.tokens[places], self.letters[places])


@dataclasses.dataclass(frozen=True, eq=False)
class Prompts:
    """Windows in which words are spelled, one a line, and where those to be read are.

    Attributes:
      tokens: [W, L] token ids; short windows are filled up behind, where nothing looks.
      rows: [B] window of each word.
      columns: [B] place of the word in its window.
    """

    tokens: Int[np.ndarray, "W L"]
    rows: Int[np.ndarray, " B"]
    columns: Int[np.ndarray, " B"]


def find_words(tokenizer: Tokenizer) -> Words:
    """All tokens that are a space and three or more of the letters a to z, in either case.

    Of those that differ in case alone the lowest id stays, so that no word is both trained and
    tested on. Tokens that the tokenizer does not give back in a prompt are left out.
    """
    texts: dict[int, str] = {}
    seen: set[str] = set()
    for token in range(tokenizer.vocab_size):
        text = tokenizer.decode([token])
        if _WORD.fullmatch(text) and text.lower() not in seen:
            seen.add(text.lower())
            texts[token] = text
    head, *tails = _line_parts(tokenizer)
    lines = tokenizer.encode_batch([_line(text) for text in texts.values()])
    kept = [
        (text, token, LETTERS.index(text[1].lower()))
        for (token, text), ids in zip(texts.items(), lines, strict=True)
        if ids == [*head, token, *tails[LETTERS.index(text[1].lower())]]
    ]
    return Words(
        tuple(text for text, _, _ in kept),
        np.array([token for _, token, _ in kept], np.int32),
        np.array([letter for _, _, letter in kept], np.int32),
    )


def split_words(words: Words, letters: str, *, per_letter: int) -> tuple[Words, Words]:
    """Words to train probes on and words to test them on: 80 % and 20 % of each letter's.

    Args:
      words: Of `find_words`.
      letters: First letters; "" takes all that have at least `MIN_WORDS` words.
      per_letter: Most words of a letter, drawn at random; always the same ones.

    Raises:
      InputError: If a letter has too few words, or fewer than two letters are left.
    """
    if per_letter < MIN_WORDS:
        raise InputError(f"words_per_letter={per_letter}: {MIN_WORDS} or more are needed")
    counts = np.bincount(words.letters, minlength=len(LETTERS))
    enough = "".join(letter for letter in LETTERS if counts[LETTERS.index(letter)] >= MIN_WORDS)
    if wrong := sorted(set(letters) - set(enough)):
        raise InputError(
            f"letters={letters!r}: {wrong[0]!r} has "
            f"{counts[LETTERS.index(wrong[0])] if wrong[0] in LETTERS else 0} words of one token, "
            f"fewer than {MIN_WORDS}; of this tokenizer choose from {enough!r}"
        )
    chosen = sorted(set(letters or enough))
    if len(chosen) < 2:
        raise InputError(
            f"letters={letters!r}: the task needs two letters or more with {MIN_WORDS} words of "
            f"one token (a space and letters a to z) each; this tokenizer has {len(words.texts)} "
            f"such words, with enough for {enough!r}: use a model with a larger English vocabulary"
        )
    rng = np.random.default_rng(0)
    train: list[np.ndarray] = []
    test: list[np.ndarray] = []
    for letter in chosen:
        own = rng.permutation(np.flatnonzero(words.letters == LETTERS.index(letter)))[:per_letter]
        train.append(own[: int(_TRAIN_FRAC * len(own))])
        test.append(own[int(_TRAIN_FRAC * len(own)) :])
    return words[np.concatenate(train)], words[np.concatenate(test)]


def make_prompts(words: Words, tokenizer: Tokenizer, *, begin: tuple[int, ...] = ()) -> Prompts:
    """Windows of 30 lines " dog has the first letter: D": 10 examples, 20 words to be read.

    As attention is causal, what follows a word does not change its activation: a word that is
    read serves as an example for those after it, which costs a seventh of a prompt for each word.
    Examples are words of the same set, so train and test words never meet.

    Args:
      words: At least 11.
      tokenizer: That gave them.
      begin: Ids to begin each window with: the beginning-of-sequence token, if the model wants it.
    """
    head, *tails = _line_parts(tokenizer)
    rng = np.random.default_rng(0)
    num = len(words.texts)
    order_B = rng.permutation(num)
    rows_B, columns_B = np.zeros(num, np.int32), np.zeros(num, np.int32)
    windows: list[list[int]] = []
    for start in range(0, num, _READ):
        read = order_B[start : start + _READ]
        others = np.setdiff1d(order_B, read)
        examples = rng.choice(others, min(_EXAMPLES, len(others)), replace=False)
        ids = list(begin)
        for place, word in enumerate([*examples, *read]):
            ids += head
            if place >= len(examples):
                rows_B[word], columns_B[word] = len(windows), len(ids)
            ids += [int(words.tokens[word]), *tails[words.letters[word]]]
        windows.append(ids)
    tokens_WL = np.full((len(windows), max(map(len, windows))), tokenizer.end_of_text, np.int32)
    for row, ids in enumerate(windows):
        tokens_WL[row, : len(ids)] = ids
    return Prompts(tokens_WL, rows_B, columns_B)


def read_words(
    prompts: Prompts, capture: Capture, hookpoint: str, *, batch_windows: int
) -> Float[np.ndarray, "B D"]:
    """Activations at the words, in float32.

    Args:
      prompts: Of `make_prompts`.
      capture: Of `saejax.lm.make_capture`, with this hook point.
      hookpoint: Where to read.
      batch_windows: Windows in a pass of the model.
    """
    found: list[np.ndarray] = []
    order = np.argsort(prompts.rows, kind="stable")
    with Progress("spell words", total=len(prompts.rows), unit="words") as progress:
        for start in range(0, len(prompts.tokens), batch_windows):
            part_WL = prompts.tokens[start : start + batch_windows]
            # One shape, so that nothing is compiled twice.
            padded_WL = np.resize(part_WL, (batch_windows, part_WL.shape[1]))
            x_WLD = np.asarray(capture(jnp.asarray(padded_WL))[hookpoint], np.float32)
            rows = prompts.rows[order]
            own = order[(rows >= start) & (rows < start + batch_windows)]
            found.append(x_WLD[prompts.rows[own] - start, prompts.columns[own]])
            progress.advance(len(own))
    x_BD = np.concatenate(found)
    return x_BD[np.argsort(order, kind="stable")]


def _line(text: str) -> str:
    return f"\n{text}{_ASK} {text[1].upper()}"


def _line_parts(tokenizer: Tokenizer) -> list[list[int]]:
    """Ids of what stands before the word in its line, then of what stands behind, by letter."""
    return tokenizer.encode_batch(["\n", *(f"{_ASK} {letter.upper()}" for letter in LETTERS)])
