"""Two SAEs: which latents do they share, and is that proven? Prints it and draws it.

    python examples/compare_two_saes.py FIRST SECOND FIGURE

as in

    python examples/compare_two_saes.py runs/quickstart/saes/layers.6.mlp/seed1 \
        runs/quickstart/saes/layers.6.mlp/seed2 cosines.svg
"""

import sys

import saejax
from saejax.report.figures import cosine_scatter

if len(sys.argv) != 4:
    sys.exit(__doc__)
first, second, figure = sys.argv[1:]
a, b = saejax.load_sae(first), saejax.load_sae(second)

comparison = saejax.compare(a, b)
print(f"shared at a cosine of 0.7: {comparison.shared_frac(0.7):.1%}")
print(f"same partner in both matchings: {comparison.agreement_frac:.1%}")
print(f"mean cosine of matched decoder rows: {comparison.mean_cosine['decoder_matched']:.3f}")

matching = comparison.decoder
proof = matching.certificate
assert proof is not None  # Only row maxima have none.
print(f"sum of cosines {proof.primal:.6f}, at most {proof.gap:.1g} below the best")
print(f"largest violation, checked independently: {saejax.verify(a, b, matching):.1g}")
print("latents 0 to 4 and their partners:", *enumerate(matching.target[:5].tolist()))

cosine_scatter(
    comparison.decoder.cosine,
    comparison.encoder.cosine,
    comparison.agree,
    threshold=0.7,
    title="Cosine of every latent with its partner",
).savefig(figure)
