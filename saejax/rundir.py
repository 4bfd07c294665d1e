"""The files of a run directory, and who may write there."""

import dataclasses
import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

from saejax.config import Config
from saejax.config_json import differences, from_json, to_json
from saejax.errors import InputError
from saejax.files import atomic_write
from saejax.processes import SHARED_PREFIX, all_succeed, check_shared, is_first

# Libraries whose versions can change a result.
_VERSIONED = (
    "saejax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "ott-jax",
    "numpy",
    "scipy",
)
# Fields that a run may go on with another value of: they do not change its autoencoders, up to
# rounding in the case of the mesh.
_MAY_CHANGE = ("mesh.", "train.checkpoint", "train.log_every_steps", "match.")


@dataclasses.dataclass(frozen=True)
class RunDir:
    """The paths of a run's files.

    Attributes:
      root: The directory.
    """

    root: Path

    @property
    def config(self) -> Path:
        """The configuration, as `saejax.config.to_json` writes it."""
        return self.root / "config.json"

    @property
    def versions(self) -> Path:
        """Versions of the libraries, commit, machine."""
        return self.root / "versions.json"

    @property
    def metrics(self) -> Path:
        """Training metrics, one JSON object a line."""
        return self.root / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Orbax checkpoints, one folder a step."""
        return self.root / "checkpoints"

    @property
    def activations(self) -> Path:
        """The activation store, with `data.activations=store`."""
        return self.root / "activations"

    @property
    def report(self) -> Path:
        """The page."""
        return self.root / "report.html"

    def sae(self, hookpoint: str, seed: int) -> Path:
        """Folder of a trained autoencoder."""
        return self.root / "saes" / hookpoint / f"seed{seed}"

    def matching(self, hookpoint: str, seeds: tuple[int, int], method: str) -> Path:
        """Encoder and decoder matching of a pair of seeds."""
        return self.root / "matchings" / hookpoint / f"seed{seeds[0]}-seed{seeds[1]}.{method}.npz"

    def latents(self, hookpoint: str, *seeds: int) -> Path:
        """What the latents of a seed, or of a pair of seeds, do on text."""
        return self.root / "latents" / hookpoint / f"{'-'.join(f'seed{s}' for s in seeds)}.npz"

    def result(self, name: str) -> Path:
        """Numbers of one analysis."""
        return self.root / "results" / f"{name}.json"

    def read_result(self, name: str) -> dict[str, Any] | None:
        """What `result` holds; None where it cannot be read, or is no object of JSON."""
        try:
            found = json.loads(self.result(name).read_text())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def figure(self, name: str, suffix: str) -> Path:
        """A figure, as svg or png."""
        return self.root / "figures" / f"{name}.{suffix}"

    def read_config(self) -> Config:
        """The configuration of the run.

        Raises:
          InputError: If there is none, or it cannot be read.
        """
        try:
            return from_json(self.config.read_text())
        except FileNotFoundError:
            raise InputError(
                f"{self.root}: no config.json, so this is not a run; experiments/train.py makes one"
            ) from None
        except InputError as error:
            raise InputError(f"{self.config}: {error}") from None


def open_run(cfg: Config, workdir: str | Path) -> RunDir:
    """Makes a run directory, or opens the one of the same configuration.

    A run that has computed nothing yet, because its input was wrong, takes the new one. Of several
    processes, which all call this, process 0 does it, and all have to see the same directory.

    Raises:
      InputError: If the directory holds another configuration, naming the fields, or files
        that are no run. The mesh, the intervals of checkpoints and logs, and what is about
        matching may differ: the run then has the new configuration. And if processes do not see
        what process 0 writes there.
    """
    run = RunDir(Path(workdir))
    with all_succeed("opening the run directory"):
        if is_first():
            _open(cfg, run)
    check_shared(run.root)
    return run


def _open(cfg: Config, run: RunDir) -> None:
    started = run.root.is_dir() and any(
        path not in (run.config, run.versions) and not path.name.startswith(SHARED_PREFIX)
        for path in run.root.iterdir()
    )
    if run.config.exists() and started:
        changed = differences(run.read_config(), cfg)
        if refused := [text for text in changed if not text.startswith(_MAY_CHANGE)]:
            raise InputError(
                f"{run.root} holds a run with another configuration (there != here): "
                f"{'; '.join(refused)}. Use another --workdir, or set these back to continue"
            )
        if changed:
            _write_config(run, cfg)
        return
    if started or (run.root.exists() and not run.root.is_dir()):
        raise InputError(
            f"--workdir={run.root} exists and is not a run of saejax; name a new directory"
        )
    # The configuration comes last: a directory with one has all it needs to resume.
    with atomic_write(run.versions) as file:
        file.write(json.dumps(versions(), indent=2).encode() + b"\n")
    _write_config(run, cfg)


def _write_config(run: RunDir, cfg: Config) -> None:
    with atomic_write(run.config) as file:
        file.write(to_json(cfg).encode())


def versions() -> dict[str, str]:
    """Names and versions of what computes: libraries, Python, platform, device, commit."""
    device = jax.devices()[0]
    return {
        **{name: importlib.metadata.version(name) for name in _VERSIONED},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": f"{len(jax.devices())} x {device.device_kind} ({device.platform})",
        "commit": commit(),
    }


def commit() -> str:
    """The git commit of the source, with `-dirty` for local changes; "unknown" elsewhere."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        # Only a checkout of saejax itself counts, not a repository that contains its venv.
        if Path(git("rev-parse", "--show-toplevel")) != here.parent:
            return "unknown"
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
