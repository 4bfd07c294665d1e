"""Feature absorption and splitting on the first-letter task, of one autoencoder.

Letters: B words, T words of the test set, C first letters, D activation width, N latents, K most
latents in a sparse probe.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from saejax.analysis import logistic
from saejax.analysis.first_letter import LETTERS
from saejax.errors import InputError
from saejax.sae.sae import Sae, encode, normalization

# Penalties of SAEBench, whose loss counts both classes twice as much as `logistic` does: 1e-4 for
# probes on activations, with a loss that is the mean over 26 letters; 0.01 for choosing latents.
PROBE_L2, CHOICE_L1 = 26 * 1e-4 / 2, 0.01 / 2
# Most latents of a sparse probe (SAEBench).
MAX_LATENTS = 10
# Gain of F1 above which one more latent counts as a split (Chanin et al. 2024, SAEBench).
SPLIT_GAIN = 0.03
# F1 above which the probe on activations counts as ground truth (SAEBench).
MIN_PROBE_F1 = 0.6
# Cosine with the probe from which the one largest latent absorbs (Chanin et al. 2024, SAEBench),
# and from which one of several does (SAEBench).
FULL_COSINE, PART_COSINE = 0.025, 0.1
# Least part of the activation's projection on the probe that absorbing latents make up, and how
# many of them count in the fraction (SAEBench).
MIN_PART, MAX_ABSORBERS = 0.4, 3
# Words that are encoded at once.
_ENCODE_WORDS = 1024


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """Activations of words, with their letters.

    Attributes:
      train: [B, D] words that probes are trained on.
      test: [T, D] others.
      train_letters: [B] places in the alphabet.
      test_letters: [T].
    """

    train: Float[np.ndarray, "B D"]
    test: Float[np.ndarray, "T D"]
    train_letters: Int[np.ndarray, " B"]
    test_letters: Int[np.ndarray, " T"]

    @property
    def letters(self) -> Int[np.ndarray, " C"]:
        """The letters there are, rising."""
        return np.unique(self.train_letters)


@dataclasses.dataclass(frozen=True, eq=False)
class LetterProbes:
    """Probes on activations, the ground truth: one letter against the others.

    Attributes:
      directions: [C, D] unit vectors.
      positive: [C, T] whether a test word is said to begin with the letter.
      f1: [C] on the test words.
    """

    directions: Float[np.ndarray, "C D"]
    positive: Bool[np.ndarray, "C T"]
    f1: Float[np.ndarray, " C"]


@dataclasses.dataclass(frozen=True, eq=False)
class LetterResult:
    """What an autoencoder does with one letter.

    Attributes:
      letter: The letter.
      f1_by_k: [K] of sparse probes on the k latents that say most, on the test words.
      latents: The main latents: the first k, up to the last gain; more than one is a split.
      true_positives: [P] test words, by their places, of this letter that the probe finds.
      silent: [P] of those, where no main latent fires.
      absorbed: [P] where another latent stands in for them: full absorption.
      fraction: [P] absorption fraction, in [0, 1].
      absorbers: [P] latent with the largest projection on the probe.
    """

    letter: str
    f1_by_k: Float[np.ndarray, " K"]
    latents: tuple[int, ...]
    true_positives: Int[np.ndarray, " P"]
    silent: Bool[np.ndarray, " P"]
    absorbed: Bool[np.ndarray, " P"]
    fraction: Float[np.ndarray, " P"]
    absorbers: Int[np.ndarray, " P"]

    @property
    def absorption_rate(self) -> float:
        """Part of the probe's true positives that are absorbed in full."""
        return float(self.absorbed.mean())

    @property
    def absorption_fraction(self) -> float:
        """Mean absorption fraction over the probe's true positives."""
        return float(self.fraction.mean())


def train_probes(data: Data) -> LetterProbes:
    """Logistic probes on activations, a letter against the others, both classes counting alike."""
    scale = _unit(data)
    members_CB, members_CT = _members(data, data.train_letters), _members(data, data.test_letters)
    probe = logistic.fit_l2(jnp.asarray(data.train * scale), jnp.asarray(members_CB), PROBE_L2)
    score_CT = np.asarray(probe.scores(jnp.asarray(data.test * scale)))
    f1_C = np.array([logistic.f1(*pair) for pair in zip(score_CT > 0, members_CT, strict=True)])
    direction_CD = np.asarray(probe.weight)
    direction_CD = direction_CD / np.linalg.norm(direction_CD, axis=1, keepdims=True)
    return LetterProbes(direction_CD, score_CT > 0, f1_C)


def measure(sae: Sae, data: Data, probes: LetterProbes) -> list[LetterResult]:
    """Splitting and absorption of an autoencoder, for each letter of which a word is found.

    Latents are ranked by their weights in an L1-penalised probe on all of them, and probes on the
    first k = 1, 2, ... refitted. A letter is split over k latents while each adds more than 0.03
    to F1: these are its main latents. A word that the probe on activations finds is absorbed if
    all main latents are silent and, of the latents that fire, the one with the largest projection
    f_i <w_i, p> on the probe's direction p has a cosine of at least 0.025 with p and makes up at
    least 0.4 of the projection <x, p> of the activation. The absorption fraction is
    a / (a + m), where m is the projection of the main latents and a that of the three largest
    others with a cosine of at least 0.1, at most <x, p> - m; 0 unless these make up 0.4 of <x, p>.

    Args:
      sae: An autoencoder; B x N x 4 bytes are held for its codes.
      data: The words.
      probes: Of `train_probes`.

    Raises:
      InputError: For a transcoder, whose latents do not write where the probe reads, or another
        width.

    References:
      Chanin et al. 2024 (arXiv 2409.14507) and its code, sae-spelling's k_sparse_probing.py, for
      the task and splitting; SAEBench (Karvonen et al. 2025, arXiv 2503.09532), its
      evals/absorption/feature_absorption_calculator.py, for absorption without ablations.
      Differences: words have a space and three letters or more, in one case each, and are read in
      windows of many (`first_letter.make_prompts`); probes are fitted to convergence by L-BFGS,
      on activations and codes scaled by one number; the words of the test are not prompted again
      for absorption; SAEBench needs 20 letters with good probes, here any number is told.
    """
    if sae.transcoder:
        raise InputError("a transcoder writes elsewhere than it reads: give an autoencoder")
    if sae.d_model != data.train.shape[1]:
        raise InputError(
            f"the autoencoder is {sae.d_model} wide and the activations {data.train.shape[1]}: "
            "it was trained at another place"
        )
    train_BN, test_TN = (dense_codes(sae, x) * _unit(data) for x in (data.train, data.test))
    members_CB = _members(data, data.train_letters)
    members_CT = _members(data, data.test_letters)
    order_CK = _ranking(train_BN, members_CB)
    f1_CK = _sparse_f1(train_BN, members_CB, test_TN, members_CT, order_CK)
    w_dec_ND = np.asarray(sae.w_dec, np.float32)
    results = []
    for place, letter in enumerate(data.letters):
        words_P = np.flatnonzero(members_CT[place] & probes.positive[place])
        if not len(words_P):
            continue
        main = order_CK[place, : num_split(f1_CK[place])]
        silent, absorbed, fraction, absorber = absorption(
            data.test[words_P] * _unit(data),
            test_TN[words_P],
            w_dec_ND,
            probes.directions[place],
            main,
        )
        results.append(
            LetterResult(
                LETTERS[letter],
                f1_CK[place],
                tuple(int(latent) for latent in main),
                words_P,
                silent,
                absorbed,
                fraction,
                absorber,
            )
        )
    return results


def num_split(f1_K: Float[np.ndarray, " K"]) -> int:
    """Latents that a letter is split over: how far each one more gains above 0.03 of F1."""
    gains = np.diff(f1_K) > SPLIT_GAIN
    return 1 + (len(gains) if gains.all() else int(np.argmin(gains)))


def absorption(
    x_PD: Float[np.ndarray, "P D"],
    codes_PN: Float[np.ndarray, "P N"],
    w_dec_ND: Float[np.ndarray, "N D"],
    direction_D: Float[np.ndarray, " D"],
    main: Sequence[int] | Int[np.ndarray, " k"],
) -> tuple[
    Bool[np.ndarray, " P"],
    Bool[np.ndarray, " P"],
    Float[np.ndarray, " P"],
    Int[np.ndarray, " P"],
]:
    """`silent`, `absorbed`, `fraction` and `absorbers` of words, see `measure`, `LetterResult`."""
    along_N = w_dec_ND @ direction_D
    cosine_N = along_N / np.maximum(np.linalg.norm(w_dec_ND, axis=1), 1e-12)
    given_PN = codes_PN * along_N[None]
    whole_P = x_PD @ direction_D
    rows = np.arange(len(x_PD))

    silent_P = np.all(codes_PN[:, main] <= 0, axis=1)
    absorber_P = given_PN.argmax(axis=1)
    aligned_P = cosine_N[absorber_P] >= FULL_COSINE
    large_P = (whole_P > 0) & (given_PN[rows, absorber_P] >= MIN_PART * whole_P)
    absorbed_P = silent_P & aligned_P & large_P

    main_P = given_PN[:, main].sum(axis=1)
    may_absorb_N = cosine_N >= PART_COSINE
    may_absorb_N[np.asarray(main)] = False
    other_PN = np.where(may_absorb_N[None], given_PN, 0)
    others_P = np.sort(other_PN, axis=1)[:, -MAX_ABSORBERS:].sum(axis=1)
    counts_P = (whole_P > main_P) & (whole_P > 0) & (others_P >= MIN_PART * whole_P)
    # Main latents that point away from the probe leave all to the others.
    main_P = np.maximum(main_P, 0)
    taken_P = np.minimum(others_P, whole_P - main_P)
    fraction_P = np.where(counts_P, taken_P / np.where(counts_P, taken_P + main_P, 1), 0)
    return silent_P, absorbed_P, fraction_P, absorber_P


def dense_codes(sae: Sae, x_BD: Float[np.ndarray, "B D"]) -> Float[np.ndarray, "B N"]:
    """Codes as a matrix, in units of the activations."""
    codes_BN = np.zeros((len(x_BD), sae.num_latents), np.float32)
    for start in range(0, len(x_BD), _ENCODE_WORDS):
        part_BD = jnp.asarray(x_BD[start : start + _ENCODE_WORDS])
        codes = encode(sae, part_BD)
        values_BK = codes.values * normalization(sae, part_BD).out_scale
        np.put_along_axis(
            codes_BN[start : start + _ENCODE_WORDS],
            np.asarray(codes.indices),
            np.asarray(values_BK),
            axis=1,
        )
    return codes_BN


def _unit(data: Data) -> np.float32:
    """What gives the activations a mean norm of sqrt(D), so that penalties have no unit."""
    norm = np.linalg.norm(data.train, axis=1).mean()
    return np.float32(np.sqrt(data.train.shape[1]) / norm)


def _members(data: Data, letters_B: Int[np.ndarray, " B"]) -> Bool[np.ndarray, "C B"]:
    return letters_B[None] == data.letters[:, None]


def _ranking(
    codes_BN: Float[np.ndarray, "B N"], members_CB: Bool[np.ndarray, "C B"]
) -> Int[np.ndarray, "C K"]:
    """Latents with the largest weights for each letter; negative ones do not represent it."""
    probe = logistic.fit_l1(jnp.asarray(codes_BN), jnp.asarray(members_CB), CHOICE_L1)
    return np.asarray(jax.lax.top_k(probe.weight, min(MAX_LATENTS, codes_BN.shape[1]))[1])


def _sparse_f1(
    train_BN: Float[np.ndarray, "B N"],
    members_CB: Bool[np.ndarray, "C B"],
    test_TN: Float[np.ndarray, "T N"],
    members_CT: Bool[np.ndarray, "C T"],
    order_CK: Int[np.ndarray, "C K"],
) -> Float[np.ndarray, "C K"]:
    """F1 of probes on the first k latents."""
    train_CBK, test_CTK = (codes[:, order_CK].swapaxes(0, 1) for codes in (train_BN, test_TN))
    l2 = 1 / len(train_BN)  # C = 1 of scikit-learn, as in SAEBench.
    f1_CK = np.zeros(order_CK.shape)
    for last in range(order_CK.shape[1]):
        # Features that are 0 keep weights of 0: one shape serves all k.
        used_11K = (np.arange(order_CK.shape[1]) <= last)[None, None]
        probe = logistic.fit_l2(jnp.asarray(train_CBK * used_11K), jnp.asarray(members_CB), l2)
        score_CT = np.asarray(probe.scores(jnp.asarray(test_CTK)))
        f1_CK[:, last] = [logistic.f1(*pair) for pair in zip(score_CT > 0, members_CT, strict=True)]
    return f1_CK
