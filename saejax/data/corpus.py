"""A corpus as windows of token ids, any of which can be read at any time.

Dimension letters: W windows, L context length, N documents.
"""

import dataclasses
import operator
import warnings
from collections.abc import Sequence
from typing import NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Int, Int32

from saejax.config import DataConfig
from saejax.data.documents import is_on_hub
from saejax.data.memmap import memmap_files, open_memmap
from saejax.data.tokenize import Limit, TextEncoder, corpus_tokens
from saejax.data.tokens import Tokens
from saejax.errors import InputError
from saejax.sources import resolve

# Windows of a file of bare ids that are read before anything else, spread evenly: enough to see
# that it belongs to another model, too few to wait for.
_WINDOWS_TRIED = 64


class Windows:
    """Windows [W, L] of token ids, of which each is read when it is asked for.

    `len`, `shape`, an index and a slice work as for an array; they give int32.

    Args:
      tokens: The stream that windows are cut from.
      starts: Positions where windows may begin.
      length: L.
      num_windows: W. If there are more starts, windows are spread evenly over them.
      bos: Id put at the beginning of each window, which then has one token less of the stream.
    """

    def __init__(
        self,
        tokens: Tokens,
        starts: Sequence[int] | Int[np.ndarray, " N"],
        *,
        length: int,
        num_windows: int,
        bos: int | None = None,
    ):
        self._tokens = tokens
        self._starts = starts
        self._prefix = [] if bos is None else [bos]
        self.shape = (num_windows, length)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: SupportsIndex | slice) -> Int32[np.ndarray, "*W L"]:
        # A range knows negative indices, steps and its end.
        if isinstance(index, slice):
            chosen = range(len(self))[index]
            windows = [self._window(i) for i in chosen]
            return np.stack(windows) if windows else np.empty((0, self.shape[1]), np.int32)
        return self._window(range(len(self))[operator.index(index)])

    def _window(self, i: int) -> Int32[np.ndarray, " L"]:
        num_windows, length = self.shape
        start = int(self._starts[i * len(self._starts) // num_windows])
        ids_L = self._tokens.read(start, length - len(self._prefix))
        return np.concatenate([np.array(self._prefix, np.int32), ids_L])


def read_windows(cfg: DataConfig, tokenizer: TextEncoder, *, vocab_size: int) -> Windows:
    """Opens the corpus as windows of `data.context_length` token ids.

    With `data.documents="packed"` documents follow each other with one end-of-text token between;
    windows are cut without regard to documents, and the tail that does not fill a window is
    dropped. "separate" takes the beginning of each document that fills a window. Of more windows
    than `data.num_tokens` asks for, "in_order" takes the first, and stops reading there; the
    shuffled orders take windows spread evenly over the corpus, which may be sorted by topic.
    Files of bare ids (.bin) are cut as they are.

    Text is tokenized once: the ids are kept in `~/.cache/saejax/tokens` (or below
    `XDG_CACHE_HOME`), for other context lengths too. Delete what is there at any time.

    Args:
      cfg: Corpus and window length.
      tokenizer: Text to ids; not used for bare ids.
      vocab_size: Of the model, which all ids have to fit.

    Raises:
      InputError: If the corpus cannot be read or does not fill one window.
    """
    stream = _open(cfg, tokenizer, vocab_size)
    starts = stream.starts
    num_windows = _num_used(cfg, len(starts))
    if cfg.order == "in_order":
        starts = starts[:num_windows]
    return stream.windows(starts, num_windows)


def of_other_text(cfg: DataConfig, source: str, text_field: str | None, windows: int) -> DataConfig:
    """The same windows of another text: its first ones, in order.

    Args:
      cfg: How the first text was cut into windows.
      source: As `data.source`.
      text_field: As `data.text_field`; its default if None.
      windows: How many.
    """
    return dataclasses.replace(
        cfg,
        source=source,
        subset="",
        split="",
        text_field=text_field or DataConfig().text_field,
        num_tokens=windows * cfg.context_length,
        order="in_order",
    )


def read_held_out_windows(
    cfg: DataConfig, tokenizer: TextEncoder, *, vocab_size: int, num_windows: int
) -> Windows:
    """Opens windows of the corpus that `read_windows` leaves out, with none of its positions.

    With "in_order" those that follow; else windows spread evenly over what is left. A document may
    lie partly in a window that is used and partly in one that is not.

    Args:
      cfg: As for `read_windows`.
      tokenizer: As for `read_windows`.
      vocab_size: As for `read_windows`.
      num_windows: Largest number wanted; there may be fewer.

    Raises:
      InputError: If `read_windows` uses all of the corpus, or raises it.
    """
    stream = _open(cfg, tokenizer, vocab_size, more=num_windows)
    total = len(stream.starts)
    used = _num_used(cfg, total)
    if cfg.order == "in_order":
        left = stream.starts[used : used + num_windows]
    else:
        left = np.delete(np.asarray(stream.starts), [i * total // used for i in range(used)])
    if not len(left):
        raise InputError(
            f"data.num_tokens={cfg.num_tokens}: training uses all {total} windows of "
            f"{cfg.source}, so none is held out; name another text with --text, or train with a "
            "smaller data.num_tokens"
        )
    return stream.windows(left, min(num_windows, len(left)))


class _Stream(NamedTuple):
    """A corpus, and the positions at which windows may begin."""

    tokens: Tokens
    starts: Sequence[int] | Int[np.ndarray, " N"]
    length: int
    bos: int | None
    is_bare: bool

    def windows(self, starts: Sequence[int] | Int[np.ndarray, " N"], num_windows: int) -> Windows:
        """Windows spread evenly over some of the starts."""
        windows = Windows(
            self.tokens, starts, length=self.length, num_windows=num_windows, bos=self.bos
        )
        if self.is_bare:
            windows[:: -(-num_windows // _WINDOWS_TRIED)]
        return windows


def _num_used(cfg: DataConfig, num_starts: int) -> int:
    """Windows that `data.num_tokens` asks for, of those that there are."""
    return min(cfg.num_tokens // cfg.context_length or num_starts, num_starts)


def _open(cfg: DataConfig, tokenizer: TextEncoder, vocab_size: int, more: int = 0) -> _Stream:
    """The corpus, in order as far as `data.num_tokens` and so many more windows need it."""
    length = cfg.context_length
    if cfg.num_tokens and cfg.num_tokens < length:
        raise InputError(
            f"data.num_tokens={cfg.num_tokens} is below one window of data.context_length={length} "
            "tokens; raise it, or 0 takes all"
        )
    files = [] if is_on_hub(cfg.source) else memmap_files(resolve(cfg.source))
    if files:
        _check_bare(cfg)
        tokens, separate, bos = open_memmap(files, vocab_size), False, None
    else:
        separate = cfg.documents == "separate"
        if cfg.bos != "none" and tokenizer.bos is None:
            raise InputError(
                f"data.bos={cfg.bos}: the tokenizer has no beginning-of-sequence token; set "
                "data.bos=none"
            )
        bos = tokenizer.bos if cfg.bos == "window" else None
        limit = None
        if cfg.num_tokens and cfg.order == "in_order":
            limit = Limit(cfg.num_tokens // length + more, length - (bos is not None), separate)
        tokens = corpus_tokens(
            cfg,
            tokenizer,
            vocab_size=vocab_size,
            bos=tokenizer.bos if cfg.bos == "document" else None,
            limit=limit,
        )
    of_stream = length - (bos is not None)
    if separate:
        starts = _long_documents(cfg, tokens, of_stream)
    else:
        starts = range(0, len(tokens) - of_stream + 1, of_stream)
        if not starts:
            raise InputError(
                f"data.source={cfg.source}: {len(tokens)} tokens do not fill one window of "
                f"data.context_length={length}; add text or shorten the window"
            )
    return _Stream(tokens, starts, length, bos, bool(files))


def _check_bare(cfg: DataConfig) -> None:
    """Refuses what files of bare ids cannot give."""
    for field, plain in (("documents", "packed"), ("bos", "none"), ("subset", ""), ("split", "")):
        if getattr(cfg, field) != plain:
            raise InputError(
                f"data.{field}={getattr(cfg, field)}: {cfg.source} holds bare ids, whose windows "
                f"are what is in the file; set data.{field}={plain!r}"
            )


def _long_documents(cfg: DataConfig, tokens: Tokens, length: int) -> Int[np.ndarray, " N"]:
    """Starts of documents that fill a window, and a warning that says how many do not."""
    starts_N = tokens.starts_N
    assert starts_N is not None
    # Each but the last ends before an end-of-text token.
    ends_N = np.append(starts_N[1:] - 1, len(tokens))
    long_N = ends_N - starts_N >= length
    if not long_N.any():
        raise InputError(
            f"data.documents=separate: none of {len(starts_N)} documents fills a window of "
            f"data.context_length={cfg.context_length}; shorten it or set data.documents=packed"
        )
    if not long_N.all():
        warnings.warn(
            f"data.documents=separate: {np.count_nonzero(~long_N)} of {len(starts_N)} documents do "
            f"not fill a window of {cfg.context_length} tokens and are left out",
            stacklevel=4,
        )
    return starts_N[long_N]
