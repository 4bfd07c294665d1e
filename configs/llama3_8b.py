r"""The paper's largest model: nine seeds of a TopK autoencoder on Llama-3-8B, 147,456 latents.

Paulo & Belrose, Sparse Autoencoders Trained on the Same Data Learn Different Features (2025,
arXiv 2501.16615): models compared, 36 latents for each of 4,096 dimensions, the MLP of layer 16.
The paper does not tell tokens and text of this model; they are set as for its other runs.

    python experiments/seed_overlap.py --config=configs/llama3_8b.py --workdir=runs/llama3_8b \
        --config.lm.source=path/to/Meta-Llama-3-8B --config.data.source=path/to/text

with a Hugging Face directory of the model, and a directory of .jsonl files.

Hardware, estimated by experiments/plan.py and not run: 256 TPU v5e with the mesh below, 10.7 GB of
16 each, or 64 H100. An autoencoder and its optimizer take 14.5 GB, nine 130 GB, divided by the
devices on 'latent' and 'seed'.
Time: 24 to 38 hours, estimated likewise, on these 256, bound by memory traffic.
Expect (the authors' seeds): decoder cosines above 0.7 for 0.34 of the latents, aligned and agreeing
at 0.694 0.26, agreement 0.62.
"""

from saejax.config import (
    Config,
    DataConfig,
    LmConfig,
    MatchConfig,
    MeshConfig,
    SaeConfig,
    TrainConfig,
)


def get_config() -> Config:
    """The configuration."""
    return Config(
        # As many as the paper's main run has; of this model the paper compares two.
        init_seeds=(1, 2, 3, 4, 5, 6, 7, 8, 9),
        # The paper's layer for this model, counted from 0.
        hookpoint="layers.16.mlp",
        # sparsify 1.3.3 loads models in bfloat16 where the GPU knows it; the files are in it.
        lm=LmConfig(source="meta-llama/Meta-Llama-3-8B", dtype="bfloat16"),
        data=DataConfig(
            # sparsify's default text in December 2024.
            source="togethercomputer/RedPajama-Data-1T-Sample",
            text_field="text",
            # sparsify's default length.
            context_length=2048,
            # No token is left out.
            skip_tokens=0,
            # As the paper's runs on Pythia.
            num_tokens=8_000_000_000,
            epochs=1,
            order="in_order",
            activations="stream",
        ),
        # 36 x 4,096 latents, k = 32; unit-norm decoder, no auxiliary losses, as on Pythia.
        sae=SaeConfig(
            arch="topk",
            num_latents=147_456,
            k=32,
            unit_decoder=True,
            auxk_alpha=0.0,
            multi_topk=False,
        ),
        # All of sparsify, December 2024, as in configs/paper.py.
        train=TrainConfig(
            # 32 windows.
            batch_tokens=65_536,
            optimizer="adam",
            # 2e-4 / sqrt(147,456 / 2^14) = 6.67e-5 at the peak.
            lr_scale=1.0,
            warmup_steps=1000,
            grad_clip=1.0,
            adam_b1=0.9,
            adam_b2=0.999,
            adam_eps=1e-8,
            decoder_bias_init="geometric_median",
            input_scaling="none",
            dead_after_tokens=10_000_000,
            checkpoint_every_steps=1000,
        ),
        # Section 3: the Hungarian method, cosines above 0.7.
        match=MatchConfig(methods=("exact",), threshold=0.7),
        # 256 devices of 16 GB: 32 windows divide by 16, and 8 parts of the latents would not fit.
        mesh=MeshConfig(seed=1, data=16, latent=16),
    )
