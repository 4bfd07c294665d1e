"""Published numbers that figures show beside a run's own.

Paulo & Belrose, "Sparse Autoencoders Trained on the Same Data Learn Different Features"
(arXiv 2501.16615): nine TopK autoencoders of Pythia-160M, `layers.6.mlp`, 32,768 latents, k = 32,
8 billion tokens of the Pile. Shared there means both matched cosines above 0.7, whether or not the
two partners agree.
"""

CITATION = "Paulo & Belrose 2025"

# Figure A1: latents of a base in none of the others, by the number of autoencoders, base included.
# Read off the vector figure, to 0.0005.
ONLY_IN_BASE_FRAC = {
    2: 0.5831,
    3: 0.4843,
    4: 0.4359,
    5: 0.4061,
    6: 0.3854,
    7: 0.3700,
    8: 0.3579,
    9: 0.3481,
}

# Latents of seed 1 that are shared with 0, 1, ..., 8 of the other seeds; sums to 32,768. From the
# released masks.
SEED_1_LEVELS = (11512, 2451, 2104, 1932, 1908, 2036, 2314, 2864, 5647)
