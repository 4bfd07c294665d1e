"""Models and autoencoders by their id on the hub: a small server that answers as the hub does."""

import base64
import hashlib
import http.server
import json
import threading
import urllib.parse

import huggingface_hub
import numpy as np
import pytest

import saejax
from saejax import sources
from saejax.errors import InputError
from saejax.formats import hub as sae_hub
from saejax.lm import expand_hookpoints, lm_fingerprint, load_config, load_lm, load_tokenizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories as {org/name: {path: content}}; what is asked for; what goes wrong."""

    def __init__(self):
        self.repositories = {}
        self.gated = set()
        self.commit = COMMIT
        self.served = []
        self.tokens = set()

    def take(self, path, headers, body, send):
        """Answers the requests that make a repository and upload a folder as one commit."""
        parts = urllib.parse.urlsplit(path).path.strip("/").split("/")
        if headers.get("Authorization", "") not in self.tokens:
            return send(401, {}, b'{"error": "Invalid username or password."}')
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.repositories.setdefault(name, {})
            return send(200, {}, json.dumps({"url": f"{self.endpoint}/{name}"}).encode())
        if parts == ["api", "validate-yaml"]:
            return send(200, {}, b'{"errors": [], "warnings": []}')
        name = "/".join(parts[2:4])
        if parts[4] == "preupload":
            answers = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return send(200, {}, json.dumps({"files": answers}).encode())
        assert parts[4] == "commit"
        for line in body.decode().splitlines():
            operation = json.loads(line)
            if operation["key"] == "file":
                value = operation["value"]
                self.repositories[name][value["path"]] = base64.b64decode(value["content"])
        done = {"commitUrl": f"{self.endpoint}/{name}/commit/{COMMIT}", "commitOid": COMMIT}
        return send(200, {}, json.dumps(done).encode())

    def answer(self, path, send):
        """Calls send(status, headers, body) for a request."""
        parts = urllib.parse.urlsplit(path).path.strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if api else parts[:2])
        files = self.repositories.get(name)
        if files is None:
            return send(401, {"X-Error-Code": "RepoNotFound"}, b"")
        revision = (parts[5] if len(parts) > 5 else "main") if api else parts[3]
        if revision not in ("main", "v1", COMMIT):
            return send(404, {"X-Error-Code": "RevisionNotFound"}, b"")
        if api and (len(parts) == 4 or parts[4] == "revision"):
            siblings = [{"rfilename": p} for p in files]
            info = {"id": name, "sha": self.commit, "siblings": siblings}
            return send(200, {}, json.dumps(info).encode())
        if api:
            tree = [
                {"type": "file", "path": p, "size": len(x), "oid": hashlib.sha1(x).hexdigest()}
                for p, x in files.items()
            ]
            return send(200, {}, json.dumps(tree).encode())
        if name in self.gated:
            return send(403, {"X-Error-Code": "GatedRepo"}, b"")
        content = files["/".join(parts[4:])]
        self.served.append("/".join(parts[4:]))
        tag = f'"{hashlib.sha1(content).hexdigest()}"'
        return send(200, {"ETag": tag, "X-Repo-Commit": COMMIT}, content)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    made = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            def send(status, headers, body):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            made.answer(self.path, send)

        do_HEAD = do_GET

        def do_POST(self):
            def send(status, headers, body):
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            made.take(self.path, self.headers, body, send)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made.endpoint = f"http://127.0.0.1:{server.server_port}"
        # The package reads HF_ENDPOINT and HF_HOME when it is imported.
        constants = huggingface_hub.constants
        template = made.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", made.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        sources._fetch.cache_clear()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield made
        server.shutdown()
        sources._fetch.cache_clear()


@pytest.fixture
def published(hub, tiny_lm):
    """The tiny model on the hub, among files that nobody needs."""
    files = {path.name: path.read_bytes() for path in tiny_lm.iterdir()}
    unneeded = {"pytorch_model.bin": b"pickle", "onnx/model.safetensors": b"", "README.md": b""}
    hub.repositories["org/tiny"] = files | unneeded
    return hub


@pytest.mark.parametrize("source", ["org/tiny", "org/tiny@v1", f"org/tiny@{COMMIT}"])
def test_a_model_by_its_id(published, tiny_lm, source):
    assert load_lm(source).fingerprint == load_lm(str(tiny_lm)).fingerprint
    assert load_tokenizer(source).vocab_size == load_tokenizer(str(tiny_lm)).vocab_size
    needed = ["config.json", "model.safetensors", "tokenizer.json"]
    assert sorted(set(published.served)) == needed


def test_the_configuration_needs_no_weights_and_the_weights_are_of_its_commit(published, tiny_lm):
    assert load_config("org/tiny") == load_config(str(tiny_lm))
    assert expand_hookpoints(load_config("org/tiny"), "layers.*.mlp")
    assert set(published.served) == {"config.json"}
    # Somebody has pushed something to the branch.
    published.commit = "f" * 40
    assert load_lm("org/tiny").fingerprint == lm_fingerprint(str(tiny_lm))


def test_a_copy_in_the_cache_is_used_without_a_network(published, monkeypatch):
    load_lm("org/tiny")
    sources._fetch.cache_clear()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    served = list(published.served)
    load_lm("org/tiny")
    assert published.served == served


def test_a_path_wins(published, tiny_lm, tmp_path, monkeypatch):
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "tiny").symlink_to(tiny_lm)
    monkeypatch.chdir(tmp_path)
    load_lm("org/tiny")
    assert published.served == []


def refused(source):
    with pytest.raises(InputError) as caught:
        load_lm(source)
    assert "\n" not in str(caught.value)
    assert source in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_fetched(published, monkeypatch):
    assert "neither a path nor a repository" in refused("org/tyni")
    assert "has no such revision" in refused("org/tiny@v2")
    published.gated.add("org/gated")
    published.repositories["org/gated"] = {"config.json": b"{}"}
    assert "is gated: accept its terms on the hub, and set HF_TOKEN" in refused("org/gated")
    published.repositories["org/pickles"] = {"pytorch_model.bin": b"pickle"}
    assert "has no config.json: choose" in refused("org/pickles")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached: check the network" in refused("org/other")


def test_no_safetensors(published):
    files = published.repositories["org/tiny"]
    published.repositories["org/bin"] = {"config.json": files["config.json"]}
    with pytest.raises(InputError, match=r"org--bin.*neither model\.safetensors nor.*convert"):
        load_lm("org/bin")


def test_a_name_that_no_repository_has_is_a_path(published):
    for source in ("org", "org/tiny/model", "org/ti ny", "../tiny", "org/tiny@"):
        with pytest.raises(InputError, match="does not exist"):
            load_lm(source)
    assert published.served == []


def test_no_download_without_asking(published):
    with pytest.raises(InputError, match="does not exist"):
        sources.resolve("org/tiny")


def make(seed):
    rng = np.random.default_rng(seed)
    shapes = {"w_enc": (5, 12), "b_enc": (12,), "w_dec": (12, 5), "b_dec": (5,)}
    leaves = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    metadata = (("hookpoint", "layers.6.mlp"), ("seed", seed))
    return saejax.Sae(**leaves, k=3, metadata=metadata)


def upload(hub, name, folder):
    hub.repositories[name] = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_only_the_chosen_autoencoder_is_fetched(hub, tmp_path):
    for seed in (1, 2):
        saejax.save_sae(make(seed), tmp_path / f"layers.6.mlp/seed{seed}", format="sparsify")
        saejax.save_sae(make(seed + 5), tmp_path / f"layers.7.mlp/seed{seed}", format="sparsify")
    upload(hub, "org/saes", tmp_path)
    for source in ("hub:org/saes", "hub:org/saes@v1"):
        sae = saejax.load_sae(source, hookpoint="layers.6.mlp", seed=2)
        np.testing.assert_array_equal(sae.w_dec, make(2).w_dec)
    folder = "layers.6.mlp/seed2"
    assert set(hub.served) == {f"{folder}/cfg.json", f"{folder}/sae.safetensors"}
    with pytest.raises(InputError, match=r"names 2 .*layers\.7\.mlp/seed1, layers\.7\.mlp/seed2"):
        saejax.load_sae("hub:org/saes", hookpoint="layers.7.mlp")
    with pytest.raises(InputError, match=r"names no .*choose one of: layers\.6\.mlp/seed1"):
        saejax.load_sae("hub:org/saes", hookpoint="layers.8.mlp")


def test_a_fetched_autoencoder_is_loaded_without_a_network(hub, tmp_path, monkeypatch):
    saejax.save_sae(make(1), tmp_path / "one")
    upload(hub, "org/one", tmp_path / "one")
    saejax.load_sae("hub:org/one")
    served = list(hub.served)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    np.testing.assert_array_equal(saejax.load_sae("hub:org/one").w_enc, make(1).w_enc)
    assert hub.served == served
    with pytest.raises(InputError, match="cannot be reached"):
        saejax.load_sae("hub:org/two")


@pytest.mark.parametrize("name", ["../../evil/cfg.json", "/etc/cfg.json", "a\\..\\cfg.json"])
def test_file_names_that_lead_out_are_refused(hub, tmp_path, name):
    hub.repositories["org/evil"] = {name: b"{}", name.replace("cfg.json", "sae.safetensors"): b""}
    with pytest.raises(InputError, match="leads out of the repository; refused"):
        saejax.load_sae("hub:org/evil")
    assert hub.served == []


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("hub:org", "not of the form hub:owner/name"),
        ("hub:org/none", "neither a path nor a repository"),
        ("hub:org/empty", "no autoencoder here; looked for"),
    ],
)
def test_what_is_no_autoencoder(hub, source, says):
    hub.repositories["org/empty"] = {"README.md": b""}
    with pytest.raises(InputError, match=says):
        saejax.load_sae(source)


def test_what_is_pushed_can_be_loaded(hub, tmp_path, monkeypatch):
    hub.tokens.add("Bearer secret")
    saejax.save_sae(make(3), tmp_path / "layers.6.mlp/seed3")
    (tmp_path / "README.md").write_text("card")
    with pytest.raises(InputError, match="HF_TOKEN"):
        sae_hub.push(tmp_path, "org/new", private=True)
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert sae_hub.push(tmp_path, "org/new", private=True).endswith(f"org/new/commit/{COMMIT}")
    assert hub.repositories["org/new"]["README.md"] == b"card"
    np.testing.assert_array_equal(saejax.load_sae("hub:org/new", seed=3).w_dec, make(3).w_dec)
    with pytest.raises(InputError, match="not of the form owner/name"):
        sae_hub.push(tmp_path, "new", private=True)
