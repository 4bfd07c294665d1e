"""Text to token ids, once: reading ahead, on all cores, kept on disk for the next time."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from saejax.config import DataConfig
from saejax.data.documents import open_documents
from saejax.data.long_documents import cut
from saejax.data.token_cache import EntryWriter, find_entry, write_entry
from saejax.data.tokens import Tokens
from saejax.errors import InputError
from saejax.progress import Progress

# Characters given to the tokenizer at once: enough documents for all of its threads, and few
# enough that what it returns, about 100 bytes a token, stays small.
_CHARACTERS_PER_CALL = 2**20
# Longer documents are cut, for many threads to work on one.
_CHARACTERS_PER_PIECE = 2**16


@runtime_checkable
class TextEncoder(Protocol):
    """What is needed of a tokenizer (see `saejax.lm.tokenizer.Tokenizer`)."""

    @property
    def end_of_text(self) -> int:
        """Id put between documents."""
        ...

    @property
    def bos(self) -> int | None:
        """Id of the beginning of a sequence."""
        ...

    @property
    def fingerprint(self) -> str:
        """Differs between tokenizers."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        """Ids of each text."""
        ...


class Limit(NamedTuple):
    """How much of a corpus is enough.

    Attributes:
      windows: Stop at so many windows,
      length: of so many tokens;
      per_document: each from another document of at least that length.
    """

    windows: int
    length: int
    per_document: bool


def corpus_tokens(
    cfg: DataConfig,
    tokenizer: TextEncoder,
    *,
    vocab_size: int,
    bos: int | None,
    limit: Limit | None,
) -> Tokens:
    """The documents of a corpus, with one end-of-text token between each two.

    Read from the cache on disk where they are there, else tokenized and written to it.

    Args:
      cfg: The corpus.
      tokenizer: Text to ids.
      vocab_size: Of the model, which the ids have to fit.
      bos: Id put in front of every document, if any.
      limit: Where reading stops; there may be more tokens than it asks for.

    Raises:
      InputError: For what is wrong with the corpus, and if it has no text.
    """
    documents = open_documents(cfg)
    key: dict[str, Any] = {
        "corpus": documents.identity,
        "text_field": cfg.text_field,
        "tokenizer": tokenizer.fingerprint,
        "end_of_text": tokenizer.end_of_text,
        "bos": bos,
        "limit": None,
    }
    # All of the corpus serves any limit.
    for limited in (key, key | {"limit": limit}):
        tokens = find_entry(limited, vocab_size)
        if tokens is not None:
            return tokens
    with write_entry(vocab_size) as writer:
        at_end = _tokenize(documents.texts, tokenizer, bos, limit, writer)
        if not writer.num_tokens:
            raise InputError(f"data.source={cfg.source}: the corpus is empty; name one with text")
        return writer.finish(key if at_end else key | {"limit": limit})


def _tokenize(
    texts: Iterator[str],
    tokenizer: TextEncoder,
    bos: int | None,
    limit: Limit | None,
    writer: EntryWriter,
) -> bool:
    """Writes tokens up to the limit; whether that was all of the corpus."""
    batches = _batches(texts, tokenizer)
    total = limit.windows * limit.length if limit and not limit.per_document else None
    # Of the document at hand, and how many so far are as long as the limit asks for.
    length = long_documents = 0
    is_first = True
    # One batch is read while the one before is tokenized, which leaves Python's lock free.
    with (
        Progress("tokenize", total=total, unit="tokens") as progress,
        ThreadPoolExecutor(1) as reader,
    ):
        pending = reader.submit(next, batches, None)
        while (batch := pending.result()) is not None:
            pending = reader.submit(next, batches, None)
            before = writer.num_tokens
            ids: list[int] = []
            starts: list[int] = []
            pieces = tokenizer.encode_batch([text for text, _ in batch])
            for (_, is_new), piece in zip(batch, pieces, strict=True):
                if is_new:
                    if not is_first:
                        ids.append(tokenizer.end_of_text)
                    is_first = False
                    starts.append(len(ids))
                    length = 0
                piece = piece if bos is None or not is_new else [bos, *piece]
                ids += piece
                if limit and length < limit.length <= length + len(piece):
                    long_documents += 1
                length += len(piece)
            writer.add(np.array(ids, np.int64), starts)
            after = writer.num_tokens
            progress.advance(min(after, total or after) - before)
            if limit:
                windows = long_documents if limit.per_document else after // limit.length
                if windows >= limit.windows:
                    return False
    return True


def _batches(texts: Iterator[str], tokenizer: TextEncoder) -> Iterator[list[tuple[str, bool]]]:
    """Texts, and whether each begins a document or goes on with the one before."""
    batch: list[tuple[str, bool]] = []
    size = 0
    for text in texts:
        pieces = cut(text, tokenizer.encode_batch, _CHARACTERS_PER_PIECE)
        for number, piece in enumerate(pieces):
            batch.append((piece, number == 0))
            size += len(piece)
            if size >= _CHARACTERS_PER_CALL:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch
