"""Many requests to a chat endpoint: a few at a time, none of them twice."""

import asyncio
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from saejax.errors import InputError
from saejax.files import explain_os_errors
from saejax.interp.answers import AnswerCache
from saejax.interp.chat import (
    Answer,
    Endpoint,
    RejectedError,
    Request,
    RetryError,
    read_answer,
)
from saejax.progress import Progress

if TYPE_CHECKING:
    from saejax.interp.calls import Caller

# Seconds before the second try, and the most between two tries.
_FIRST_WAIT, _LAST_WAIT = 1.0, 60.0

# So many calls that failed after all their tries, one after another, or that the server rejected
# while it took none, are no accident: the rest would fail too.
_MAX_FAILURES = 8

_ABOUT_SCHEMAS = re.compile(r"response_format|schema|grammar|structured|guided")


class Estimate(NamedTuple):
    """What requests would take, before anything is sent.

    Attributes:
      num_requests: Different requests.
      num_cached: Those with an answer in the cache.
      prompt_tokens: Of the others, about: one for every 3.3 characters.
      max_completion_tokens: Of the others, at most, if each is answered in one try.
      max_cost: USD for these, or None without prices.
    """

    num_requests: int
    num_cached: int
    prompt_tokens: int
    max_completion_tokens: int
    max_cost: float | None


class Usage(NamedTuple):
    """What was used so far.

    Attributes:
      num_calls: Calls that were answered.
      num_cached: Requests that the cache answered.
      num_retries: Tries that failed and were repeated.
      prompt_tokens: Of the calls.
      completion_tokens: Of the calls.
      cost: USD, or None without prices.
      problems: How many requests, cached ones too, were refused, empty, truncated or failed.
    """

    num_calls: int
    num_cached: int
    num_retries: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    problems: dict[str, int]


class Client:
    """Asks a chat endpoint, and keeps every answer on disk.

    Args:
      endpoint: The server.
      folder: Where answers are kept, a file each. Interrupted at any time, the same requests go on
        from there. Only calls that failed are made again.

    Raises:
      InputError: If the package openai is missing, or the folder cannot be made.
    """

    def __init__(self, endpoint: Endpoint, folder: Path):
        try:
            from saejax.interp.calls import Caller
        except ImportError:
            raise InputError(
                "asking a language model needs the package openai, which is not installed: run "
                "`pip install openai`"
            ) from None
        with explain_os_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._open = Caller
        self.endpoint = endpoint
        self._cache = AnswerCache(folder)
        self._counts: Counter[str] = Counter()
        self._problems: Counter[str] = Counter()
        self._failures = 0
        # When the next call may start, by time.monotonic: for the rate, and for Retry-After.
        self._next_start = self._paused_until = 0.0
        # What the endpoint turned out not to take.
        self._schemas = True
        self._token_field = "max_tokens"

    @property
    def usage(self) -> Usage:
        """What was used since this object was made."""
        tokens = self._counts["prompt"], self._counts["completion"]
        return Usage(
            self._counts["calls"],
            self._counts["cached"],
            self._counts["retries"],
            *tokens,
            self.endpoint.cost(*tokens),
            dict(self._problems),
        )

    def estimate(self, requests: Sequence[Request]) -> Estimate:
        """What `ask_all` would send."""
        unique = {self.endpoint.key(request): request for request in requests}
        new = [request for key, request in unique.items() if self._cache.get(key) is None]
        tokens = sum(r.prompt_tokens for r in new), sum(r.max_tokens for r in new)
        return Estimate(len(unique), len(unique) - len(new), *tokens, self.endpoint.cost(*tokens))

    def ask_all(self, requests: Sequence[Request], *, progress: Progress) -> list[Answer]:
        """The answer to each request, in their order.

        Equal requests are sent once. A refusal, an empty or truncated answer and a call that
        failed in all its tries are answers with a problem; all but failed ones are kept.

        Args:
          requests: What to ask.
          progress: Advances by one a request.

        Raises:
          InputError: If no request can succeed: the key, the model or the address is wrong, the
            quota is used up, or many calls failed in a row.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self._ask_all(requests, progress))
        raise InputError(
            "ask_all cannot wait inside a running event loop: in a notebook, write "
            "`await asyncio.to_thread(client.ask_all, requests, progress=progress)`"
        )

    async def _ask_all(self, requests: Sequence[Request], progress: Progress) -> list[Answer]:
        keys = [self.endpoint.key(request) for request in requests]
        answers: dict[str, Answer] = {}
        new: dict[str, Request] = {}
        for key, request in zip(keys, requests, strict=True):
            if key in answers or key in new:
                progress.advance()
            elif (answer := self._cache.get(key)) is not None:
                answers[key] = answer
                self._counts["cached"] += 1
                self._note(answer)
                progress.advance()
            else:
                new[key] = request
        waiting = iter(new.items())
        async with self._open(self.endpoint) as caller:
            workers = [
                asyncio.create_task(self._work(caller, waiting, answers, progress))
                for _ in range(min(self.endpoint.max_concurrent, len(new)))
            ]
            try:
                await asyncio.gather(*workers)
            finally:
                # Of an error, or of Ctrl-C: what is under way is given up, what came is kept.
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
        return [answers[key] for key in keys]

    async def _work(
        self,
        caller: "Caller",
        waiting: Iterator[tuple[str, Request]],
        answers: dict[str, Answer],
        progress: Progress,
    ) -> None:
        """Takes one request after another until none is left."""
        for key, request in waiting:
            answer = await self._ask(caller, request)
            if not answer.problem.startswith("failed"):
                self._cache.put(key, answer)
                self._counts["calls"] += 1
                self._counts["prompt"] += answer.prompt_tokens
                self._counts["completion"] += answer.completion_tokens
            self._note(answer)
            answers[key] = answer
            usage = self.usage
            shown: dict[str, float | str] = {
                "tokens": f"{usage.prompt_tokens:,}+{usage.completion_tokens:,}"
            }
            if usage.cost is not None:
                shown["cost"] = f"{usage.cost:.4f} USD"
            if usage.problems:
                shown["problems"] = str(sum(usage.problems.values()))
            progress.advance(1, **shown)

    async def _ask(self, caller: "Caller", request: Request) -> Answer:
        """One answer, after as many tries as are allowed."""
        reason, tried = "", 0
        while tried < self.endpoint.max_tries:
            await self._turn()
            body = self._adapted(self.endpoint.body(request))
            try:
                answer = read_answer(await caller.call(body), request)
                self._failures = 0
                return answer
            except RejectedError as error:
                if error.filtered:
                    return Answer("", 0, 0, problem="refused")
                if not self._adapt(body, str(error)):
                    if not self._counts["calls"] + self._counts["cached"]:
                        self._failed(str(error))
                    return Answer("", 0, 0, problem=f"failed: {error}")
            except RetryError as error:
                reason = str(error)
                tried += 1
                self._counts["retries"] += tried < self.endpoint.max_tries
                pause = time.monotonic() + error.wait_seconds
                self._paused_until = max(self._paused_until, pause)
                if not error.wait_seconds and tried < self.endpoint.max_tries:
                    # Jitter, so that calls that failed together do not come back together.
                    wait = min(_LAST_WAIT, _FIRST_WAIT * 2 ** (tried - 1))
                    await asyncio.sleep(wait * random.uniform(0.5, 1.0))
        self._failed(reason)
        return Answer("", 0, 0, problem=f"failed: {reason}")

    async def _turn(self) -> None:
        """Waits until another call may start."""
        while (wait := self._paused_until - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        if self.endpoint.max_per_minute:
            now = time.monotonic()
            start = max(now, self._next_start)
            self._next_start = start + 60.0 / self.endpoint.max_per_minute
            await asyncio.sleep(start - now)

    def _adapted(self, body: dict[str, Any]) -> dict[str, Any]:
        """The request without what the endpoint does not take."""
        body[self._token_field] = body.pop("max_tokens")
        if not self._schemas:
            body.pop("response_format", None)
        return body

    def _adapt(self, body: dict[str, Any], reason: str) -> bool:
        """Notes what a rejected request must do without; False if that is nothing known."""
        if "max_tokens" in body and "max_completion_tokens" in reason:
            self._token_field = "max_completion_tokens"
            return True
        if "response_format" in body and _ABOUT_SCHEMAS.search(reason.lower()):
            if self._schemas:
                print(
                    f"{self.endpoint.model} has no structured output here; going on without it",
                    file=sys.stderr,
                )
            self._schemas = False
            return True
        return False

    def _note(self, answer: Answer) -> None:
        """Counts a problem."""
        if answer.problem:
            self._problems[answer.problem.partition(":")[0]] += 1

    def _failed(self, reason: str) -> None:
        """Counts a failure; too many end the run."""
        self._failures += 1
        if self._failures >= _MAX_FAILURES:
            raise InputError(
                f"{self.endpoint.base_url}: {self._failures} calls in a row failed, the last one "
                f"with: {reason}; run the same command again when the server is well, the answers "
                "so far are kept"
            )
