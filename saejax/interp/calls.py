"""One call of a chat endpoint through the openai package, and what its failures mean."""

import asyncio
import datetime
import email.utils
import json
import os
import re
from typing import Any, Self

import httpx2
import openai

from saejax.errors import InputError
from saejax.interp.chat import Endpoint, RejectedError, RetryError

# Longer waits than this, in seconds, are a quota of an hour or a day: stopping tells more.
_LONGEST_WAIT = 600.0

# How servers that do not answer 404 say that they lack the model.
_NO_MODEL = re.compile(
    r"(not a valid|invalid|unknown|no such) model|\bmodel\b.{0,80}(does not exist|not found)"
)

# How a filter in front of the model holds a prompt back: by its code (Azure, OpenAI), or by a
# status of 403 and words (OpenRouter).
_FILTERED = ("content_filter", "content_policy_violation")
_FLAGGED = re.compile("flagged|moderation")


class Caller:
    """An open connection to an endpoint; use as an asynchronous context manager.

    Raises:
      InputError: If the key is none.
    """

    def __init__(self, endpoint: Endpoint):
        self._endpoint = endpoint
        self._key = os.environ.get(endpoint.key_variable, "")
        if self._key != "".join(self._key.split()) or not self._key.isascii():
            raise InputError(
                f"the key in {endpoint.key_variable} has a space, a line break or a character "
                "beyond ASCII, which no key has: set it again"
            )
        # The package wants a key; servers without one ignore it. Retries are ours: they count
        # for the rate, and wait together.
        self._sdk = openai.AsyncOpenAI(
            api_key=self._key or "none",
            base_url=endpoint.base_url,
            max_retries=0,
            timeout=endpoint.timeout_seconds,
        )
        self._reached = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._sdk.close()

    async def call(self, body: dict[str, Any]) -> Any:
        """Sends a request once; the server's reply, decoded.

        Raises:
          RetryError: If it may work later.
          RejectedError: If it will not.
          InputError: If no request will.
        """
        seconds = self._endpoint.timeout_seconds
        try:
            # The package's own limit is for each read, not for the call.
            async with asyncio.timeout(seconds):
                reply = await self._sdk.chat.completions.with_raw_response.create(**body)
            self._reached = True
            return json.loads(reply.content)
        except (TimeoutError, openai.APITimeoutError):
            raise RetryError(f"no answer within {seconds:g} s") from None
        except openai.APIStatusError as error:
            self._reached = True
            raise self._explained(error) from None
        except openai.APIConnectionError as error:
            if not self._reached and isinstance(error.__cause__, httpx2.ConnectError):
                raise InputError(
                    f"{self._endpoint.base_url} cannot be reached: start the server, or check the "
                    "address and the network"
                ) from None
            raise RetryError("the connection was lost") from None
        except ValueError:
            raise RetryError("the reply is no JSON") from None

    def _explained(self, error: openai.APIStatusError) -> Exception:
        """What a status means."""
        endpoint, status = self._endpoint, error.status_code
        said = self._said(error)
        if error.code in _FILTERED or (status == 403 and _FLAGGED.search(said.lower())):
            return RejectedError(f"status {status}: {said}", filtered=True)
        if status in (401, 403):
            # Not what the server said: some repeat the key.
            key = endpoint.key_variable
            held = f"the key in {key}" if self._key else f"a call without key ({key} is not set)"
            return InputError(
                f"{endpoint.base_url} refuses {held} for model {endpoint.model!r} "
                f"(status {status}): set {key} to a key that may use it"
            )
        if status == 402 or error.code == "insufficient_quota":
            return InputError(f"{endpoint.base_url}: no credit left (status {status}: {said})")
        if status == 404 or _NO_MODEL.search(said.lower()):
            return InputError(
                f"{endpoint.base_url} has no model {endpoint.model!r} (status {status}: {said}): "
                "check its name, and that the address ends as the server's documentation says, "
                "mostly in /v1"
            )
        if status in (408, 409, 425, 429) or status >= 500:
            wait = _retry_after(error.response.headers)
            if wait > _LONGEST_WAIT:
                return InputError(
                    f"{endpoint.base_url} asks to wait for {wait:,.0f} s (status {status}: "
                    f"{said}): run the same command again later; answers so far are kept"
                )
            return RetryError(f"status {status}: {said}", wait)
        return RejectedError(f"status {status}: {said}", filtered=False)

    def _said(self, error: openai.APIStatusError) -> str:
        """The server's message, one short line without the key."""
        body = error.body
        message = body.get("message", body) if isinstance(body, dict) else body
        line = " ".join(str(message or "no message").split())
        return (line.replace(self._key, "[key]") if self._key else line)[:300]


def _retry_after(headers: httpx2.Headers) -> float:
    """Seconds that a server asks to wait: a number, or until a date; 0 if it does not say."""
    value = headers.get("retry-after", "")
    try:
        if milliseconds := headers.get("retry-after-ms"):
            return max(0.0, float(milliseconds) / 1000)
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.UTC)
    return max(0.0, (date - datetime.datetime.now(datetime.UTC)).total_seconds())
