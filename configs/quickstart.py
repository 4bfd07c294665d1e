"""The paper's central measurement at the size of a laptop: three seeds on SmolLM2-135M.

Paper: sections 2 and 3, figure 1 (there: Pythia-160M, `layers.6.mlp`, 32,768 latents, k=32,
8 billion tokens of the Pile, nine seeds; 42 % shared).

    make quickstart

or, in an environment of your own with the packaged model and text installed,

    python experiments/seed_overlap.py --config=configs/quickstart.py --workdir=runs/quickstart

Hardware: 2 CPU cores, 1.4 GB of memory, 0.6 GB of disk. Time: 9 to 10 minutes (capture at 2,490
tokens/s, training of all three seeds at 10,100 tokens/s each).
Expect (one run, with these seeds): shared at 0.7 between 0.46 and 0.51 for each pair, agreement
0.86 to 0.90, mean matched decoder cosine 0.70 to 0.72, FVU 0.43 to 0.44, no dead latents, all
matchings certified. The shared fraction depends on the text and its order: the first 400,000
tokens instead of these, spread evenly, gave 0.43; single tokens shuffled instead of windows, 0.54.
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
    """The configuration."""
    return Config(
        init_seeds=(1, 2, 3),
        hookpoint="layers.6.mlp",
        lm=LmConfig(source=SAMPLE_LM),
        data=DataConfig(
            source=SAMPLE_TEXT,
            # The records of the packaged text hold a title and an extract.
            text_field="extract",
            context_length=256,
            skip_tokens=1,
            num_tokens=400_000,
            epochs=10,
            activations="store",
        ),
        sae=SaeConfig(num_latents=1024, k=16),
        train=TrainConfig(
            batch_tokens=1024,
            # A short run on small batches: 4 million tokens instead of 8 billion.
            lr_scale=4.0,
            warmup_steps=200,
            # One pass over the text.
            dead_after_tokens=400_000,
            checkpoint_every_steps=500,
        ),
    )
