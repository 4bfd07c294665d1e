r"""The paper's main run: nine seeds of a TopK autoencoder on Pythia-160M, 8 billion tokens.

Paulo & Belrose, Sparse Autoencoders Trained on the Same Data Learn Different Features (2025,
arXiv 2501.16615), sections 2 and 3, figure 1. What the paper does not say is from the
trainer of its authors, EleutherAI's sparsify, as of December 2024.

    python experiments/seed_overlap.py --config=configs/paper.py --workdir=runs/paper \
        --config.lm.source=path/to/pythia-160m --config.data.source=path/to/pile

with a Hugging Face directory of the model, and a directory of the Pile's .jsonl files.

Hardware, estimated: a GPU with 40 GB (5.4 GB for nine autoencoders and their optimizer, 6.4 GB for
attention over 32 windows, and temporaries), 70 GB of main memory for the tokens, 13 GB of disk.
Time: 34 to 61 hours on one H200, a forecast of `experiments/plan.py --devices=1
--device_type=h200`, not run: 122,010 steps of 1.0 to 1.8 s.
Expect (the authors' nine seeds): aligned at 0.7 between 0.41 and 0.43 for each pair, and shared
within half a point of that; agreement 0.79 to 0.81; mean matched cosine 0.68 of decoders and 0.59
of encoders; 35 % of the latents of seed 1 in no other seed. With a tenth of the tokens 0.07 are
aligned, with ten times as many 0.61.
"""

from saejax.config import Config, DataConfig, LmConfig, MatchConfig, SaeConfig, TrainConfig


def get_config() -> Config:
    """The configuration."""
    return Config(
        # Section 3: nine seeds. Their numbers are ours: initial weights are not torch's.
        init_seeds=(1, 2, 3, 4, 5, 6, 7, 8, 9),
        # Section 2, "the sixth MLP": index 6 counted from 0, as in the published autoencoders.
        hookpoint="layers.6.mlp",
        # sparsify 1.3.3 loads the model in bfloat16 where the GPU knows it.
        lm=LmConfig(source="EleutherAI/pythia-160m", dtype="bfloat16"),
        data=DataConfig(
            source="EleutherAI/pile",
            text_field="text",
            # Pythia's own windows: 2,048 tokens and the one after.
            context_length=2049,
            # No token is left out.
            skip_tokens=0,
            # Section 2.
            num_tokens=8_000_000_000,
            epochs=1,
            # sparsify reads memory-mapped tokens as they come.
            order="in_order",
            activations="stream",
        ),
        # Section 2: 32,768 latents, k = 32. sparsify: unit-norm decoder, no auxiliary losses.
        sae=SaeConfig(
            arch="topk",
            num_latents=32_768,
            k=32,
            unit_decoder=True,
            auxk_alpha=0.0,
            multi_topk=False,
        ),
        # All of sparsify, December 2024.
        train=TrainConfig(
            # 32 windows.
            batch_tokens=65_568,
            optimizer="adam",
            # 2e-4 / sqrt(32,768 / 2^14) = 1.414e-4 at the peak.
            lr_scale=1.0,
            warmup_steps=1000,
            # Of each autoencoder on its own.
            grad_clip=1.0,
            # torch's defaults. Where bitsandbytes was installed its 8-bit Adam ran instead.
            adam_b1=0.9,
            adam_b2=0.999,
            adam_eps=1e-8,
            # Until 2024-12-18; the mean of the first batch after it.
            decoder_bias_init="geometric_median",
            input_scaling="none",
            dead_after_tokens=10_000_000,
            checkpoint_every_steps=1000,
        ),
        # Section 3: the Hungarian method, cosines above 0.7.
        match=MatchConfig(methods=("exact",), threshold=0.7),
    )
