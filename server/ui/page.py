"""The routes of the page. Its files are the same for everybody and hold nothing secret: no key."""

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.access.operator_paths import PAGE_FILES, PAGE_PATH

_FOLDER = Path(__file__).parent
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    # pictures and clips are shown from the visitor's own memory, `blob:`; nothing comes from afar
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; media-src blob:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # kept, but asked for each time: files of two versions never meet
    "cache-control": "no-cache",
}


def build_page_routes() -> list[Route]:
    """`/` and what it loads from `/ui/`, read once. They are no part of the API's document."""
    files = [(PAGE_PATH, _FOLDER / "index.html")]
    files += [
        (f"{PAGE_FILES}{path.name}", path)
        for path in sorted(_FOLDER.iterdir())
        if path.suffix in _MEDIA_TYPES and path.suffix != ".html"
    ]
    return [
        Route(path, _serve_file(file), methods=["GET"], include_in_schema=False)
        for path, file in files
    ]


def _serve_file(path: Path) -> Callable[[Request], Awaitable[Response]]:
    content = path.read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**_HEADERS, "etag": etag, "content-type": _MEDIA_TYPES[path.suffix]}

    async def answer(request: Request) -> Response:
        if _is_known(request.headers.get("if-none-match", ""), etag):
            return Response(status_code=304, headers=headers)
        if request.method == "HEAD":
            return Response(headers={**headers, "content-length": str(len(content))})
        return Response(content, headers=headers)

    return answer


def _is_known(if_none_match: str, etag: str) -> bool:
    """Whether one of the client's tags is this one, which a proxy may have made a weak one."""
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return etag in tags or "*" in tags
