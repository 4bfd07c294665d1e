"""The shape of the package: import order, file lengths, and what `import saejax` drags in."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A module imports from the names before its own, and from its own subpackage.
ORDER = (
    "errors",
    "files",
    "config",
    "config_check",
    "config_json",
    "progress",
    "memory",
    "sources",
    "processes",
    "rundir",
    "mesh",
    "data",
    "lm",
    "sae",
    "train",
    "matching",
    "analysis",
    "interp",
    "formats",
    "report",
    "activations",
    "run",
    "analyses",
    "sweep",
    "sweep_results",
    "plan",
    "last_words",
    "peers",
    "distributed",
    "cli",
)
# `formats` comes after `analysis`, which reads other people's autoencoders through this alone.
ROOT_IMPORTS = {("analysis", "load_sae")}
# About 300 lines are meant; the rest is slack for a docstring.
MAX_LINES = 320


def module_name(path: Path) -> str:
    """`saejax/sae/init.py` -> `saejax.sae.init`; a package ends in `.__init__`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imported_names(source: str, module: str) -> list[str]:
    """Every name of saejax that a module imports, anywhere in its text, dotted from the root."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # One dot is the package the module lies in, each further dot the one above.
            start = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            names += [f"{base}.{alias.name}" for alias in node.names]
    return [name for name in names if name.split(".")[0] == "saejax"]


def violations(source: str, module: str) -> list[str]:
    """The imports that break the order, as sentences."""
    own = module.split(".")[1]
    if own not in ORDER:
        return [f"{module}: add {own!r} to ORDER, in the place where it belongs"]
    found = []
    for name in imported_names(source, module):
        target = name.split(".")[1] if "." in name else ""
        if target not in ORDER:
            if (own, target) not in ROOT_IMPORTS:
                found.append(f"{module} imports {name}: saejax/__init__.py comes last")
        elif ORDER.index(target) > ORDER.index(own):
            found.append(f"{module} imports {name}: {target!r} comes after {own!r}")
    return found


MODULES = sorted((ROOT / "saejax").rglob("*.py"))
INNER_MODULES = [path for path in MODULES if path != ROOT / "saejax" / "__init__.py"]
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))


@pytest.mark.parametrize("path", INNER_MODULES, ids=module_name)
def test_modules_import_only_from_earlier_ones(path):
    assert violations(path.read_text(), module_name(path)) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("saejax.config", "from saejax.errors import InputError"),
        ("saejax.sae.sae", "import saejax.lm.load, numpy"),
        ("saejax.sae.losses", "from saejax.sae import sparse"),
        ("saejax.sae.losses", "from . import sparse\nfrom .sae import Sae"),
        ("saejax.sae.__init__", "from .sae import Sae"),
        ("saejax.sae.losses", "from .. import config\nfrom ..data.store import Store"),
        ("saejax.analysis.compare", "def f():\n  from saejax import load_sae"),
        ("saejax.cli", "from saejax.report import page"),
    ],
)
def test_the_order_allows(module, source):
    assert violations(source, module) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("saejax.errors", "from saejax.config import Config"),
        ("saejax.errors", "from .config import Config"),
        ("saejax.sae.sae", "import numpy, saejax.matching.exact as exact"),
        ("saejax.sae.sae", "from saejax import train"),
        ("saejax.sae.sae", "from .. import train"),
        ("saejax.sae.sae", "from ..train.step import step"),
        ("saejax.sae.__init__", "from ..train import step"),
        ("saejax.sae.sae", "def f():\n  if True:\n    from saejax.train import step"),
        ("saejax.sae.sae", "import saejax"),
        ("saejax.sae.sae", "from saejax import load_sae"),
        ("saejax.analysis.compare", "from saejax.formats import sparsify"),
        ("saejax.helpers", ""),
    ],
)
def test_the_order_forbids(module, source):
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize("path", MODULES + EXPERIMENTS, ids=module_name)
def test_files_stay_short(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


def test_import_saejax_leaves_heavy_packages_alone():
    code = (
        "import sys, saejax; "
        "print([name for name in ('torch', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
