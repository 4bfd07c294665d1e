"""The documentation: its commands, its code, its links to README.md; and how its pages are made."""

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import saejax
from saejax.config_json import flatten

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = {path.relative_to(ROOT).as_posix(): path.read_text() for path in PAGES}
FIELDS = {*flatten(saejax.Config())}


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text):
    """Script and flags of every call of Python in a shell block."""
    for block in blocks(text, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "python" in words:
                start = words.index("python")
                yield words[start + 1], words[start + 2 :]


def defined_flags(script):
    """The flags of a script by their text, and those of the neighbour that it takes over."""
    source = script.read_text()
    found = set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', source))
    if "define_config()" in source:
        found.add("config")
    for neighbour in re.findall(r"adopt_module_key_flags\((\w+)\)", source):
        found |= defined_flags(script.with_name(f"{neighbour}.py"))
    if 'several="allowed"' in source:
        found |= defined_flags(ROOT / "saejax" / "distributed.py")
    return found


@pytest.mark.parametrize("page", TEXT)
def test_commands_have_scripts_and_flags_that_exist(page):
    for script, words in commands(TEXT[page]):
        assert (ROOT / script).is_file(), script
        if not script.startswith("examples/"):
            flags = defined_flags(ROOT / script)
            for word in words:
                check_flag(word, flags)


def check_flag(word, flags):
    flag, _, value = word.removeprefix("--").partition("=")
    if flag.startswith("config."):
        assert flag.removeprefix("config.") in FIELDS, word
    else:
        assert {flag, flag.removeprefix("no")} & flags, word
    if flag == "config":
        assert (ROOT / value).is_file(), word
    if flag == "vary":
        assert value.partition("=")[0] in FIELDS, word


def test_there_are_commands():
    assert sum(len(list(commands(text))) for text in TEXT.values()) > 20


@pytest.mark.parametrize("page", TEXT)
def test_python_names_what_exists(page):
    for block in blocks(TEXT[page], "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("saejax."):
                found = saejax
                for name in ast.unparse(node).split(".")[1:]:
                    found = getattr(found, name)


@pytest.mark.parametrize("page", TEXT)
def test_sections_of_the_readme_exist(page):
    for heading in re.findall(r"<!-- README: (.+) -->", TEXT[page]):
        assert f"\n## {heading}\n" in TEXT["README.md"], heading


@pytest.mark.parametrize("name", saejax.__all__)
def test_public_names_have_examples_and_a_place_in_the_reference(name):
    documented = getattr(saejax, name)
    assert "Example:" in documented.__doc__
    of_its_own = {"Config": "config", "analysis": "analysis"}
    page = TEXT[f"docs/reference/{of_its_own.get(name, 'saejax')}.md"]
    assert re.search(rf"^::: saejax\.(\w+\.)*{name}\b|FIELDS", page, re.MULTILINE)


@pytest.fixture(scope="module")
def generate():
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sections_and_their_links(generate):
    text = (
        "# T\n\n## One\n\nsee [c](configs/a.py), [s](x/y.svg), [w](https://w.org)\n\n## Two\nno\n"
    )
    section = generate.readme_section(text, "One")
    assert generate.relinked(section) == (
        "see [c](/configs/a.md), [s](/files/x/y.svg), [w](https://w.org)"
    )
    with pytest.raises(Exception, match="no section '## Three'"):
        generate.readme_section(text, "Three")


def test_every_field_has_a_row_and_a_meaning(generate):
    tables = generate.config_fields((ROOT / "saejax" / "config.py").read_text())
    rows = re.findall(r"^\| `(\w+)` \| `[^|]+` \| `[^|]+` \| (.*) \|$", tables, re.MULTILINE)
    assert {field.split(".")[-1] for field in FIELDS} <= {name for name, _ in rows}
    # The sizes of the mesh are told above their table.
    assert {name for name, meaning in rows if not meaning} == {"seed", "data", "latent"}


def test_flags_are_those_of_help(generate):
    script = ROOT / "experiments" / "seed_overlap.py"
    told = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True).stdout
    assert set(re.findall(r"^  --(?:\[no\])?(\w+):", told, re.MULTILINE)) == {
        *generate.script_flags(script)
    }


def test_formulas_and_docstrings(generate):
    made = generate.with_math("a $x_1$\n\n```sh\necho $HOME $PATH\n```\n\n```math\ny^2\n```\n")
    assert made.count("<math") == 2
    assert "echo $HOME $PATH" in made
    assert generate.prose("One *two* `a_b`.\n\n    code *x*\n\nTime: 1 s\nExpect 2.") == (
        "One &#42;two&#42; `a_b`.\n\n```text\ncode *x*\n```\n\nTime: 1 s\n\nExpect 2."
    )


def test_the_build_is_refused_what_it_should_not_load(generate):
    for load in ('<script src="https://x.org/a.js">', '<link rel="s" href="//x.org/a.css">'):
        assert generate._OUTSIDE.search(load)
    assert not generate._OUTSIDE.search('<a href="https://x.org">x</a><img src="a.svg">')
