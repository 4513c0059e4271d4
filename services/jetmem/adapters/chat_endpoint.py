"""An OpenAI-compatible endpoint: one question, one structured reply. The only file that knows HTTP clients.

No error says more of the endpoint than a status or the kind of failure: neither the key nor what was sent or came back
can get into a log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias

import httpx2
import msgspec

from jetmem.runtime.clock import Clock
from jetmem.runtime.errors import Retryable

Format: TypeAlias = Literal["json_schema", "json_object", "text"]
#: How a request names the most tokens of its reply: models that reason take the second only.
Limit: TypeAlias = Literal["max_tokens", "max_completion_tokens"]
#: A reply that is longer is not read to its end.
REPLY_BYTES_MAX: Final = 1024 * 1024
#: Statuses after which the same question may be answered later.
_LATER: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
#: … and those that are about this question, not about who asks; the first also about how it is asked.
_UNANSWERABLE: Final = frozenset({400, 413, 422})
_BAD_REQUEST: Final = 400


class EndpointBusy(Retryable):
    """It did not answer, or not now. `after_s`: not before that, as it says; 0 if it says nothing."""

    def __init__(self, message: str, after_s: float = 0.0) -> None:
        super().__init__(message)
        self.after_s = after_s


class EndpointRefused(Exception):
    """It will not answer us as we are set up: a wrong address, model or key."""


class BadReply(Exception):
    """It answered, and not what was asked for; or it cannot answer this."""


class Reply(NamedTuple):
    """The text that came, and the tokens that it says it took; None if it does not say."""

    text: str
    tokens: int | None


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message


class _Usage(msgspec.Struct):
    total_tokens: Annotated[int, msgspec.Meta(ge=0, le=2**31)] = 0


class _Completion(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None


_decode = msgspec.json.Decoder(_Completion).decode


class ChatEndpoint:
    """Asks `<base_url>/chat/completions`. Proxies and credentials of the environment are not used."""

    def __init__(
        self,
        base_url: str,
        model: str,
        key: str,
        *,
        timeout_s: float,
        clock: Clock,
        reply: Format = "json_schema",
        limit: Limit = "max_tokens",
    ) -> None:
        self._clock = clock
        self._limit = limit
        self._worked = False
        self._url = base_url.rstrip("/") + "/chat/completions"
        self._model = model
        self._format = reply
        self._timeout_s = timeout_s
        headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._client = httpx2.AsyncClient(headers=headers, timeout=timeout_s, trust_env=False, follow_redirects=False)

    async def ask(self, messages: Sequence[dict[str, str]], schema: dict[str, Any], tokens_max: int) -> Reply:
        """The reply to one question; nothing is tried again here.

        Raises:
            EndpointBusy: Later: time-out, connection, 429, 5xx.
            EndpointRefused: Any other refusal.
            BadReply: Too long, no JSON, or empty; or the question cannot be answered (413, 422, and 400 of an endpoint
                that has answered others).
        """
        body: dict[str, Any] = {
            "model": self._model, "messages": list(messages), self._limit: tokens_max,
        }  # fmt: skip
        if self._format == "json_schema":
            body["response_format"] = {
                "type": "json_schema", "json_schema": {"name": "summary", "strict": True, "schema": schema},
            }  # fmt: skip
        elif self._format == "json_object":
            body["response_format"] = {"type": "json_object"}
        try:
            async with asyncio.timeout(self._timeout_s):  # of all of it: a reply may come byte by byte
                raw = await self._post(body)
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise EndpointBusy(f"the endpoint did not answer within {self._timeout_s:g} s") from error
        except httpx2.InvalidURL as error:
            raise EndpointRefused("the endpoint's address is none") from error
        except httpx2.HTTPError as error:
            raise EndpointBusy(f"the endpoint cannot be asked: {type(error).__name__}") from None
        return _read(raw)

    async def _post(self, body: dict[str, Any]) -> bytes:
        async with self._client.stream("POST", self._url, json=body) as response:
            status = response.status_code
            if status in _LATER:
                raise EndpointBusy(
                    f"the endpoint answered {status}", self._after_s(response.headers.get("Retry-After"))
                )
            if status in _UNANSWERABLE and (self._worked or status != _BAD_REQUEST):
                raise BadReply(f"the endpoint answered {status}")
            if status != 200:
                raise EndpointRefused(f"the endpoint answered {status}")
            held = bytearray()
            async for chunk in response.aiter_bytes():
                held += chunk
                if len(held) > REPLY_BYTES_MAX:
                    raise BadReply("the endpoint's reply is too long")
            self._worked = True
            return bytes(held)

    def _after_s(self, said: str | None) -> float:
        """Seconds of a Retry-After, which is a number or a date; 0 if it is neither."""
        if said is None:
            return 0.0
        if said.strip().isascii() and said.strip().isdecimal():
            return float(said)
        try:
            return max(0.0, parsedate_to_datetime(said).timestamp() - self._clock.now_ms() / 1000)
        except (ValueError, OverflowError, OSError):
            return 0.0

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()


def _read(raw: bytes) -> Reply:
    try:
        completion = _decode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise BadReply("the endpoint's reply is no completion") from None
    text = completion.choices[0].message.content if completion.choices else None
    if not text:
        raise BadReply("the endpoint's reply is empty")
    return Reply(text, completion.usage.total_tokens if completion.usage else None)
