"""A server as the terminal chat sees it: which models there are, and answers piece by piece."""

import json
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

_CONNECT_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 3600.0  # a prompt may wait, and a long video takes its time
_OWN_HOSTS = ("127.0.0.1", "localhost", "::1")
_MAX_REASON_CHARS = 400
_KEY_HINT = "give an API key: --api-key-file, or OPENAI_API_KEY in the environment"


class ChatError(Exception):
    """The server cannot be reached, or has refused; the message says why, in words."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one event of a stream adds. `finish_reason` and `usage` come once, at its end."""

    thinking: str = ""
    text: str = ""
    finish_reason: str | None = None
    usage: Mapping[str, Any] = field(default_factory=dict)


class ChatClient:
    """Args: url: of the server, with or without `/v1`. Raises: ChatError if that is no URL."""

    def __init__(self, url: str, api_key: str | None) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise ChatError("the API key holds characters that no key has")
        headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        timeout = httpx.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
        with self._explained():
            self._http = httpx.Client(
                base_url=self._url,
                headers=headers,
                timeout=timeout,
                # no proxy between this machine and itself: it would see the key and the pictures
                trust_env=httpx.URL(self._url).host not in _OWN_HOSTS,
            )

    def close(self) -> None:
        self._http.close()

    def find_model(self) -> str:
        """The first one that is served. Raises: ChatError."""
        with self._explained():
            response = self._http.get("/v1/models")
            _check(response)
            name = response.json()["data"][0]["id"]
        return str(name)

    def ask(
        self, model: str, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
    ) -> Generator[Piece, None, None]:
        """Stream an answer; closing the iterator aborts it. Raises: ChatError."""
        body = {
            "model": model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            **options,
        }
        with (
            self._explained(),
            self._http.stream("POST", "/v1/chat/completions", json=body) as response,
        ):
            if response.is_error:
                response.read()
            _check(response)
            for data in read_events(response.iter_bytes()):
                yield _read_piece(data)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raises: ChatError for what goes wrong on the way."""
        try:
            yield
        except httpx.ConnectError as error:
            if "SSL" in str(error):
                raise ChatError(f"{self._url}: {error}") from error
            raise ChatError(f"no server answers at {self._url}: is it running? (--url)") from error
        except httpx.TimeoutException as error:
            raise ChatError(f"{self._url} has not answered in time") from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
            raise ChatError(f"{self._url} is not the URL of a server: {error}") from error
        except httpx.HTTPError as error:
            raise ChatError(f"the connection to {self._url} has broken off: {error}") from error
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise ChatError(f"{self._url} does not answer as such a server does") from error


def read_events(chunks: Iterable[bytes]) -> Iterator[Any]:
    """The JSON of each `data:` line up to `[DONE]`.

    Raises: ChatError for an error that the server sends, or if the stream ends without `[DONE]`;
        ValueError for what is no JSON.
    """
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            data = line.removeprefix(b"data:").strip()
            if data == b"[DONE]":
                return
            event = json.loads(data)
            if "error" in event:
                raise ChatError(_reason(event))
            yield event
    raise ChatError("the answer has broken off")


def _read_piece(event: Mapping[str, Any]) -> Piece:
    choices = event.get("choices")
    choice: Mapping[str, Any] = choices[0] if choices else {}
    delta = choice.get("delta") or {}
    return Piece(
        thinking=delta.get("reasoning_content") or "",
        text=delta.get("content") or "",
        finish_reason=choice.get("finish_reason"),
        usage=event.get("usage") or {},
    )


def _check(response: httpx.Response) -> None:
    """Raises: ChatError for an answer that is none."""
    if not response.is_error:
        return
    try:
        reason = _reason(response.json())
    except (ValueError, KeyError, TypeError):
        reason = response.reason_phrase
    hint = f"; {_KEY_HINT}" if response.status_code == 401 else ""
    raise ChatError(f"{reason} ({response.status_code}){hint}")


def _reason(answer: Mapping[str, Any]) -> str:
    """Raises: KeyError, TypeError if it is not an error of this API."""
    return str(answer["error"]["message"])[:_MAX_REASON_CHARS]
