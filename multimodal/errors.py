"""What can be wrong with a media item. Layers below HTTP raise these; `server.errors` maps them.

MediaError
├── UnsupportedMedia   the bytes are not of a format that is decoded here
├── MediaTooLarge      a limit on bytes, pixels, frames, duration or aspect ratio is exceeded
├── TooManyTokens      the media of a request alone are too many tokens for the context
├── MediaCorrupt       the format is known, the content cannot be decoded
├── MediaOverload      other requests hold the memory that this one needs; it may be tried again
└── InvalidOption      a per-request option (`fps`, `max_pixels`, ...) is out of bounds
"""

from typing import Self


class MediaError(Exception):
    """A media item that cannot be used.

    `message` names the limit and the given value and is shown to clients: it never holds a path,
    an address, decoder output or bytes of the item. `code` is a stable slug. `param` points into
    the request body (`messages[0].content[1]`) and is filled by the layer that knows it.
    """

    def __init__(self, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param

    def about(self, param: str) -> Self:
        """The same error, about one part of one request: several may wait for the same work."""
        return type(self)(self.message, self.code, param)


class UnsupportedMedia(MediaError):
    pass


class MediaTooLarge(MediaError):
    pass


class TooManyTokens(MediaError):
    pass


class MediaCorrupt(MediaError):
    pass


class MediaOverload(MediaError):
    pass


class InvalidOption(MediaError):
    pass
