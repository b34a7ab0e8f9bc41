"""Media files on the server's own disk, for `file://` URLs; only below one folder, and only if the
settings name it.

The path is compared as it is written, then walked from the folder on, one name at a time, without
following any link: what is checked is what is opened. The folder itself may be a link; that is the
operator's.
"""

import asyncio
import os
import re
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote_to_bytes

from multimodal.errors import MediaError, MediaTooLarge
from server.media_url import UrlNotAllowed

_SCHEME = "file://"
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ODD = re.compile(r"[\x00-\x20\x7f\\?#]")
_NUM_THREADS = 4  # reads that hang, on a network drive, keep no other work of the server waiting
_CHUNK_BYTES = 1024**2
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC


def is_file_url(url: str) -> bool:
    return url[:5].lower() == "file:"


class LocalMedia:
    """The files below `folder`. Args: timeout_s: for reading one of them, waiting included."""

    def __init__(self, folder: Path, timeout_s: float) -> None:
        self._folder = os.fsencode(os.path.abspath(folder))
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="media-files")

    async def read(self, url: str, *, max_bytes: int) -> bytes:
        """The content of the file that `url` names.

        Raises: UrlNotAllowed, without a look at the disk, for all that does not lie in the folder;
            MediaTooLarge; MediaError (`fetch_failed`, `fetch_timeout`), the same one whatever keeps
            the file from being read.
        """
        names = self._split(url)
        end_at = time.monotonic() + self._timeout_s
        reading = asyncio.get_running_loop().run_in_executor(
            self._threads, self._read, names, max_bytes, end_at
        )
        try:
            async with asyncio.timeout(self._timeout_s):
                return await reading
        except TimeoutError:
            message = f"the media file was not read within {self._timeout_s:g} s"
            raise MediaError(message, "fetch_timeout") from None
        except OSError:
            raise MediaError("the media file cannot be read", "fetch_failed") from None

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _split(self, url: str) -> list[bytes]:
        """The names below the folder. Raises: UrlNotAllowed."""
        path = url[len(_SCHEME) :]
        if url[: len(_SCHEME)].lower() != _SCHEME or not path.startswith("/"):
            raise UrlNotAllowed("file URLs must start with file:/// and have no host")
        if _ODD.search(path) or _ESCAPE.search(path):
            raise UrlNotAllowed("the file URL has a character that must be escaped")
        names = [unquote_to_bytes(name) for name in path[1:].split("/")]
        if any(name in (b"", b".", b"..") or b"/" in name or b"\0" in name for name in names):
            raise UrlNotAllowed("the file URL has an empty name, a dot name or an escaped slash")
        folder = self._folder.split(b"/")[1:] if self._folder != b"/" else []
        if names[: len(folder)] != folder or len(names) == len(folder):
            raise UrlNotAllowed("the file URL does not lie in the folder of allowed media")
        return names[len(folder) :]

    def _read(self, names: list[bytes], max_bytes: int, end_at: float) -> bytes:
        """Raises: OSError; MediaTooLarge; TimeoutError."""
        descriptor = self._open(names)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise PermissionError
            data = bytearray()
            while status.st_size <= max_bytes and len(data) <= max_bytes:
                if time.monotonic() > end_at:
                    raise TimeoutError
                chunk = file.read(min(_CHUNK_BYTES, max_bytes + 1 - len(data)))
                if not chunk:
                    return bytes(data)
                data += chunk
        raise MediaTooLarge(f"the media item exceeds {max_bytes} bytes", "media_too_large")

    def _open(self, names: list[bytes]) -> int:
        """The descriptor of what may be a file. Raises: OSError."""
        folder = os.open(self._folder, _FOLDER_FLAGS)
        try:
            for name in names[:-1]:
                inner = os.open(name, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=folder)
                os.close(folder)
                folder = inner
            return os.open(names[-1], _FILE_FLAGS, dir_fd=folder)
        finally:
            os.close(folder)
