"""A hook of MkDocs: what the repository says elsewhere becomes part of the site as it is built.

- `<!-- README: Heading -->` in a page stands for that section of README.md.
- Every configuration and every script gets a page: its docstring, and its source or its flags.
- `<!-- PAGES: folder -->` stands for links to these, `<!-- EXAMPLE: name -->` for the code of
  examples/name.py, `<!-- FIELDS -->` for the fields of saejax/config.py and what is said of each.
- `$x$` and blocks fenced as math become MathML, which browsers draw by themselves.
"""

import ast
import re
import textwrap
from pathlib import Path

import latex2mathml.converter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).resolve().parents[1]
# Where the site has what README.md links to; configurations and pictures are found by themselves.
_PLACES = {
    "saejax/config.py": "/reference/config.md",
    "saejax/sae/architectures": "/method/training.md",
    "examples": "/guides/examples.md",
}
_README = re.compile(r"^<!-- README: (.+) -->$", re.MULTILINE)
_EXAMPLE = re.compile(r"<!-- EXAMPLE: (\w+) -->")
_PAGES = re.compile(r"<!-- PAGES: (\w+) -->")
# What configurations say of their cost begins a line.
_PARAGRAPH = re.compile(r"\n\n|\n(?=(?:Hardware|Time|Expect)\b)")
_LINK = re.compile(r"\]\((?!https?:|#|/)([^)]+)\)")
_CODE = re.compile(r"(`[^`]*`)")
_SIGNS = re.compile(r"[*_<\[|]")
_FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_INLINE_MATH = re.compile(r"\$([^$]+)\$")
_OUTSIDE = re.compile(r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=\"(?:https?:)?//")


def readme_section(text: str, heading: str) -> str:
    """What stands under `## heading`, as Markdown.

    Raises:
      PluginError: If there is no such heading.
    """
    found = re.search(
        rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL
    )
    if found is None:
        raise PluginError(f"README.md has no section '## {heading}'; name one of those it has")
    return found[1].strip()


def relinked(markdown: str) -> str:
    """Relative links of README.md as they are on the site."""

    def place(match: re.Match[str]) -> str:
        path = match[1]
        if path.startswith("configs/"):
            return f"](/{path.removesuffix('.py')}.md)"
        if path.endswith((".svg", ".json")):
            return f"](/files/{path})"
        return f"]({_PLACES.get(path, path)})"

    return _LINK.sub(place, markdown)


def prose(docstring: str) -> str:
    """A docstring as Markdown: paragraphs with indented lines stay as they are laid out."""
    parts = []
    for paragraph in _PARAGRAPH.split(docstring.strip()):
        if re.search(r"^ ", paragraph, re.MULTILINE) or re.match(r"[-*] ", paragraph):
            parts.append(f"```text\n{textwrap.dedent(paragraph)}\n```")
        else:
            parts.append(_plain(paragraph))
    return "\n\n".join(parts)


def _plain(text: str) -> str:
    """Text without Markdown of its own but for `code`."""
    parts = _CODE.split(text)
    parts[::2] = [_SIGNS.sub(lambda sign: f"&#{ord(sign[0])};", part) for part in parts[::2]]
    return "".join(parts)


def script_flags(path: Path) -> dict[str, str]:
    """The flags that a script defines or takes over from its neighbour, with their help."""
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        called, arguments = node.func.attr, node.args
        if called.startswith("DEFINE_"):
            found[ast.literal_eval(arguments[0])] = _help(arguments[-1])
        elif called == "define_config":
            found["config"] = "Configuration file; fields are set as `--config.sae.k=32`."
        elif called == "adopt_module_key_flags":
            found |= script_flags(path.with_name(f"{ast.unparse(arguments[0])}.py"))
        elif called == "run" and any(keyword.arg == "several" for keyword in node.keywords):
            found |= script_flags(path.parents[1] / "saejax" / "distributed.py")
    return found


def _help(node: ast.expr) -> str:
    """The text of a help; where a list of names is put in, "..."."""
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values
        )
    return str(ast.literal_eval(node))


def config_fields(source: str) -> str:
    """Tables of the fields of each dataclass: name, type, default, and the comment above it."""
    lines = source.split("\n")
    tables = []
    for cls in ast.parse(source).body:
        if not isinstance(cls, ast.ClassDef):
            continue
        tables.append(f"## {cls.name}\n\n{prose(ast.get_docstring(cls) or '')}\n")
        tables.append("| field | type | default | meaning |\n|---|---|---|---|")
        said = ""
        for field in cls.body:
            if isinstance(field, ast.AnnAssign) and field.value is not None:
                # Fields that have no comment share the one above.
                said = _comment_above(lines, field.lineno - 1) or said
                kind, default = ast.unparse(field.annotation), ast.unparse(field.value)
                meaning = _plain(said)
                if kind.endswith("Config"):
                    default, meaning = f"{kind}()", f"See [{kind}](#{kind.lower()})."
                name = ast.unparse(field.target)
                tables.append(f"| `{name}` | `{kind}` | `{default}` | {meaning} |")
        tables.append("")
    return "\n".join(tables)


def _comment_above(lines: list[str], number: int) -> str:
    """The comment that ends above a line, in one line."""
    first = number
    while lines[first - 1].strip().startswith("#"):
        first -= 1
    return " ".join(line.strip(" #") for line in lines[first:number])


def with_math(markdown: str) -> str:
    """Markdown with its formulas as MathML; code is left alone."""
    parts = _FENCED.split(markdown)
    for i, part in enumerate(parts):
        if part.startswith("```math\n"):
            latex = part.removeprefix("```math\n").removesuffix("```").strip()
            formula = latex2mathml.converter.convert(latex, display="block")
            parts[i] = f'<div class="math">{formula}</div>'
        elif not part.startswith("```"):
            parts[i] = _INLINE_MATH.sub(
                lambda match: f"<span>{latex2mathml.converter.convert(match[1])}</span>", part
            )
    return "".join(parts)


def _script_page(path: Path) -> str:
    name = path.relative_to(ROOT)
    rows = "\n".join(
        f"| `--{flag}` | {_plain(said)} |" for flag, said in script_flags(path).items()
    )
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    title = f"# {path.stem}\n\n`{name}`"
    return f"{title}\n\n{prose(docstring)}\n\n| flag | |\n|---|---|\n{rows}\n"


def _config_page(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    title = f"# {path.stem}\n\n`{path.relative_to(ROOT)}`"
    return f"{title}\n\n{prose(docstring)}\n\n{_code(path)}\n"


def _code(path: Path) -> str:
    """A Python file below its docstring."""
    code = path.read_text().split('"""', 2)[2].strip()
    return f"```python\n{code}\n```"


def scripts() -> list[Path]:
    """The scripts that users call, not the modules beside them."""
    found = sorted((ROOT / "experiments").glob("*.py"))
    found += sorted((ROOT / "experiments" / "benchmarks").glob("*.py"))
    return [path for path in found if "cli.run(main)" in path.read_text()]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made of the sources, and the pictures of README.md."""

    def add(uri: str, content: str) -> None:
        files.append(File.generated(config, uri, content=content))

    for path in sorted((ROOT / "configs").glob("*.py")):
        add(f"configs/{path.stem}.md", _config_page(path))
    for path in scripts():
        add(
            f"scripts/{path.relative_to(ROOT / 'experiments').with_suffix('.md')}",
            _script_page(path),
        )
    for name in sorted(set(_LINK.findall((ROOT / "README.md").read_text()))):
        if name.endswith((".svg", ".json")):
            files.append(File.generated(config, f"files/{name}", abs_src_path=str(ROOT / name)))
    add("changelog.md", (ROOT / "CHANGELOG.md").read_text())
    add("css/pygments.css", HtmlFormatter(style="default").get_style_defs(".highlight"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Puts in sections of README.md, fields, lists of pages, and formulas."""
    del page, config
    readme = (ROOT / "README.md").read_text()
    markdown = with_math(markdown)
    markdown = _README.sub(lambda match: relinked(readme_section(readme, match[1])), markdown)
    if "<!-- FIELDS -->" in markdown:
        source = (ROOT / "saejax" / "config.py").read_text()
        markdown = markdown.replace("<!-- FIELDS -->", config_fields(source))
    markdown = _EXAMPLE.sub(lambda match: _code(ROOT / "examples" / f"{match[1]}.py"), markdown)
    return _PAGES.sub(lambda match: _list(files, match[1]), markdown)


def _list(files: Files, folder: str) -> str:
    """Links to the pages of a folder, with the first sentence of each."""
    lines = []
    for file in files.documentation_pages():
        if file.src_uri.startswith(f"{folder}/") and file.generated_by:
            name, text = file.content_string.split("\n\n")[1:3]
            lines.append(f"- [{name}](/{file.src_uri}): {' '.join(text.split())}")
    return "\n".join(lines)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuses a page that loads something from another site."""
    del config
    if found := _OUTSIDE.search(output):
        raise PluginError(f"{page.file.src_uri} loads from elsewhere: {found[0]}")
    return output
