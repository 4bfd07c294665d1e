"""Trains two seeds on the packaged model and text from Python, and compares them.

    python examples/train_two_seeds.py FOLDER

Small, so that it takes one to two minutes on two cores: 20,000 tokens, read 20 times. A run that
is stopped goes on when the command is repeated.
"""

import sys
from pathlib import Path

from saejax import Config, compare
from saejax.config_check import check
from saejax.run import train_run
from saejax.rundir import open_run

if len(sys.argv) != 2:
    sys.exit(__doc__)
cfg = Config(init_seeds=(1, 2), hookpoint="layers.6.mlp")
cfg.data.text_field = "extract"
cfg.data.context_length, cfg.data.num_tokens = 256, 20_000
cfg.data.activations, cfg.data.epochs = "store", 20
cfg.sae.num_latents, cfg.sae.k = 256, 16
cfg.train.batch_tokens, cfg.train.warmup_steps, cfg.train.lr_scale = 1024, 50, 4.0
check(cfg)

saes = train_run(cfg, open_run(cfg, Path(sys.argv[1])))
print(f"shared at a cosine of 0.7: {compare(saes[1], saes[2]).shared_frac(0.7):.1%}")
