"""The training steps of other libraries, as their own trainers do them, without AuxK.

- sparsify: `SparseCoder` with the loop of `Trainer.fit` around it: unit rows before the forward
  pass, no gradient along them, counts of silent tokens. Its trainer offers torch's Adam and, by
  default, signum: signs of gradients under a schedule-free average. Adam(fused=True) is ours.
- SAELens: `SAETrainer.step` with a `TopKTrainingSAE`. Its decoder is free, so rows are divided by
  their norms here after each step; the gradient keeps its part along them. It clips.
- dictionary_learning: `TopKTrainer.update`, with unit rows and no gradient along them. It clips.

Each function imports its library and returns a `Start`.

Dimension letters: S seeds, n batches, B tokens in a batch, D activation width, N latents.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float32

from saejax.config import Config
from saejax.train.optim import learning_rate

# What pip installs for each peer, in the versions measured.
PACKAGES = {
    "sparsify": "eai-sparsify==1.3.3",
    "saelens": "sae-lens==6.54.12",
    "dictionary_learning": "dictionary-learning==0.1.0",
}
# Of the learning rate's decay, which the few steps here are not to feel.
RUN_STEPS = 1_000_000

# Trains on the batch of this number; gives the FVU of the first seed before the update.
Step = Callable[[int], float]
# From the recipe, the batches and the encoder's initial rows. The decoder starts with the same
# rows at norm 1, its bias with the mean of the first batch.
Start = Callable[
    [Config, Float32[np.ndarray, "n B D"], Float32[np.ndarray, "S N D"]],
    Step,
]


def sparsify(optimizer: Literal["adam", "fused adam", "signum"]) -> Start:
    """eai-sparsify with one of three optimizers."""
    import torch  # pyright: ignore[reportMissingImports]
    from schedulefree import (  # pyright: ignore[reportMissingImports]
        ScheduleFreeWrapper,
    )
    from sparsify import (  # pyright: ignore[reportMissingImports]
        SparseCoder,
        SparseCoderConfig,
    )
    from sparsify.sign_sgd import SignSGD  # pyright: ignore[reportMissingImports]

    # As its trainer does.
    torch.set_float32_matmul_precision("high")

    def start(cfg: Config, x_nBD: np.ndarray, rows_SND: np.ndarray) -> Step:
        batches = torch.from_numpy(x_nBD)
        N, D = rows_SND.shape[1:]
        coder = SparseCoder(D, SparseCoderConfig(num_latents=N, k=cfg.sae.k))
        with torch.no_grad():
            coder.encoder.weight.copy_(torch.from_numpy(rows_SND[0]))
            coder.W_dec.copy_(torch.from_numpy(rows_SND[0]))
            coder.b_dec.copy_(batches[0].mean(0))
        silent = torch.zeros(N, dtype=torch.long)
        fired = torch.zeros(N, dtype=torch.bool)
        if optimizer == "signum":
            # The learning rate and momentum of its trainer.
            signs = SignSGD(coder.parameters(), lr=5e-3 / (N / 2**14) ** 0.5)
            update = ScheduleFreeWrapper(signs, momentum=0.95)
            update.train()
        else:
            fused = True if optimizer == "fused adam" else None
            update = torch.optim.Adam(coder.parameters(), lr=learning_rate(cfg), fused=fused)

        def step(batch: int) -> float:
            x_BD = batches[batch]
            coder.set_decoder_norm_to_unit_norm()
            total_variance = (x_BD - x_BD.mean(0)).pow(2).sum()
            out = coder(x=x_BD, y=x_BD, total_variance=total_variance)
            fired[out.latent_indices.flatten()] = True
            fvu = float(out.fvu.detach())
            out.fvu.backward()
            coder.remove_gradient_parallel_to_decoder_directions()
            update.step()
            update.zero_grad()
            silent.add_(len(x_BD))
            silent[fired] = 0
            fired.zero_()
            return fvu

        return step

    return start


def saelens() -> Start:
    """sae-lens."""
    import torch  # pyright: ignore[reportMissingImports]
    from sae_lens import (  # pyright: ignore[reportMissingImports]
        TopKTrainingSAE,
        TopKTrainingSAEConfig,
    )
    from sae_lens.config import SAETrainerConfig  # pyright: ignore[reportMissingImports]
    from sae_lens.training.sae_trainer import (  # pyright: ignore[reportMissingImports]
        SAETrainer,
    )

    def start(cfg: Config, x_nBD: np.ndarray, rows_SND: np.ndarray) -> Step:
        batches = torch.from_numpy(x_nBD)
        N, D = rows_SND.shape[1:]
        sae_config = TopKTrainingSAEConfig(
            d_in=D,
            d_sae=N,
            k=cfg.sae.k,
            decoder_init_norm=1.0,
            rescale_acts_by_decoder_norm=False,
        )
        sae = TopKTrainingSAE(sae_config)
        with torch.no_grad():
            rows = torch.from_numpy(rows_SND[0])
            sae.W_enc.copy_(rows.T)
            sae.W_dec.copy_(rows)
            sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)
            sae.b_dec.copy_(batches[0].mean(0))
        rate, B = learning_rate(cfg), x_nBD.shape[1]
        config = SAETrainerConfig(
            total_training_samples=RUN_STEPS * B, train_batch_size_samples=B, lr=rate, lr_end=rate
        )
        trainer = SAETrainer(config, sae, data_provider=iter(()))
        variances = _mean_variances(x_nBD)

        def step(batch: int) -> float:
            mean_loss = trainer.step(batches[batch]).losses["mse_loss"]
            with torch.no_grad():
                sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)
            return float(mean_loss) / variances[batch]

        return step

    return start


def dictionary_learning() -> Start:
    """dictionary-learning."""
    import torch  # pyright: ignore[reportMissingImports]
    from dictionary_learning.trainers.top_k import (  # pyright: ignore[reportMissingImports]
        TopKTrainer,
    )

    def start(cfg: Config, x_nBD: np.ndarray, rows_SND: np.ndarray) -> Step:
        batches = torch.from_numpy(x_nBD)
        N, D = rows_SND.shape[1:]
        trainer = TopKTrainer(
            steps=RUN_STEPS,
            activation_dim=D,
            dict_size=N,
            k=cfg.sae.k,
            layer=0,
            lm_name="",
            lr=learning_rate(cfg),
            auxk_alpha=0.0,
            warmup_steps=0,
            device="cpu",
        )
        with torch.no_grad():
            rows = torch.from_numpy(rows_SND[0])
            trainer.ae.encoder.weight.copy_(rows)
            trainer.ae.decoder.weight.copy_((rows / rows.norm(dim=1, keepdim=True)).T)
            trainer.ae.b_dec.copy_(batches[0].mean(0))
        variances = _mean_variances(x_nBD)

        # Step 0 would set the decoder bias to another one.
        return lambda batch: trainer.update(1, batches[batch]) / variances[batch]

    return start


def _mean_variances(x_nBD: np.ndarray) -> list[float]:
    """Mean over the tokens of each batch of ||x - mean(x)||^2: the FVU's denominator."""
    return [float(np.square(x_BD - x_BD.mean(axis=0)).sum() / len(x_BD)) for x_BD in x_nBD]
