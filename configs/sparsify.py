r"""The defaults of EleutherAI's sparsify 1.3.3 (2026): signum, 32 latents for each dimension.

The trainer of the paper's authors (section 2) as it is today; `configs/paper.py` is as it was then.
Of its defaults the model (the base one, from a hub) and the text (10 billion tokens) differ here:

    python experiments/seed_overlap.py --config=configs/sparsify.py --workdir=runs/sparsify \
        --config.data.source=path/to/text --config.data.text_field=text

takes text of your own, a directory of .jsonl files with the field "text"; without these flags the
run makes one pass over the packaged text, 16 steps, which shows that all works and no more.

Hardware, estimated: a GPU with 24 GB (0.34 GB for two autoencoders and their optimizer, 4.8 GB for
attention over 32 windows, and temporaries), or 2 CPU cores and 16 GB for the packaged text.
Time: about 45 minutes for the packaged text on 2 cores with `--config.lm.dtype=float32` (bfloat16
is ten times slower there), estimated from the quickstart's rates and not run: language model at
2,500 tokens/s, each seed at 1,000.
Expect: no shares are published. One seed of the size of the quickstart (1,024 latents, k=16, two
passes over 398,310 tokens in steps of 1,020; one run each, FVU on every eighth of the training
tokens): signum at lr_scale 1 0.56 with 18 % of latents silent, at 0.25 0.51 and at 0.1 0.52 with
none; muon at 1, the only rate tried, 0.50; adam at the quickstart's 4, the only one tried, 0.47.
"""

from saejax.config import (
    SAMPLE_LM,
    SAMPLE_TEXT,
    Config,
    DataConfig,
    LmConfig,
    SaeConfig,
    TrainConfig,
)


def get_config() -> Config:
    """The configuration. Sources are files of sparsify 1.3.3."""
    return Config(
        # config.py: seed 0 alone; a second one makes a pair to match.
        init_seeds=(0, 1),
        # __main__.py: windows are shuffled once, with seed 42.
        data_seed=42,
        # sparsify's default is the residual stream after every layer; this is the paper's.
        hookpoint="layers.6.mlp",
        # __main__.py: bfloat16 where the GPU knows it.
        lm=LmConfig(source=SAMPLE_LM, dtype="bfloat16"),
        data=DataConfig(
            source=SAMPLE_TEXT,
            # The records of the packaged text hold a title and an extract.
            text_field="extract",
            # __main__.py.
            context_length=2048,
            # config.py: exclude_tokens is empty.
            skip_tokens=0,
            epochs=1,
            order="shuffled",
            activations="stream",
        ),
        # config.py: TopK, k = 32, expansion 32, so 32 * 576; unit-norm decoder, no other losses.
        sae=SaeConfig(
            arch="topk",
            num_latents=18_432,
            k=32,
            unit_decoder=True,
            auxk_alpha=0.0,
            multi_topk=False,
        ),
        train=TrainConfig(
            # config.py: 32 windows.
            batch_tokens=65_536,
            # config.py, trainer.py: 5e-3 / sqrt(18,432 / 2^14) = 4.7e-3, without a schedule.
            optimizer="signum",
            lr_scale=1.0,
            warmup_steps=0,
            # trainer.py: none since April 2025.
            grad_clip=0.0,
            # trainer.py: the mean of the first batch.
            decoder_bias_init="mean",
            input_scaling="none",
            # config.py.
            dead_after_tokens=10_000_000,
            checkpoint_every_steps=1000,
        ),
    )
