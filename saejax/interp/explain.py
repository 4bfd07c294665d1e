"""Explanations of latents by a language model, from windows in which they fire.

References:
  Paulo et al. 2024, Automatically Interpreting Millions of Features in Large Language Models,
  arXiv 2410.13928, section 3.1. The prompts are our own.
"""

import json
import math
import re
from collections.abc import Sequence

from saejax.errors import InputError
from saejax.interp.chat import Answer, Message, Request
from saejax.interp.example import Example
from saejax.interp.explain_prompts import JSON_ONLY, SHOTS, SYSTEM
from saejax.interp.marks import active, show

# Room for the thoughts before the last line, and for an answer without any.
MAX_TOKENS = 500
_JSON_MAX_TOKENS = 150

# At most 300 characters: small models repeat themselves until a server that holds them to the
# schema ends the string.
_SCHEMA = {
    "type": "object",
    "properties": {"explanation": {"type": "string", "maxLength": 300}},
    "required": ["explanation"],
    "additionalProperties": False,
}
_JSON_ANSWER = re.compile(r'"explanation"\s*:\s*("(?:[^"\\]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*")')

# [EXPLANATION]: with or without brackets, bold marks, or the colon; what follows may begin on the
# next line.
_LAST_LINE = re.compile(
    r"(?:\[\W{0,3}EXPLANATION\W{0,3}\][*_]*\s*:?|^[^\w{]{0,5}EXPLANATION\W{0,3}:)[*_\s]*([^\n]*)",
    re.IGNORECASE | re.MULTILINE,
)


def requests(
    latents: Sequence[Sequence[Example]], *, max_tokens: int = MAX_TOKENS
) -> list[Request]:
    """One request a latent.

    Each window is shown with its active tokens marked (above 0.3 of its largest value) and with
    their values, ceil(10 v / v_max) of the latent's largest value in these windows, 1 to 10.

    Args:
      latents: For each latent, windows in which it fires.
      max_tokens: Room for an answer.

    Raises:
      InputError: If a latent has no window, or one in which it does not fire.
    """
    return [_request(examples, max_tokens) for examples in latents]


def is_unread(answer: Answer) -> bool:
    """Whether an answer has no explanation, but another try may: not refused, not failed."""
    return answer.problem in ("", "truncated", "empty") and parse(answer) is None


def second_requests(
    latents: Sequence[Sequence[Example]], *, reasoning_tokens: int = 0
) -> list[Request]:
    """For latents whose answer `is_unread`: the same question, to be answered in JSON alone.

    Args:
      latents: As for `requests`.
      reasoning_tokens: Room beyond the answer itself.
    """
    asked = []
    for first in requests(latents, max_tokens=_JSON_MAX_TOKENS + reasoning_tokens):
        *head, last = first.messages
        messages = (*head, Message("user", f"{last.content}\n\n{JSON_ONLY}"))
        asked.append(first._replace(messages=messages, schema=_SCHEMA))
    return asked


def parse(answer: Answer) -> str | None:
    """The explanation in an answer, or None if there is none.

    It is what follows the last "[EXPLANATION]:", whose brackets, colon and case may differ, or the
    "explanation" of a JSON object. An answer of a single line is taken as it is, unless it was cut
    off or refused.
    """
    text = answer.said
    if in_json := _JSON_ANSWER.findall(text):
        return " ".join(json.loads(in_json[-1], strict=False).split()) or None
    if found := _LAST_LINE.findall(text):
        line = found[-1]
    elif answer.problem or "\n" in text or text.startswith("{"):
        return None
    else:
        line = text
    return line.strip().strip("*_`\"' ").strip() or None


def _request(examples: Sequence[Example], max_tokens: int) -> Request:
    largest = max((float(example.values.max()) for example in examples), default=0.0)
    if not all(example.activating for example in examples) or largest <= 0:
        raise InputError(
            f"{len(examples)} windows, not all of them with values above 0: explain a latent from "
            "windows in which it fires"
        )
    shown = []
    for number, example in enumerate(examples, start=1):
        positions = active(example)
        strengths = [math.ceil(10 * float(example.values[i]) / largest) for i in positions]
        responses = ", ".join(
            f'("{show((example.tokens[i],))}", {strength})'
            for i, strength in zip(positions, strengths, strict=True)
        )
        shown.append(f"Window {number}: {show(example.tokens, positions)}\nResponses: {responses}")
    messages = [Message("system", SYSTEM)]
    for windows, reply in SHOTS:
        messages += [Message("user", windows), Message("assistant", reply)]
    messages.append(Message("user", "\n".join(shown)))
    return Request(tuple(messages), max_tokens)
