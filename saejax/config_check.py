"""Whether a configuration is a run that can be carried out."""

import dataclasses
import itertools
import math
from typing import Any

from saejax.config import HOOKPOINT_WILDCARDS, MATCH_METHODS, Config
from saejax.errors import InputError

_CHOICES = {
    "lm.dtype": ("float32", "bfloat16"),
    "data.documents": ("packed", "separate"),
    "data.bos": ("none", "document", "window"),
    "data.order": ("shuffled", "in_order", "shuffled_tokens"),
    "data.activations": ("stream", "store"),
    "data.store_dtype": ("float16", "bfloat16", "float32"),
    "sae.arch": ("topk", "batch_topk", "relu", "gated", "jump_relu"),
    "sae.product_dtype": ("float32", "bfloat16"),
    "sae.gated_auxiliary": ("frozen", "attached"),
    "train.optimizer": ("adam", "signum", "muon"),
    "train.input_scaling": ("none", "sqrt_width", "per_token"),
    "train.decoder_bias_init": ("geometric_median", "mean", "zero"),
}
_AT_LEAST = {
    "lm.batch_windows": 1,
    "data.context_length": 2,
    "data.skip_tokens": 0,
    "data.num_tokens": 0,
    "data.epochs": 1,
    "data.shuffle_buffer_batches": 0,
    "data_seed": 0,
    "sae.num_latents": 1,
    "sae.k": 1,
    "sae.auxk_alpha": 0,
    "sae.sparsity_coefficient": 0,
    "sae.sparsity_warmup_steps": 0,
    "train.chunk_tokens": 0,
    "train.batch_tokens": 1,
    "train.warmup_steps": 0,
    "train.dead_after_tokens": 1,
    "train.log_every_steps": 1,
    "train.checkpoint_every_steps": 1,
    "train.checkpoints_kept": 1,
    "train.checkpoint_keep_every_steps": 0,
}
_POSITIVE = ("sae.bandwidth", "train.lr_scale", "train.adam_eps")
# Numbers that switch something off at 0.
_ZERO_FOR = {"train.checkpoint_every_minutes": "never", "train.grad_clip": "no limit"}
# What signum has no use for.
_NOT_OF_SIGNUM = tuple(
    f"train.{name}" for name in ("warmup_steps", "grad_clip", "adam_b1", "adam_b2", "adam_eps")
)
# Architectures that keep a number of latents.
_SELECTING = ("topk", "batch_topk")


def field_value(cfg: Config, path: str) -> Any:
    """The value at a dotted path, as in `sae.k`."""
    value: Any = cfg
    for name in path.split("."):
        value = getattr(value, name)
    return value


def check(cfg: Config) -> None:
    """Raises `InputError`, naming the value and the fix, unless the run can be carried out.

    Checks what the configuration alone can tell; what depends on the model, the corpus or
    the devices is checked where those are known.
    """

    def fail(path: str, why: str) -> None:
        raise InputError(f"{path}={field_value(cfg, path)!r}: {why}")

    for path, choices in _CHOICES.items():
        if field_value(cfg, path) not in choices:
            fail(path, f"choose one of {', '.join(choices)}")
    for path, least in _AT_LEAST.items():
        if field_value(cfg, path) < least:
            fail(path, f"must be at least {least}")
    for path in _POSITIVE:
        if not (math.isfinite(field_value(cfg, path)) and field_value(cfg, path) > 0):
            fail(path, "must be a finite number above 0")
    for path, meaning in _ZERO_FOR.items():
        if not 0 <= field_value(cfg, path) < math.inf:
            fail(path, f"must be a finite number, 0 for {meaning} or above")
    for path in ("train.adam_b1", "train.adam_b2"):
        if not 0 <= field_value(cfg, path) < 1:
            fail(path, "must be in [0, 1)")
    for path in _NOT_OF_SIGNUM if cfg.train.optimizer == "signum" else ():
        default, adam = field_value(Config(), path), "adam" in path
        # 0 says what signum does: no warm-up, no limit.
        if field_value(cfg, path) not in ((default,) if adam else (default, 0)):
            instead = f"leave it at {default}" if adam else "set 0"
            fail(path, f"train.optimizer=signum does not use it; {instead}")
    if not cfg.init_seeds:
        fail("init_seeds", "name at least one seed, as in --config.init_seeds=1,2,3")
    if len(set(cfg.init_seeds)) < len(cfg.init_seeds):
        fail("init_seeds", "the same seed twice gives the same autoencoder twice; drop one")
    if any(not 0 <= seed < 2**32 for seed in cfg.init_seeds):
        fail("init_seeds", "seeds must be in [0, 2^32)")
    if cfg.sae.k > cfg.sae.num_latents:
        fail("sae.k", f"must not exceed sae.num_latents={cfg.sae.num_latents}; lower k")
    if cfg.sae.prefixes:
        increasing = (0, *cfg.sae.prefixes, cfg.sae.num_latents)
        if any(a >= b for a, b in itertools.pairwise(increasing)):
            fail("sae.prefixes", f"must rise, from 1 to below num_latents={cfg.sae.num_latents}")
        if cfg.sae.arch not in _SELECTING:
            fail("sae.prefixes", f"only {' and '.join(_SELECTING)} have them")
    for path in ("sae.auxk_alpha", "sae.multi_topk"):
        if field_value(cfg, path) and cfg.sae.arch not in _SELECTING:
            fail(path, f"only {' and '.join(_SELECTING)} have it")
    if cfg.sae.product_dtype != "float32" and cfg.sae.arch not in _SELECTING:
        fail("sae.product_dtype", f"only {' and '.join(_SELECTING)} choose by a product")
    frozen = cfg.sae.arch == "gated" and cfg.sae.gated_auxiliary == "frozen"
    if frozen and not cfg.sae.unit_decoder:
        fail(
            "sae.gated_auxiliary",
            "with a free decoder (sae.unit_decoder=False) the penalty shrinks frozen rows with "
            "nothing against it, and the number of active latents grows; set it to attached",
        )
    if cfg.sae.skip_connection and not cfg.target_hookpoint:
        fail("sae.skip_connection", "only transcoders have it: set target_hookpoint")
    for path in ("hookpoint", "target_hookpoint"):
        if HOOKPOINT_WILDCARDS.intersection(value := field_value(cfg, path)):
            fail(path, f"a run has one; for more: experiments/sweep.py --vary={path}={value}")
    if cfg.target_hookpoint and cfg.target_hookpoint == cfg.hookpoint:
        fail("target_hookpoint", "is hookpoint itself: leave it empty for an autoencoder")
    if cfg.target_hookpoint and cfg.sae.unit_decoder:
        fail("sae.unit_decoder", "a transcoder's decoder starts at 0 and is free: set it to False")
    if cfg.target_hookpoint and cfg.train.input_scaling == "per_token":
        fail("train.input_scaling", "a transcoder has two norms; choose none or sqrt_width")
    if cfg.data.skip_tokens >= cfg.data.context_length:
        fail("data.skip_tokens", f"must be below data.context_length={cfg.data.context_length}")
    if cfg.train.batch_tokens % cfg.data.context_length:
        length = cfg.data.context_length
        fail("train.batch_tokens", f"must be a multiple of data.context_length={length}")
    if cfg.data.order == "shuffled_tokens" and cfg.data.activations != "store":
        fail("data.order", "single tokens can be shuffled only with data.activations=store")
    if cfg.data.shuffle_buffer_batches and cfg.data.activations != "stream":
        fail(
            "data.shuffle_buffer_batches",
            "only data.activations=stream needs it; a store has data.order=shuffled_tokens",
        )
    multiple = cfg.data.max_norm_multiple
    if multiple != 0 and not 1 <= multiple < math.inf:
        fail("data.max_norm_multiple", "must be 0 for off, or a finite number from 1 on, as 10")
    for method in cfg.match.methods:
        if method not in MATCH_METHODS:
            fail("match.methods", f"choose from {', '.join(MATCH_METHODS)}")
    if not -1 <= cfg.match.threshold <= 1:
        fail("match.threshold", "a cosine is in [-1, 1]; the paper uses 0.7")
    if not cfg.match.epsilon > 0:
        fail("match.epsilon", "must be above 0, as 0.01; 'exact' is the limit of 0")
    if not 0 < cfg.match.tolerance < 2:
        fail("match.tolerance", "the error is between 0 and 2; take 0.001, say")
    sizes = dataclasses.astuple(cfg.mesh)
    if any(size == 0 or size < -1 for size in sizes) or sizes.count(-1) > 1:
        raise InputError(f"mesh={sizes}: each axis needs a device, and at most one axis may be -1")
