"""Text to activations: stored and streamed alike, in one process and in two."""

import json
import shutil

import jax
import numpy as np
import pytest

from saejax.activations import open_activations
from saejax.config import MeshConfig
from saejax.config_check import check
from saejax.config_json import to_json
from saejax.data.exclude import REPLACED
from saejax.data.loader import make_batches
from saejax.errors import InputError
from saejax.lm import load_tokenizer
from saejax.mesh import make_mesh

HOOKPOINTS = ("layers.1.mlp", "layers.0")


@pytest.fixture
def excluding(cfg):
    cfg.data.exclude_special_tokens, cfg.data.max_norm_multiple = True, 1.5
    cfg.data.store_dtype, cfg.data.epochs = "float32", 1
    check(cfg)
    return cfg


def all_steps(cfg, store, hookpoints=HOOKPOINTS, norms_of=HOOKPOINTS[0]):
    mesh = make_mesh(cfg.mesh, devices=jax.devices()[: cfg.mesh.data])
    source, activations = open_activations(cfg, hookpoints, store, mesh, norms_of=norms_of)
    given = [activations(batch) for batch in make_batches(cfg, source)]
    return [{name: np.asarray(x) for name, x in step.items()} for step in given], source


@pytest.mark.parametrize(("special", "multiple"), [(True, 0.0), (False, 1.5), (True, 1.5)])
def test_excluded_alike_in_a_stream_and_in_a_store(excluding, tmp_path, special, multiple):
    cfg = excluding
    cfg.data.exclude_special_tokens, cfg.data.max_norm_multiple = special, multiple
    stored, _ = all_steps(cfg, tmp_path)
    cfg.data.activations = "stream"
    streamed, windows = all_steps(cfg, tmp_path)
    for one, other in zip(stored, streamed, strict=True):
        for name in HOOKPOINTS:
            np.testing.assert_allclose(one[name], other[name], atol=1e-5)
    # Told per step while streaming and per shard in the store; 12 windows of 31 in each step.
    told = round(sum(float(step[REPLACED]) for step in streamed) * 12 * 31)
    records = (tmp_path / HOOKPOINTS[1]).glob("0*.json")
    assert sum(json.loads(path.read_text())["replaced"] for path in records) == told
    end_of_text = load_tokenizer(cfg.lm.source).end_of_text
    ends = sum(int((np.asarray(windows[i])[1:] == end_of_text).sum()) for i in range(48))
    assert ends > 10
    assert told == ends if not multiple else told > ends
    assert all(REPLACED not in step for step in stored)


def test_norms_are_of_one_hook_point_whichever_are_read(excluding, tmp_path):
    cfg = excluding
    cfg.data.activations = "stream"
    both, _ = all_steps(cfg, tmp_path)
    one, _ = all_steps(cfg, tmp_path, hookpoints=HOOKPOINTS[1:])
    other, _ = all_steps(cfg, tmp_path, hookpoints=HOOKPOINTS[1:], norms_of="layers.0")
    assert one[0].keys() == {"layers.0", REPLACED}
    np.testing.assert_allclose(one[0]["layers.0"], both[0]["layers.0"], atol=1e-5)
    assert not np.allclose(one[0]["layers.0"], other[0]["layers.0"])


def test_store_of_other_norms_is_refused(excluding, tmp_path):
    all_steps(excluding, tmp_path)
    with pytest.raises(InputError, match=r"something else \(norms_of differ\)"):
        all_steps(excluding, tmp_path, norms_of="layers.0")


def test_a_store_serves_every_run_of_the_same_activations(excluding, tmp_path, monkeypatch):
    cfg = excluding
    both, _ = all_steps(cfg, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr("saejax.activations.load_lm", None)
    cfg.data_seed, cfg.data.epochs, cfg.data.order = 3, 2, "shuffled_tokens"
    fewer, _ = all_steps(cfg, tmp_path, hookpoints=HOOKPOINTS[1:])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    epochs = fewer[:4], fewer[4:]
    ours, theirs, again = (
        np.concatenate([step["layers.0"] for step in steps]) for steps in (both, *epochs)
    )
    for other in (theirs, again):
        np.testing.assert_array_equal(ours[np.lexsort(ours.T)], other[np.lexsort(other.T)])


@pytest.mark.parametrize("changed", ["text", "model", "order", "special ids"])
def test_a_store_of_something_else_is_refused(
    excluding, tiny_lm, text, tmp_path, changed, monkeypatch
):
    cfg = excluding
    cfg.lm.source, cfg.data.source = str(tmp_path / "lm"), str(tmp_path / "text.jsonl")
    shutil.copytree(tiny_lm, tmp_path / "lm")
    shutil.copy(text, tmp_path / "text.jsonl")
    all_steps(cfg, tmp_path / "store")
    says = "tokens_sha256"
    if changed == "text":
        lines = text.read_text().splitlines()
        (tmp_path / "text.jsonl").write_text("\n".join(reversed(lines)))
    elif changed == "model":
        config = tmp_path / "lm" / "config.json"
        config.write_text(config.read_text().replace("10000.0", "20000.0"))
        says = "lm_fingerprint"
    elif changed == "order":
        # The first windows of the corpus, not windows spread over it.
        cfg.data.order = "in_order"
    else:
        tokenizer = tmp_path / "lm" / "tokenizer.json"
        values = json.loads(tokenizer.read_text())
        a = {"id": values["model"]["vocab"]["a"], "content": "a"}
        values["added_tokens"].append({**values["added_tokens"][0], **a})
        tokenizer.write_text(json.dumps(values))
        says = "special_ids"
    with pytest.raises(InputError, match=rf"something else \({says} differ\)"):
        all_steps(cfg, tmp_path / "store")


@pytest.mark.parametrize("order", ["shuffled", "shuffled_tokens"])
def test_a_shard_damaged_since_is_told_and_written_again(excluding, tmp_path, order):
    cfg = excluding
    cfg.data.order = order
    good, _ = all_steps(cfg, tmp_path)
    path = tmp_path / "layers.0" / "00000.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=r"layers\.0/00000\.npy is damaged: .*; delete it and run"):
        all_steps(cfg, tmp_path)
    path.unlink()
    again, _ = all_steps(cfg, tmp_path)
    assert path.read_bytes() == content
    for one, other in zip(again, good, strict=True):
        np.testing.assert_array_equal(one["layers.0"], other["layers.0"])


def test_shuffle_buffer_gives_the_tokens_of_its_batches(excluding, tmp_path):
    cfg = excluding
    cfg.data.activations = "stream"
    plain, _ = all_steps(cfg, tmp_path)
    cfg.data.shuffle_buffer_batches = 3
    mixed, _ = all_steps(cfg, tmp_path)
    assert len(plain) == len(mixed) == 4
    for name in HOOKPOINTS:
        for steps in (slice(0, 3), slice(3, 4)):
            ours, theirs = (
                np.concatenate([step[name] for step in all_[steps]]) for all_ in (mixed, plain)
            )
            assert not np.array_equal(ours, theirs)
            np.testing.assert_array_equal(
                ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)], strict=True
            )
    replaced = [sum(float(step[REPLACED]) for step in steps[:3]) for steps in (plain, mixed)]
    np.testing.assert_allclose(*replaced, rtol=1e-5)


_PROGRAM = """
import sys
import jax
import numpy as np
process, port, root = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=process)
assert len(jax.devices()) == 4 and len(jax.local_devices()) == 2
from pathlib import Path
from jax.experimental import multihost_utils
from saejax import mesh as mesh_lib
from saejax.activations import open_activations
from saejax.config_json import from_json
from saejax.data import store as store_lib
from saejax.data.loader import make_batches
from saejax.errors import InputError
from saejax.lm import sharding

store_lib._SHARD_TOKENS = 8 * 31
hookpoints = ("layers.1.mlp", "layers.0")
copy_bytes = sharding._COPY_BYTES
for name in sys.argv[4:]:
    # The model of a stream is split over both processes, that of a store is copied.
    sharding._COPY_BYTES = 0 if name == "stream" else copy_bytes
    cfg = from_json((Path(root) / f"{name}.json").read_text())
    mesh = mesh_lib.make_mesh(cfg.mesh)
    index, count = mesh_lib.batch_part(mesh)
    store = Path(root) / "two"
    try:
        source, activations = open_activations(
            cfg, hookpoints, store, mesh, norms_of=hookpoints[0]
        )
    except InputError as error:
        print(error)
        continue
    batches = make_batches(cfg, source, process_index=index, process_count=count)
    # Step after step, as training goes: on CPUs, exchanges of several at once can block each other.
    whole = {
        f"{i} {place}": multihost_utils.process_allgather(x, tiled=True)
        for i, batch in enumerate(batches)
        for place, x in jax.block_until_ready(activations(batch)).items()
    }
    if process == 0:
        np.savez(Path(root) / f"{name}.npz", **whole)
"""


@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(1, 4, 1),
        # Both processes hold all tokens, for one seed each.
        pytest.param(MeshConfig(2, 2, 1), marks=pytest.mark.slow),
    ],
)
def test_two_processes_equal_one(excluding, tmp_path, run_two, mesh):
    cfg, alone = excluding, {}
    for name in ("stream", "store"):
        cfg.mesh, cfg.data.activations = mesh, name
        cfg.data.shuffle_buffer_batches = 3 if name == "stream" else 0
        check(cfg)
        (tmp_path / f"{name}.json").write_text(to_json(cfg))
        cfg.mesh = MeshConfig(1, mesh.data, 1)
        alone[name], _ = all_steps(cfg, tmp_path / "one")
    assert run_two(_PROGRAM, str(tmp_path), *alone) == ["", ""]
    for name, steps in alone.items():
        two = np.load(tmp_path / f"{name}.npz")
        assert len(two) == sum(len(step) for step in steps)
        for i, step in enumerate(steps):
            for place, x in step.items():
                # Of up to 59; other numbers of windows on a device round otherwise.
                np.testing.assert_allclose(two[f"{i} {place}"], x, rtol=1e-5, atol=1e-3)
    assert len(list((tmp_path / "two").rglob("*.npy"))) == 6 * len(HOOKPOINTS)


def test_error_of_one_process_ends_both(excluding, tmp_path, run_two):
    cfg = excluding
    cfg.mesh = MeshConfig(1, 4, 1)
    (tmp_path / "store.json").write_text(to_json(cfg))
    (tmp_path / "two").write_text("in the way")
    first, second = run_two(_PROGRAM, str(tmp_path), "store")
    assert "cannot write" in first
    assert second == "process 0 stopped: see what it says"
