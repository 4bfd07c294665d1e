"""Explanations of chosen latents and verdicts on them: by a set of tokens, and by a model."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from saejax.errors import InputError
from saejax.interp import explain, judge, token_set
from saejax.interp.chat import Answer, Request
from saejax.interp.client import Client, Estimate
from saejax.interp.judge import Task
from saejax.interp.subjects import KINDS, Settings, Subject
from saejax.progress import Progress

# Stands for an explanation that is not made yet, in estimates: a sentence of about twenty words.
_LIKELY_EXPLANATION = "x" * 120

Verdicts = list[bool | None]


class Explained(NamedTuple):
    """What became of one latent.

    Attributes:
      explanation: None if there is none.
      problem: Why: "refused", "empty", "truncated", "failed: ..." or "unparsable".
      verdicts: By kind, on the questions of the latent in their order; a kind that was not asked
        is missing.
      cosines: Of the explanation with the windows of detection, see `saejax.interp.cosines`; None
        if no encoder was asked, or there is no explanation.
    """

    explanation: str | None
    problem: str
    verdicts: Mapping[str, Verdicts]
    cosines: Sequence[float] | None = None


class Outcome(NamedTuple):
    """What a model said, latent by latent, and what ended it early.

    Attributes:
      latents: As many as there are subjects; empty if the explanations were not finished.
      missing: By stage, why it is not done: "explain", "detection", "fuzzing".
    """

    latents: list[Explained]
    missing: dict[str, str]


def baseline(subjects: Sequence[Subject]) -> list[Explained]:
    """Explains every latent by a set of tokens, see `saejax.interp.token_set`."""
    made = []
    for subject in subjects:
        tokens = token_set.token_set(subject.explain)
        verdicts = {
            "detection": token_set.detect(tokens, subject.questions["detection"]),
            "fuzzing": token_set.fuzz(tokens, subject.questions["fuzzing"]),
        }
        made.append(Explained(tokens.explanation, "", verdicts))
    return made


def plan(
    explainer: Client, scorer: Client, subjects: Sequence[Subject], settings: Settings
) -> dict[str, Estimate]:
    """What `ask` would send, by stage; sends nothing.

    Questions about latents without a cached explanation are counted with one of 120 characters.
    """
    asked = _explain_requests(subjects, settings)
    stages = {"explain": explainer.estimate(asked)}
    answers = _cached(explainer, asked)
    unread = [n for n, answer in enumerate(answers) if answer and explain.is_unread(answer)]
    if unread:
        again = _second_requests([subjects[n] for n in unread], settings)
        stages["explain again"] = explainer.estimate(again)
        for n, answer in zip(unread, _cached(explainer, again), strict=True):
            answers[n] = answer
    explanations = [explain.parse(answer) if answer else _LIKELY_EXPLANATION for answer in answers]
    room = judge.MAX_TOKENS + settings.reasoning_tokens
    for kind in KINDS:
        tasks = _tasks(subjects, explanations, kind)
        stages[kind] = scorer.estimate(
            judge.requests(tasks, kind, batch=settings.batch, max_tokens=room)
        )
    return stages


def ask(
    explainer: Client, scorer: Client, subjects: Sequence[Subject], settings: Settings
) -> Outcome:
    """Has a model explain every latent, and judge the windows by the explanations.

    Answers are kept: asked again, only what is missing is sent. Where an endpoint fails as a whole,
    what was finished before is returned, and why the rest is missing.
    """
    try:
        answers = _explain(explainer, subjects, settings)
    except InputError as error:
        return Outcome([], {"explain": str(error)})
    explanations = [explain.parse(answer) for answer in answers]
    problems = [
        "" if explanation else answer.problem or "unparsable"
        for explanation, answer in zip(explanations, answers, strict=True)
    ]
    verdicts: list[dict[str, Verdicts]] = [{} for _ in subjects]
    missing: dict[str, str] = {}
    explained = [n for n, explanation in enumerate(explanations) if explanation]
    room = judge.MAX_TOKENS + settings.reasoning_tokens
    for kind in KINDS:
        tasks = _tasks(subjects, explanations, kind)
        try:
            found = judge.judge(scorer, tasks, kind, batch=settings.batch, max_tokens=room)
        except InputError as error:
            missing[kind] = str(error)
            continue
        for n, of_latent in zip(explained, found, strict=True):
            verdicts[n][kind] = of_latent
    return Outcome(list(map(Explained, explanations, problems, verdicts)), missing)


def _explain(explainer: Client, subjects: Sequence[Subject], settings: Settings) -> list[Answer]:
    """An answer for each latent, the second one where the first could not be read."""
    asked = _explain_requests(subjects, settings)
    with Progress("explain", total=len(asked), unit="requests") as progress:
        answers = explainer.ask_all(asked, progress=progress)
    unread = [n for n, answer in enumerate(answers) if explain.is_unread(answer)]
    if unread:
        again = _second_requests([subjects[n] for n in unread], settings)
        with Progress("explain, in JSON", total=len(again), unit="requests") as progress:
            second = explainer.ask_all(again, progress=progress)
        for n, answer in zip(unread, second, strict=True):
            answers[n] = answer
    return answers


def _cached(client: Client, requests: Sequence[Request]) -> list[Answer | None]:
    """The answers that are there already, None for the others; sends nothing."""
    known = [n for n, request in enumerate(requests) if client.estimate([request]).num_cached]
    answers: list[Answer | None] = [None] * len(requests)
    with Progress("read answers", total=len(known), unit="requests") as progress:
        found = client.ask_all([requests[n] for n in known], progress=progress)
    for n, answer in zip(known, found, strict=True):
        answers[n] = answer
    return answers


def _explain_requests(subjects: Sequence[Subject], settings: Settings) -> list[Request]:
    max_tokens = explain.MAX_TOKENS + settings.reasoning_tokens
    return explain.requests([subject.explain for subject in subjects], max_tokens=max_tokens)


def _second_requests(subjects: Sequence[Subject], settings: Settings) -> list[Request]:
    return explain.second_requests(
        [subject.explain for subject in subjects], reasoning_tokens=settings.reasoning_tokens
    )


def _tasks(
    subjects: Sequence[Subject], explanations: Sequence[str | None], kind: str
) -> list[Task]:
    """Of those that have an explanation."""
    return [
        Task(explanation, subject.questions[kind])
        for subject, explanation in zip(subjects, explanations, strict=True)
        if explanation
    ]
