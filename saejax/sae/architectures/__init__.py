"""The architectures that can be trained, by their name in the configuration."""

from saejax.sae.architectures.gated import GATED
from saejax.sae.architectures.jump_relu import JUMP_RELU
from saejax.sae.architectures.relu import RELU
from saejax.sae.architectures.topk import BATCH_TOPK, TOPK

ARCHITECTURES = {
    "topk": TOPK,
    "batch_topk": BATCH_TOPK,
    "relu": RELU,
    "gated": GATED,
    "jump_relu": JUMP_RELU,
}
