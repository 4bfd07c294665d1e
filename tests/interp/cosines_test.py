"""Cosines of explanations with windows: in order, kept on disk; and a planted latent's oracle."""

import json

import numpy as np
import pytest

from saejax.config import SAMPLE_TEXT
from saejax.interp.cosines import with_cosines
from saejax.interp.embedding import score
from saejax.interp.encoder import Encoder, load_encoder
from saejax.interp.example import Example
from saejax.interp.questions import Question
from saejax.interp.run import Explained
from saejax.interp.subjects import Choice, Subject
from saejax.progress import Progress
from saejax.sources import resolve


def subject(latent, windows):
    """A latent that fires in the windows that say so."""
    questions = [
        Question(Example(tuple(words), np.full(len(words), float(fires), np.float32), fires - 1))
        for words, fires in windows
    ]
    return Subject(Choice(1, latent), len(questions), (), {"detection": questions})


def explained(*texts):
    return [Explained(text, "" if text else "refused", {}) for text in texts]


@pytest.fixture
def subjects():
    first = [(("w1", " w2"), 1), (("w3", "", " w4"), 0), (("w1", " w2"), 0), (("w", "5"), 1)]
    return [subject(0, first), subject(1, [(("w7",), 1), (("w8",), 0)])]


def test_cosines_are_those_of_the_joined_tokens(subjects, tiny_bert, tmp_path):
    encoder = load_encoder(str(tiny_bert()))
    llm, tokens = explained("w1", None), explained("w9 w9", "w1")
    found = with_cosines(encoder, subjects, [llm, tokens], tmp_path)
    assert [[each.explanation for each in by] for by in found] == [["w1", None], ["w9 w9", "w1"]]
    assert found[0][1] == llm[1]
    texts = ["w1", "w1 w2", "w3 w4", "w5", "w9 w9", "w7", "w8"]
    with Progress("embed", total=len(texts), unit="texts") as progress:
        vector_TD = encoder.embed(texts, progress=progress)
    cosine_TT = vector_TD @ vector_TD.T
    np.testing.assert_allclose(found[0][0].cosines, cosine_TT[0, [1, 2, 1, 3]], atol=1e-6)
    np.testing.assert_allclose(found[1][0].cosines, cosine_TT[4, [1, 2, 1, 3]], atol=1e-6)
    np.testing.assert_allclose(found[1][1].cosines, cosine_TT[0, [5, 6]], atol=1e-6)
    # Windows of the same text tie.
    assert found[0][0].cosines[0] == found[0][0].cosines[2]
    # Nobody was asked.
    assert with_cosines(encoder, subjects, [[], tokens], tmp_path) == [[], found[1]]


def test_windows_are_embedded_once(subjects, tiny_bert, tmp_path, monkeypatch):
    encoder, other = load_encoder(str(tiny_bert())), load_encoder(str(tiny_bert(prefix="bert.")))
    seen = []
    embed = Encoder.embed

    def counted(self, texts, *, progress):
        seen.extend(texts)
        return embed(self, texts, progress=progress)

    monkeypatch.setattr(Encoder, "embed", counted)
    folder = tmp_path / "embeddings"
    first = with_cosines(encoder, subjects, [explained("w1", "w2")], folder)
    assert seen == ["w1", "w2", "w1 w2", "w3 w4", "w5", "w7", "w8"]
    seen.clear()
    # Other explanations, and the first latent again: nothing of the windows is new.
    assert with_cosines(encoder, subjects, [explained("w1", "w2")], folder) == first
    assert seen == ["w1", "w2"]
    # A damaged file, and an encoder of other weights.
    paths = sorted(folder.iterdir())
    assert len(paths) == 2
    paths[0].write_bytes(b"\x93NUMPY")
    paths[1].write_bytes(b"")
    assert with_cosines(encoder, subjects, [explained("w1", "w2")], folder) == first
    with_cosines(other, subjects, [explained("w1", "w2")], folder)
    assert len(list(folder.iterdir())) == 4


# The latent fires on the word; the explanation is that of somebody who knows, in other words too.
TOPICS = {
    "music": "The word music, about what is played and sung",
    "species": "The word species, about kinds of animals and plants",
    "river": "The word river, about waters that flow to the sea",
    "blood": "The word blood, about the body and its vessels",
}


def test_an_oracle_is_above_a_wrong_explanation(minilm, tmp_path):
    """The law of the score, on the packaged text with the packaged encoder."""
    articles = json.loads(resolve(SAMPLE_TEXT).read_text())
    text = " ".join(article["extract"] for article in articles.values())
    words = [f" {word}" for word in text.split()]
    windows = [words[i : i + 24] for i in range(0, len(words) - 24, 24)]
    rng, planted = np.random.default_rng(0), []
    for number, topic in enumerate(TOPICS):
        fires = np.array([f" {topic}" in window for window in windows])
        drawn = [rng.choice(np.flatnonzero(fires == kind), 12, False) for kind in (True, False)]
        planted.append(subject(number, [(windows[i], int(fires[i])) for d in drawn for i in d]))
    texts = list(TOPICS.values())
    rotated = [explained(*texts[shift:], *texts[:shift]) for shift in range(len(texts))]
    found = [
        [
            score(s.questions["detection"], each.cosines).auroc
            for s, each in zip(planted, by, strict=True)
        ]
        for by in with_cosines(minilm, planted, rotated, tmp_path)
    ]
    right, wrong = np.array(found[0]), np.array(found[1:])
    # With 25 windows of each kind 0.974 to 1.000, and 0.315 to 0.842 with a mean of 0.503.
    assert right.min() > 0.9
    assert right.min() > wrong.max()
    np.testing.assert_allclose(wrong.mean(), 0.5, atol=0.15)
