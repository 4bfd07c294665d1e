"""Yes or no for each window, read from whatever a language model writes."""

import re

_YES = frozenset(("1", "true", "yes"))
_WORD = re.compile(r"\b(?:yes|no|true|false|[01])\b")
# "window [1]: no" is no list.
_LIST = re.compile(r"\[([^\[\]]*)\](?!\s*:)")
# "example 1: yes", "2. no", '"window_3": true': a number, a colon or the like, a verdict.
_NUMBERED = re.compile(r"(\d+)[\"'`*_)\]]*\s*[:.)=-]+\s*[\"'`*]*(yes|no|true|false|[01])\b")


def parse(text: str, count: int) -> list[bool] | None:
    r"""The verdicts in a reply on `count` windows, or None if they are not clear.

    Read are, in this order: a list in brackets of 1 and 0, true and false or yes and no (JSON,
    Python, also within code fences and prose); a verdict for each number from 1, or from 0, as in
    "Example 1: yes"; a reply of nothing but `count` verdicts; of one window, a reply that begins
    with one. Several lists must agree; a list of another length counts for nothing.

    Example:
      >>> parse('```json\n{"answers": [1, 0]}\n```', 2)
      [True, False]
      >>> parse("Example 1: no\nExample 2: yes, twice", 2)
      [False, True]
      >>> parse("[1, 0, 1]", 2) is None
      True
    """
    text = text.lower().strip()
    lists = [_verdicts(inner) for inner in _LIST.findall(text)]
    found = {tuple(verdicts) for verdicts in lists if verdicts and len(verdicts) == count}
    if found:
        return list(found.pop()) if len(found) == 1 else None
    if any(lists):
        return None
    numbered = _NUMBERED.findall(text)
    numbers = [int(number) for number, _ in numbered]
    if sorted(numbers) in (list(range(1, count + 1)), list(range(count))):
        return [verdict in _YES for _, verdict in sorted(numbered, key=lambda pair: int(pair[0]))]
    if (verdicts := _verdicts(text)) and len(verdicts) == count:
        return verdicts
    if count == 1 and (word := _WORD.match(text)):
        return [word[0] in _YES]
    return None


def _verdicts(text: str) -> list[bool] | None:
    """The verdicts of a text that consists of them, or None."""
    words = re.split(r"[\s,;\"'`.]+", text.strip(" \t\n,;\"'`."))
    return [word in _YES for word in words] if all(map(_WORD.fullmatch, words)) else None
