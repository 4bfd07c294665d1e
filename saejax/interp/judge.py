"""Verdicts of a language model on windows, given an explanation: detection and fuzzing."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from saejax.errors import InputError
from saejax.interp.chat import Message, Request
from saejax.interp.client import Client
from saejax.interp.questions import Question
from saejax.interp.replies import parse
from saejax.interp.score_prompts import DETECTION, DETECTION_SHOTS, FUZZING, FUZZING_SHOTS
from saejax.progress import Progress

_PROMPTS = {
    "detection": (DETECTION, DETECTION_SHOTS),
    "fuzzing": (FUZZING, FUZZING_SHOTS),
}

# Windows in a request (Paulo et al. 2024, arXiv 2410.13928, section 3.2).
BATCH = 5

# Of an answer: five verdicts take 15 to 45, the rest is for models that say more than asked.
MAX_TOKENS = 200


class Task(NamedTuple):
    """An explanation and the windows to judge by it, of `questions.detection` or `fuzzing`."""

    explanation: str
    questions: Sequence[Question]


def requests(
    tasks: Sequence[Task],
    kind: Literal["detection", "fuzzing"],
    *,
    batch: int = BATCH,
    max_tokens: int = MAX_TOKENS,
) -> list[Request]:
    """The first round of `judge`: a request for every `batch` questions, the last may have fewer.

    Raises:
      InputError: If `batch` is below 1.
    """
    return _requests(tasks, _places(tasks, batch), kind, max_tokens)


def judge(
    client: Client,
    tasks: Sequence[Task],
    kind: Literal["detection", "fuzzing"],
    *,
    batch: int = BATCH,
    max_tokens: int = MAX_TOKENS,
) -> list[list[bool | None]]:
    """Whether each window fits its explanation, in the model's eyes.

    A batch whose reply cannot be read is asked once more, one window at a time.

    Args:
      client: Whom to ask.
      tasks: Explanations and their questions.
      kind: "detection": does the window fit? "fuzzing": are its marks right?
      batch: Windows in a request.
      max_tokens: Room for an answer.

    Returns:
      For each task a verdict for each question; None where no reply could be read.

    Raises:
      InputError: As `Client.ask_all`; if `batch` is below 1.
    """
    verdicts: list[list[bool | None]] = [[None] * len(task.questions) for task in tasks]
    batches = _places(tasks, batch)
    for label in (kind, f"{kind}, one by one"):
        asked = _requests(tasks, batches, kind, max_tokens)
        with Progress(label, total=len(asked), unit="requests") as progress:
            answers = client.ask_all(asked, progress=progress)
        unread = []
        for (t, places), answer in zip(batches, answers, strict=True):
            found = parse(answer.said, len(places))
            if found is None:
                unread += [(t, [q]) for q in places] if len(places) > 1 else []
            else:
                for q, verdict in zip(places, found, strict=True):
                    verdicts[t][q] = verdict
        batches = unread
        if not batches:
            break
    return verdicts


def _places(tasks: Sequence[Task], batch: int) -> list[tuple[int, list[int]]]:
    """The questions of each request: the number of the task, and theirs in it."""
    if batch < 1:
        raise InputError(f"batch={batch} must be at least 1")
    return [
        (t, list(range(start, min(start + batch, len(task.questions)))))
        for t, task in enumerate(tasks)
        for start in range(0, len(task.questions), batch)
    ]


def _requests(
    tasks: Sequence[Task], batches: Sequence[tuple[int, list[int]]], kind: str, max_tokens: int
) -> list[Request]:
    system, shots = _PROMPTS[kind]
    head = [Message("system", system)]
    for explanation, windows, answers in shots:
        head.append(Message("user", _shown(explanation, windows)))
        head.append(Message("assistant", f'{{"answers": {list(answers)}}}'))
    made = []
    for t, places in batches:
        windows = [tasks[t].questions[q].text for q in places]
        last = Message("user", _shown(tasks[t].explanation, windows))
        made.append(Request((*head, last), max_tokens, _schema(len(places))))
    return made


def _shown(explanation: str, windows: Sequence[str]) -> str:
    lines = [f"Window {number}: {text}" for number, text in enumerate(windows, start=1)]
    return "\n".join([f"Description: {explanation}", "", *lines])


def _schema(count: int) -> dict[str, object]:
    """JSON schema of an answer: 0 or 1 for each window."""
    verdict = {"type": "integer", "enum": [0, 1]}
    answers = {"type": "array", "items": verdict, "minItems": count, "maxItems": count}
    return {
        "type": "object",
        "properties": {"answers": answers},
        "required": ["answers"],
        "additionalProperties": False,
    }
