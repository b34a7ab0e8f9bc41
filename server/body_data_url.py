"""Data URLs that are left in a request's body while its JSON is parsed.

A parser copies megabytes of base64 into a string, and every check after it walks over them again.
Here the parser sees a short stand-in, and base64 is decoded from the body itself.
"""

import re
import secrets

import orjson

MIN_CHARS = 4096  # of the payload; what is shorter is parsed in no time
MAX_URLS = 1024  # looked at in one body, which bounds the time for a body of nothing else

_START = b'"data:'
_HEADER = re.compile(rb'"(data:[\w.+-]{1,100}/[\w.+-]{1,100}(?:;[\w.+=-]{1,100}){0,8};base64,)')


class BodyDataUrl(str):
    """A data URL whose payload still lies in the body: as a string, only its header.

    Attributes:
        payload: what follows the header, as the body has it. It is not checked at all.
    """

    payload: memoryview

    def __new__(cls, header: str, payload: memoryview) -> "BodyDataUrl":
        url = super().__new__(cls, header)
        url.payload = payload
        return url

    def parse_payload(self) -> str | None:
        """The payload as a JSON parser reads it, escapes and all; None if it refuses it."""
        try:
            return str(orjson.loads(b"".join((b'"', self.payload, b'"'))))
        except orjson.JSONDecodeError:
            return None


def set_aside_data_urls(
    body: bytes | bytearray,
) -> tuple[bytes | bytearray, dict[str, BodyDataUrl]]:
    """Take the long base64 data URLs out of JSON.

    What lies between two quotes is replaced, and the quotes stay: strings start and end where they
    did, so what is left is valid JSON just when the body is, but for the payloads. No client can
    write a stand-in, as none can be guessed.

    Returns: the JSON with stand-ins; stand-in -> URL, each of which is one whole string of it.
    """
    stand_in = secrets.token_hex(16)
    view = memoryview(body)
    urls: dict[str, BodyDataUrl] = {}
    pieces: list[bytes | memoryview] = []
    num_done = position = 0
    for _ in range(MAX_URLS):
        position = body.find(_START, position)
        if position < 0:
            break
        header = _HEADER.match(body, position)
        if header is None or body[position - 1 : position] == b"\\":  # the quote is text
            position += len(_START)
            continue
        start, end = header.end(), body.find(b'"', header.end())
        if end < 0:
            break
        position = end
        if end - start < MIN_CHARS or body[end - 1 : end] == b"\\":
            continue
        name = f"{stand_in}-{len(urls)}"
        urls[name] = BodyDataUrl(header[1].decode(), view[start:end])
        pieces += (view[num_done : header.start(1)], name.encode())
        num_done = end
    return (b"".join((*pieces, view[num_done:])) if urls else body), urls
