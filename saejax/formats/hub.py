"""Autoencoders on the Hugging Face hub: what a repository holds, fetching one, publishing a folder.

huggingface_hub's environment variables count: HF_TOKEN, HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE.
"""

import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub import errors as hub_errors

from saejax.errors import InputError
from saejax.sources import HUB_ID, explain_hub_errors

SCHEME = "hub:"


def parse(source: str) -> tuple[str, str | None]:
    """Repository and revision of `hub:owner/name` or `hub:owner/name@revision`.

    Raises:
      InputError: For another form.
    """
    found = HUB_ID.fullmatch(source.removeprefix(SCHEME))
    if not source.startswith(SCHEME) or found is None:
        raise InputError(f"{source!r} is not of the form {SCHEME}owner/name[@revision]")
    return found["name"], found["revision"]


def list_files(source: str) -> tuple[str, list[str]]:
    """Commit and file names of a repository; without a network, of the copy in the cache.

    Raises:
      InputError: If it cannot be read, or has a file name that leads out of its folder.
    """
    repository, revision = parse(source)
    print(f"looking up {repository} on the Hugging Face hub", file=sys.stderr)
    with explain_hub_errors(source):
        try:
            info = HfApi().model_info(repository, revision=revision)
        except hub_errors.HfHubHTTPError:
            raise
        except (hub_errors.HTTPError, OSError):  # pyright: ignore[reportPrivateImportUsage]
            copy = Path(snapshot_download(repository, revision=revision, local_files_only=True))
            names = [path.relative_to(copy).as_posix() for path in copy.rglob("*")]
            return copy.name, sorted(names)
    names = sorted(file.rfilename for file in info.siblings or ())
    for name in names:
        if not _is_inside(name):
            raise InputError(f"{source}: file name {name!r} leads out of the repository; refused")
    return str(info.sha), names


def fetch(source: str, commit: str, names: Sequence[str]) -> Path:
    """Folder that holds these files of a commit, fetched once into huggingface_hub's cache.

    Raises:
      InputError: If they cannot be fetched.
    """
    repository, revision = parse(source)
    with explain_hub_errors(source):
        # By the name that was given, which the cache remembers for times without a network.
        for which in (revision, commit):
            folder = Path(snapshot_download(repository, revision=which, allow_patterns=list(names)))
            # Another, if somebody has pushed since the files were listed.
            if folder.name == commit:
                break
    return folder


def push(folder: Path, repository: str, *, private: bool) -> str:
    """Makes the repository if there is none, uploads a folder as one commit, returns its address.

    Raises:
      InputError: For a bad name, a missing or read-only token, or a hub that cannot be reached.
    """
    if not HUB_ID.fullmatch(repository) or "@" in repository:
        raise InputError(f"--push_to_hub={repository!r} is not of the form owner/name")
    api = HfApi()
    with explain_hub_errors(repository):
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            done = api.upload_folder(
                repo_id=repository, folder_path=folder, commit_message="Upload from saejax"
            )
        except hub_errors.HfHubHTTPError as error:
            if error.response.status_code not in (401, 403):
                raise
            raise InputError(
                f"--push_to_hub={repository}: the hub refuses; set HF_TOKEN to a token that may "
                "write there, or run `hf auth login`"
            ) from None
    return str(done.commit_url)


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not (
        path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or not name
    )
