"""What is asked of a chat model, and what comes back."""

import dataclasses
import hashlib
import json
import math
import re
import urllib.parse
from typing import Any, NamedTuple

from saejax.errors import InputError

# For estimates, and for servers that do not count: SmolLM2 counts 3.28 or 3.29 characters a token
# in our explanation, detection and fuzzing prompts alike. Larger vocabularies need fewer tokens.
_CHARACTERS_PER_TOKEN = 3.3

# Servers without a parser of their own for reasoning leave it in the text.
_THOUGHTS = re.compile(r"<think>.*?(</think>|$)", re.DOTALL)


class Message(NamedTuple):
    """A turn of a conversation."""

    role: str  # "system", "user" or "assistant"
    content: str


class Request(NamedTuple):
    """One call.

    Attributes:
      messages: The conversation so far.
      max_tokens: Where the answer is cut off. Reasoning counts, in models that reason.
      schema: JSON schema of the answer, used where the endpoint can hold the model to one.
    """

    messages: tuple[Message, ...]
    max_tokens: int
    schema: dict[str, Any] | None = None

    @property
    def prompt_tokens(self) -> int:
        """About how many tokens the messages have: one for every 3.3 characters."""
        return count_tokens("".join(message.content for message in self.messages))


class Answer(NamedTuple):
    """What came back.

    Attributes:
      text: "" if there is none.
      prompt_tokens: As the server counted; where it does not, one for every 3.3 characters.
      completion_tokens: Likewise.
      cached: Whether it was answered before, so that nothing was sent.
      problem: "" if there is none, else "refused", "empty", "truncated" (at max_tokens; the text
        goes so far), or "failed: ...", after every try, with what the server said.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    cached: bool = False
    problem: str = ""

    @property
    def said(self) -> str:
        """The text without thoughts that a reasoning model wrote before it."""
        return _THOUGHTS.sub("", self.text).strip()


class RetryError(Exception):
    """The call may succeed later.

    Attributes:
      wait_seconds: How long the server asks all callers to wait; 0 if it does not say.
    """

    def __init__(self, reason: str, wait_seconds: float = 0.0):
        super().__init__(reason)
        self.wait_seconds = wait_seconds


class RejectedError(Exception):
    """The server does not take this request.

    Attributes:
      filtered: Whether for what the text is about.
    """

    def __init__(self, reason: str, *, filtered: bool):
        super().__init__(reason)
        self.filtered = filtered


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A server with an OpenAI-compatible API, and how to use it.

    The key is read from an environment variable and kept nowhere else.

    Raises:
      InputError: If a value is out of range, or the address holds a user, password or query, which
        may be a key.
    """

    # Up to /v1, as in http://localhost:8000/v1 or https://openrouter.ai/api/v1.
    base_url: str
    # As the server calls it. Answers are cached by this name: choose different ones for different
    # models on servers that take any name (llama.cpp).
    model: str
    # 0 gives the likeliest answer; None leaves it to the server, as some models of OpenAI need it.
    temperature: float | None = 0.0
    # Of the server's random numbers; None leaves it out.
    seed: int | None = None
    # Calls under way at a time: what keeps a server with continuous batching busy.
    max_concurrent: int = 16
    # Calls started in a minute; 0 is no limit.
    max_per_minute: float = 0.0
    # For one call, from sending it to the whole answer: 70B models on busy servers take a minute.
    timeout_seconds: float = 300.0
    # Tries of one call: with waits of 1, 2, 4, ... seconds in between about a minute in all.
    max_tries: int = 7
    # Environment variable with the key. Servers without one need none.
    key_variable: str = "OPENAI_API_KEY"
    # USD for a million tokens; None counts tokens alone.
    prompt_price: float | None = None
    completion_price: float | None = None

    def __post_init__(self) -> None:
        url = urllib.parse.urlsplit(self.base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise InputError(
                f"base_url={_without_secrets(self.base_url)!r} is no address of a server: give one "
                "as http://localhost:8000/v1"
            )
        if "@" in url.netloc or url.query or url.fragment:
            raise InputError(
                f"base_url for {url.hostname} must hold no user, password or query: put the key "
                f"into the environment variable {self.key_variable}"
            )
        if not self.model:
            raise InputError("model is empty: name a model of the endpoint")
        lowest = {
            "max_concurrent": 1,
            "max_per_minute": 0,
            "max_tries": 1,
            "temperature": 0,
            "prompt_price": 0,
            "completion_price": 0,
        }
        for name, bound in lowest.items():
            value = getattr(self, name)
            if value is not None and not bound <= value < math.inf:
                raise InputError(f"{name}={value} must be at least {bound}, and finite")
        if not 0 < self.timeout_seconds < math.inf:
            raise InputError(f"timeout_seconds={self.timeout_seconds} must be above 0, and finite")
        if (self.prompt_price is None) != (self.completion_price is None):
            raise InputError("prompt_price and completion_price go together: give both or neither")

    def body(self, request: Request) -> dict[str, Any]:
        """The request as it is sent."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [message._asdict() for message in request.messages],
            "max_tokens": request.max_tokens,
        }
        if self.temperature is not None:
            body["temperature"] = self.temperature
        if self.seed is not None:
            body["seed"] = self.seed
        if request.schema is not None:
            schema = {"name": "answer", "strict": True, "schema": request.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def key(self, request: Request) -> str:
        """SHA-256 of the whole request; addresses and API keys are not in it."""
        text = json.dumps(self.body(request), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """USD for so many tokens, or None without prices."""
        if self.prompt_price is None or self.completion_price is None:
            return None
        return (
            prompt_tokens * self.prompt_price + completion_tokens * self.completion_price
        ) / 1_000_000


def count_tokens(text: str) -> int:
    """About how many tokens a text has: one for every 3.3 characters, rounded up."""
    return math.ceil(len(text) / _CHARACTERS_PER_TOKEN)


def read_answer(body: Any, request: Request) -> Answer:
    """The answer in a server's reply.

    Raises:
      RetryError: If the reply is not one of a chat model.
    """
    try:
        choice = body["choices"][0]
        message = choice["message"]
        text, refusal = message.get("content"), message.get("refusal")
        finish = choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise RetryError("the reply is no chat completion") from None
    if isinstance(text, list):
        # Some servers give the content in parts.
        text = "".join(part.get("text", "") for part in text if isinstance(part, dict))
    text = text if isinstance(text, str) else ""
    if refusal or finish == "content_filter":
        problem = "refused"
    elif finish == "length":
        problem = "truncated"
    else:
        problem = "" if text.strip() else "empty"
    usage = body.get("usage") if isinstance(body.get("usage"), dict) else {}
    counts = usage.get("prompt_tokens"), usage.get("completion_tokens")
    estimates = request.prompt_tokens, count_tokens(text)
    prompt, completion = (
        count if isinstance(count, int) else estimate
        for count, estimate in zip(counts, estimates, strict=True)
    )
    return Answer(text, prompt, completion, problem=problem)


def _without_secrets(url: str) -> str:
    """An address as far as it may be shown: without what stands before an @ or after a ?."""
    return url.rpartition("@")[2].partition("?")[0]
