"""Docstrings made into what Griffe and Markdown, which make the reference of them, understand."""

import re

import griffe

# Code is left as it is; elsewhere these signs would be Markdown's or HTML's.
_CODE = re.compile(r"(`[^`]*`)")
_SIGNS = re.compile(r"[*<\[]")
_SECTION = re.compile(r"[A-Z]\w+:$")


class HouseStyle(griffe.Extension):
    """Griffe calls the section "Examples", and lets prose be Markdown; here it is plain text."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Rewrites the docstring of each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(docstring: str) -> str:
    """Escapes prose, and renames "Example:".

    Code is what is indented by four, before the first section, and what follows a `>>>` up to an
    empty line.
    """
    lines, in_section, in_doctest = [], False, False
    for line in docstring.split("\n"):
        in_section = in_section or _SECTION.match(line) is not None
        in_doctest = line.strip() != "" and (in_doctest or line.lstrip().startswith(">>>"))
        if in_doctest or (line.startswith("    ") and not in_section):
            lines.append(line)
            continue
        parts = _CODE.split(line)
        parts[::2] = [_SIGNS.sub(lambda sign: f"&#{ord(sign[0])};", part) for part in parts[::2]]
        lines.append("Examples:" if line == "Example:" else "".join(parts))
    return "\n".join(lines)
