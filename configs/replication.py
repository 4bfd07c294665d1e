"""The paper's ablations at the size of a workstation: one factor at a time around a base run.

Paper: section 4 and appendix A, figures 2, 4, 5, A1 to A4 (there: Pythia-160M, GPT-2, SmolLM and
Llama, 8 billion tokens; the share falls with more latents, larger k and less training, ReLU and
Gated are more stable than TopK).

    python experiments/sweep.py --config=configs/replication.py --workdir=runs/replication

Base: SmolLM2-135M, `layers.6.mlp`, TopK, 4,096 latents, k=32, a million tokens of the packaged
text, nine seeds; every other run changes one thing and has three seeds. Single tokens are
shuffled: a batch of the paper holds 65,568 tokens of 32 windows, one here 1,020 tokens, which
would be of 4.

Hardware: 2 CPU cores, 3 GB of memory, 10 GB of disk (activations at eight hook points).
Time: about four hours on two quiet cores: 20 minutes for the activations, 3 to 9 for most runs, 12
for three epochs. A finished run is not trained again when the command is repeated, nor is one in
--known=results/replication.json.
Expect: results/replication.json. The paper's directions hold: fewer shared with more latents and
with larger k, more with longer training and in ReLU and Gated; README.md has the numbers. Of these
runs 16,384 latents, 0.1 and 0.3 million tokens and ten epochs are not run yet.
"""

from typing import Any

from saejax.config import (
    SAMPLE_LM,
    SAMPLE_TEXT,
    Config,
    DataConfig,
    LmConfig,
    SaeConfig,
    TrainConfig,
)

# L1 weights that give about k=32 active latents here: tried with one seed each, 3.3 gave 47 of ReLU
# and 6 some 33 of Gated. (The paper's weight on GPT-2 is 3, without its L0.)
_RELU_L1, _GATED_L1 = 4.0, 6.0


def get_config() -> Config:
    """The base run."""
    return Config(
        init_seeds=(1, 2, 3),
        hookpoint="layers.6.mlp",
        lm=LmConfig(source=SAMPLE_LM),
        data=DataConfig(
            source=SAMPLE_TEXT,
            text_field="extract",
            context_length=256,
            skip_tokens=1,
            num_tokens=1_000_000,
            order="shuffled_tokens",
            activations="store",
        ),
        sae=SaeConfig(num_latents=4096, k=32),
        train=TrainConfig(
            batch_tokens=1024,
            # As configs/quickstart.py.
            lr_scale=4.0,
            # The shortest run has 97 steps.
            warmup_steps=50,
            # A million tokens: longer than any run but the longest.
            dead_after_tokens=200_000,
            checkpoint_every_steps=500,
        ),
    )


def get_sweep() -> dict[str, dict[str, Any]]:
    """Fields that each run changes."""
    free = {"sae.unit_decoder": False, "train.input_scaling": "sqrt_width"}
    return {
        "base": {"init_seeds": (1, 2, 3, 4, 5, 6, 7, 8, 9)},
        **{f"latents={n}": {"sae.num_latents": n} for n in (256, 1024)},
        **{f"k={k}": {"sae.k": k} for k in (8, 16, 64, 128)},
        "relu": {"sae.arch": "relu", "sae.sparsity_coefficient": _RELU_L1, **free},
        "gated": {
            "sae.arch": "gated",
            "sae.sparsity_coefficient": _GATED_L1,
            # As in SAELens, with which the paper's were trained.
            "sae.gated_auxiliary": "attached",
            **free,
        },
        "tokens=0.1M": {"data.num_tokens": 100_000},
        "tokens=0.3M": {"data.num_tokens": 300_000},
        "epochs=3": {"data.epochs": 3},
        **{
            f"hookpoint=layers.{layer}{part}": {"hookpoint": f"layers.{layer}{part}"}
            for part in (".mlp", "")
            for layer in (2, 6, 14, 25)
            if (layer, part) != (6, ".mlp")
        },
        "latents=16384": {"sae.num_latents": 16_384},
        "epochs=10": {"data.epochs": 10},
    }
