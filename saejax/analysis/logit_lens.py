"""Tokens that a latent's decoder row promotes and suppresses when it is read by the unembedding.

A model's logits are W_U norm(x). With an RMS norm, norm(x) = w x / rms(x); what a row d of the
decoder adds to x changes the logits in proportion to W_U (w d). With a layer norm the mean of d
over the width is taken off first, and the norm's bias, which is the same for every latent, is left
out. The division by rms(x) (or the standard deviation) is left out too: it depends on the token.
So a logit here is what a code of 1 adds, times the rms of the last residual stream. Later layers
are skipped, and a row that is written elsewhere than to the residual stream (an input of attention
or of the MLP) is read as if it were written there.

N latents, D width, V vocabulary, P tokens named, T latents in a tile.

References:
  nostalgebraist, "interpreting GPT: the logit lens", 2020.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32

from saejax.lm.load import Unembedding
from saejax.progress import Progress
from saejax.sae.sparse import top_k

# Latents whose logits are held at once: 50 MB for SmolLM2's 49,152 words.
_TILE = 256


class LogitLens(NamedTuple):
    """The P largest and smallest logits of each latent, and whose they are; ties: lower ids first.

    Attributes:
      promoted: [N, P] token ids, by descending logit.
      promoted_logit: [N, P].
      suppressed: [N, P] token ids, by ascending logit.
      suppressed_logit: [N, P].
    """

    promoted: Int32[np.ndarray, "N P"]
    promoted_logit: Float32[np.ndarray, "N P"]
    suppressed: Int32[np.ndarray, "N P"]
    suppressed_logit: Float32[np.ndarray, "N P"]


def logit_lens(
    w_dec_ND: Float[np.ndarray | Array, "N D"],
    unembedding: Unembedding,
    count: int,
    progress: Progress,
) -> LogitLens:
    """Reads the rows of a decoder as they are, not normalised.

    Cost: N D V multiplications. Memory: the unembedding [V, D] in float32 on the device, and the
    logits of 256 latents with as much again to choose from them.

    Args:
      w_dec_ND: The decoder.
      unembedding: Of the model, cut to the vocabulary that may be named.
      count: P, at most V.
      progress: Advances by N latents.
    """
    rows_ND = np.asarray(w_dec_ND, np.float32)
    if unembedding.centred:
        rows_ND = rows_ND - rows_ND.mean(axis=1, keepdims=True)
    rows_ND = rows_ND * unembedding.norm_weight[None]
    table_VD = jnp.asarray(unembedding.table)
    tile = min(_TILE, len(rows_ND))
    found = []
    for start in range(0, len(rows_ND), tile):
        part_TD = rows_ND[start : start + tile]
        full_TD = np.resize(part_TD, (tile, part_TD.shape[1]))  # One compiled shape.
        found.append([np.asarray(x)[: len(part_TD)] for x in _ends(full_TD, table_VD, count)])
        progress.advance(len(part_TD))
    return LogitLens(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


@partial(jax.jit, static_argnums=2)
def _ends(rows_TD: Array, table_VD: Array, count: int) -> tuple[Array, ...]:
    # Accelerators otherwise round the factors of float32 products to 8 or 11 bits.
    logits_TV = jnp.matmul(rows_TD, table_VD.T, precision=jax.lax.Precision.HIGHEST)
    high_TP, promoted_TP = top_k(logits_TV, count)
    low_TP, suppressed_TP = top_k(-logits_TV, count)
    return promoted_TP, high_TP, suppressed_TP, -low_TP
