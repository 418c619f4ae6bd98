"""A model behind a URL that speaks OpenAI's protocol of chat completions, as most servers of models do."""

from __future__ import annotations

import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPException
from typing import Any, Final
from urllib.parse import urlsplit

from editguard.errors import ConfigurationError, EndpointFailed

PATH: Final = "/chat/completions"
PASSING_STATUS: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""States of a server that may be over when it is asked again."""
LONGEST_WAIT: Final = 60.0
SHOWN: Final = 200
MOST_BYTES: Final = 4_000_000
"""Of one answer that are read."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key is for the named host alone, so that no other is asked."""

    def redirect_request(self, *_asked: Any, **_more: Any) -> None:
        return None


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A model at a URL.

    Attributes:
        url: up to the part before `/chat/completions`, such as "http://localhost:8000/v1".
        model: the name by which the server knows it.
        key: sent as a bearer token; "" sends none. It is shown nowhere.
        timeout: seconds until one request is given up.
        retries: how often a request is sent again after a failure that may pass.
        backoff: seconds before the first repetition, twice as many before each further one; a server that names its
            own time (`Retry-After`) is obeyed, up to a minute.

    Raises: ConfigurationError: the URL is none of http or https, the model has no name, or a number is out of range.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    timeout: float = 60.0
    retries: int = 4
    backoff: float = 1.0
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise ConfigurationError(f"the endpoint {self.url!r} is no URL such as http://localhost:8000/v1.")
        if not self.model.strip():
            raise ConfigurationError("give the name of the endpoint's model with --endpoint-model NAME.")
        if self.timeout <= 0 or self.retries < 0 or self.backoff < 0:
            raise ConfigurationError("an endpoint's timeout is above 0 seconds, its retries and its wait 0 or more.")
        if not self.key.isascii() or not self.key.isprintable():
            raise ConfigurationError("the endpoint's key holds characters that cannot be sent: look for line ends.")

    @property
    def address(self) -> str:
        """Where requests go."""
        bare = self.url.rstrip("/")
        return bare if bare.endswith(PATH) else bare + PATH

    def ask(self, prompt: str, *, max_tokens: int) -> str:
        """Return the model's answer to one message, at temperature 0.

        Raises: EndpointFailed: it cannot be reached, refuses, or sends no answer, after all repetitions.
        """
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": max_tokens,
        }
        problem, wait = "", self.backoff
        for attempt in range(self.retries + 1):
            if attempt:
                self.sleep(wait)
                wait = min(max(wait, self.backoff) * 2, LONGEST_WAIT)
            try:
                return _content(self._post(body))
            except urllib.error.HTTPError as failure:
                problem = f"it answered {failure.code} {_phrase(failure.code)}{_excerpt(failure)}"
                if failure.code not in PASSING_STATUS:
                    raise EndpointFailed(self._told(problem, 1 + attempt)) from failure
                wait = _named_wait(failure, wait)
            except (OSError, HTTPException) as failure:  # unreachable, timed out, cut off
                problem = _reason(failure, self.timeout)
            except ValueError as failure:  # it answers, but speaks another protocol: asking again is of no use
                raise EndpointFailed(self._told(str(failure), 1 + attempt)) from failure
        raise EndpointFailed(self._told(problem, 1 + self.retries))

    def _post(self, body: dict[str, Any]) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        data = json.dumps(body, ensure_ascii=False).encode()
        request = urllib.request.Request(self.address, data=data, headers=headers, method="POST")
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=self.timeout) as answer:
            read: bytes = answer.read(MOST_BYTES)
        return read

    def _told(self, problem: str, times: int) -> str:
        problem = problem.replace(self.key, "***") if self.key else problem
        tries = "one request" if times == 1 else f"{times} requests"
        return (
            f"the endpoint {self.address} gave no answer of the model {self.model!r} to {tries}: {problem}. Check the "
            "URL, the model's name and the key; what was done so far is kept, and the same command goes on there."
        )


def _content(data: bytes) -> str:
    """The text of an answer's first choice, "" where the model wrote none; ValueError for another kind of answer."""
    try:
        content = json.loads(data)["choices"][0]["message"]["content"]
        if content is not None and not isinstance(content, str):
            raise TypeError
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ValueError(f"its answer is no chat completion: {data[:SHOWN].decode(errors='replace')!r}") from None
    return content or ""


def _named_wait(failure: urllib.error.HTTPError, otherwise: float) -> float:
    """Seconds that the server asks to wait, where it names a number."""
    named = failure.headers.get("Retry-After", "") if failure.headers else ""
    return min(float(named), LONGEST_WAIT) if named.strip().isdigit() else otherwise


def _excerpt(failure: urllib.error.HTTPError) -> str:
    try:
        said = " ".join(failure.read(SHOWN).decode(errors="replace").split())
    except (OSError, HTTPException):
        said = ""
    return f": {said}" if said else ""


def _phrase(code: int) -> str:
    return HTTPStatus(code).phrase if code in HTTPStatus._value2member_map_ else ""


def _reason(failure: Exception, timeout: float) -> str:
    reason = getattr(failure, "reason", failure)
    if isinstance(reason, TimeoutError | socket.timeout):
        return f"it did not answer within {timeout:g} s"
    return str(getattr(reason, "strerror", None) or reason or type(failure).__name__)
