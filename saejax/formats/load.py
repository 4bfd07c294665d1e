"""Finding and loading an autoencoder: in a run, in a folder of another library, or on the hub."""

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import NamedTuple

from saejax.errors import InputError
from saejax.formats import (
    dictionary_learning,
    hub,
    openai,
    saelens,
    saelens_hooks,
    saelens_training,
    sparsify,
)
from saejax.sae.sae import Sae

FORMATS: dict[str, ModuleType] = {
    "saelens": saelens,
    "sparsify": sparsify,
    "dictionary_learning": dictionary_learning,
}
_READABLE = FORMATS | {"openai": openai}
# Folders of a run with many files and no autoencoder.
_SKIPPED = ("activations", "checkpoints", "matchings", "latents")
# owner/release/model/hookpoint/seed is as deep as they get.
_DEPTH = 5


class Found(NamedTuple):
    """A place with an autoencoder.

    Attributes:
      name: Its path below the source, with forward slashes; "" for the source itself.
      format: A key of `FORMATS`, or "openai".
      commit: Of a repository of the hub.
    """

    name: str
    format: str
    commit: str | None = None

    @property
    def seed(self) -> int | None:
        """From a folder `seed<i>`."""
        digits = self.name.rpartition("/")[2].removeprefix("seed")
        return int(digits) if digits.isdecimal() and self.name.endswith(f"seed{digits}") else None


def load_sae(source: str | Path, hookpoint: str | None = None, seed: int | None = None) -> Sae:
    """Loads an autoencoder of saejax, SAELens, sparsify, dictionary_learning or OpenAI.

    Args:
      source: A folder of one autoencoder, or a `.pt` file of OpenAI's for GPT-2; a folder that has
        such folders below it, as a run of saejax, of sparsify or of dictionary_learning; or
        `hub:owner/name[@revision]`, a repository of the Hugging Face hub with either, of which
        the chosen files are fetched.
      hookpoint: Chooses among several: a hook point (`layers.6.mlp`, SAELens'
        `blocks.6.hook_mlp_out`), any other folder's name (`trainer_0`), or a path below the source.
      seed: Chooses among several, by folders named `seed<i>`.

    Raises:
      InputError: If there is nothing to load, several and no choice (lists what there is), or a
        file is broken, hostile or not supported. Nothing in a file is executed.

    Example:
      >>> import tempfile, jax.numpy as jnp, saejax
      >>> sae = saejax.Sae(jnp.eye(2), jnp.zeros(2), jnp.eye(2), jnp.zeros(2), k=1)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     saejax.save_sae(sae, folder, format="sparsify")
      ...     saejax.load_sae(folder).w_dec.tolist()
      [[1.0, 0.0], [0.0, 1.0]]
    """
    chosen = choose(find(source), source, hookpoint, seed)
    if len(chosen) > 1:
        raise InputError(
            f"{source}: hookpoint={hookpoint}, seed={seed} names {len(chosen)} autoencoders; "
            f"choose one of: {_listed(chosen)}"
        )
    sae = load_found(source, chosen[0])
    for name, wanted in (("hookpoint", hookpoint), ("seed", seed)):
        own = dict(sae.metadata).get(name)
        if chosen[0].name == "" and None not in (wanted, own) and own != wanted:
            raise InputError(f"{source}: {name}={wanted!r} was asked for, and it is of {own!r}")
    return sae


def save_sae(sae: Sae, path: str | Path, *, format: str = "saelens") -> None:
    """Saves an autoencoder as a folder that another library loads as is.

    Example:
      >>> import os, tempfile, jax.numpy as jnp, saejax
      >>> sae = saejax.Sae(jnp.eye(2), jnp.zeros(2), jnp.eye(2), jnp.zeros(2), k=1)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     saejax.save_sae(sae, folder)
      ...     sorted(os.listdir(folder))
      ['cfg.json', 'sae_weights.safetensors']

    Args:
      sae: The autoencoder.
      path: The folder.
      format: "saelens" (6 and later, which holds every kind), "sparsify" or "dictionary_learning".

    Raises:
      InputError: For another format, or one that has no such autoencoder.
    """
    if format not in FORMATS:
        raise InputError(f"format={format!r}: choose {', '.join(FORMATS)}")
    FORMATS[format].save(sae, Path(path))


def find(source: str | Path) -> list[Found]:
    """All autoencoders of a source, sorted by name; see `load_sae`.

    Raises:
      InputError: If there is none.
    """
    if str(source).startswith(hub.SCHEME):
        commit, names = hub.list_files(str(source))
        found = _among(names, commit)
    else:
        root = Path(source).expanduser()
        if not root.exists():
            raise InputError(f"{source}: does not exist; give a folder or {hub.SCHEME}owner/name")
        found = _among(_files(root), None)
        # What is not complete is named when it is loaded.
        found = found or [Found("", name) for name, m in _READABLE.items() if m.is_here(root)][:1]
    if not found:
        files = "; ".join(f"{name}: {' and '.join(_files_of(name))}" for name in FORMATS)
        raise InputError(
            f"{source}: no autoencoder here; looked for folders, up to {_DEPTH} deep, with the "
            f"files of {files}"
        )
    return found


def choose(
    found: Iterable[Found], source: str | Path, hookpoint: str | None, seed: int | None
) -> list[Found]:
    """Those of a hook point and a seed.

    Raises:
      InputError: If there is none; lists what there is.
    """
    found = list(found)
    chosen = [
        one
        for one in found
        if (hookpoint is None or _is_at(one.name, hookpoint)) and seed in (None, one.seed)
    ]
    # A folder of one autoencoder needs no choice, and has no names to choose by.
    if not chosen and [one.name for one in found] == [""]:
        return found
    if not chosen:
        raise InputError(
            f"{source}: hookpoint={hookpoint}, seed={seed} names no autoencoder; choose one of: "
            f"{_listed(found)}"
        )
    return chosen


def load_found(source: str | Path, one: Found) -> Sae:
    """Loads one of `find`, from the hub if need be.

    Raises:
      InputError: As `load_sae`.
    """
    module = _READABLE[one.format]
    if one.commit is None:
        return module.load(Path(source).expanduser() / one.name)
    files = (*_files_of(one.format), saelens_training.SCALER)
    names = [str(PurePosixPath(one.name) / file) for file in files]
    return module.load(hub.fetch(str(source), one.commit, names) / one.name)


def _among(names: Iterable[str], commit: str | None) -> list[Found]:
    """Folders that hold all files of a format."""
    folders: dict[str, set[str]] = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        folders.setdefault(folder, set()).add(file)
    return [
        Found(folder, name, commit)
        for folder, files in sorted(folders.items())
        for name in FORMATS
        if files.issuperset(_files_of(name))
    ]


def _files_of(format: str) -> tuple[str, str]:
    """What a folder of a format holds."""
    return FORMATS[format].CONFIG, FORMATS[format].WEIGHTS


def _files(root: Path) -> list[str]:
    """Files below a folder, by their paths below it."""
    names = []
    for folder, folders, files in os.walk(root):
        below = Path(folder).relative_to(root)
        if len(below.parts) >= _DEPTH:
            folders.clear()
        folders[:] = [name for name in folders if name not in _SKIPPED]
        names += [(below / name).as_posix() for name in files]
    return names


def _is_at(name: str, hookpoint: str) -> bool:
    parts = name.split("/")
    known_as = {hookpoint, saelens_hooks.hook_name(hookpoint)}
    return bool(known_as.intersection(parts)) or f"/{name}/".endswith(f"/{hookpoint}/")


def _listed(found: list[Found]) -> str:
    most = 20
    names = [one.name or "." for one in found]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
