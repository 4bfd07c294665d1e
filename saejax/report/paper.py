"""Published numbers that figures show beside a run's own.

Paulo & Belrose, "Sparse Autoencoders Trained on the Same Data Learn Different Features"
(arXiv 2501.16615): nine TopK autoencoders of Pythia-160M, `layers.6.mlp`, 32,768 latents, k = 32,
8 billion tokens of the Pile. Shared there means both matched cosines above 0.7, whether or not the
two partners agree: `aligned_frac` here. `agreement_frac` is of the released matchings. Numbers by
factor are of one pair of seeds each, read off the vector figures of section 4 and appendix A to
0.0005, and change one thing of that run but for what they say.
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

LATENTS = {
    32: {"aligned_frac": 0.8125, "agreement_frac": 1.0, "max_cosine_frac": 0.8125},
    768: {"aligned_frac": 0.7852, "agreement_frac": 0.9492, "max_cosine_frac": 0.7865},
    4084: {"aligned_frac": 0.6956, "agreement_frac": 0.9163, "max_cosine_frac": 0.6983},
    27648: {"aligned_frac": 0.4346, "agreement_frac": 0.8049, "max_cosine_frac": 0.4390},
    32768: {"aligned_frac": 0.4159, "agreement_frac": 0.7929, "max_cosine_frac": 0.4209},
    131072: {"aligned_frac": 0.2758, "agreement_frac": 0.7019, "max_cosine_frac": 0.2820},
}

K = {
    32: {"aligned_frac": 0.4159, "agreement_frac": 0.7929},
    64: {"aligned_frac": 0.3051, "agreement_frac": 0.7056},
    128: {"aligned_frac": 0.2337, "agreement_frac": 0.6172},
    256: {"aligned_frac": 0.1770, "agreement_frac": 0.6239},
}

TOKENS = {
    800_000_000: {"aligned_frac": 0.0726, "agreement_frac": 0.4587},
    8_000_000_000: {"aligned_frac": 0.4159, "agreement_frac": 0.7929},
    80_000_000_000: {"aligned_frac": 0.6121, "agreement_frac": 0.8748},
}

# aligned_frac of the MLPs of layers 0 to 11, by the number of latents.
LAYERS = {
    768: (
        *(0.0299, 0.5625, 0.6562, 0.7083, 0.8190, 0.7760),
        *(0.7852, 0.8190, 0.8307, 0.8763, 0.8464, 0.7604),
    ),
    4084: (
        *(0.0012, 0.5061, 0.4447, 0.5957, 0.7189, 0.7052),
        *(0.6956, 0.6699, 0.7265, 0.7556, 0.6927, 0.5340),
    ),
    32768: (
        *(0.0001, 0.1415, 0.1546, 0.2385, 0.4450, 0.4157),
        *(0.4158, 0.3847, 0.4223, 0.4613, 0.4077, 0.2491),
    ),
}

# 36 latents for each dimension of the model, by its decoder alone; residual stream and MLP of
# layers 15, 6, 16 and 6.
MODELS = {
    "SmolLM-135M": {
        "residual": {"decoder_frac": 0.5574, "agreement_frac": 0.8148},
        "mlp": {"decoder_frac": 0.7155, "agreement_frac": 0.8704},
    },
    "GPT-2": {
        "residual": {"decoder_frac": 0.6217, "agreement_frac": 0.8245},
        "mlp": {"decoder_frac": 0.7422, "agreement_frac": 0.8809},
    },
    "Llama-3-8B": {"mlp": {"decoder_frac": 0.3378, "agreement_frac": 0.6241}},
    "Pythia-160M": {
        "residual": {"decoder_frac": 0.6315, "agreement_frac": 0.8593},
        "mlp": {"decoder_frac": 0.5480, "agreement_frac": 0.8049},
    },
}

# GPT-2, `h.6.mlp`, 27,648 latents.
ARCHITECTURES = {
    "topk": {"decoder_frac": 0.7422, "agreement_frac": 0.8809},
    "relu": {"decoder_frac": 0.8241, "agreement_frac": 0.8993},
    "gated": {"decoder_frac": 0.8562, "agreement_frac": 0.9262},
}

# Figure A2: fractions at each of these thresholds on the cosine.
THRESHOLDS = (0.551, 0.592, 0.653, 0.694, 0.714, 0.755, 0.796, 0.837)
SHARED_FRAC = (0.5614, 0.5261, 0.4644, 0.4211, 0.3990, 0.3476, 0.2918, 0.2278)
ALIGNED_FRAC = (0.5697, 0.5309, 0.4666, 0.4221, 0.3996, 0.3477, 0.2918, 0.2278)
MAX_COSINE_FRAC = (0.5978, 0.5505, 0.4773, 0.4276, 0.4033, 0.3493, 0.2923, 0.2279)
