"""How the patches of a visual item get to an engine that has asked for them: by a directory.

The request itself stays in the engine, so whatever it has generated so far is kept. Each engine has
a directory of its own: several may ask for the same item, and each takes what it finds.
"""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import torch

from multimodal.vision_entry import DamagedEntry, read_entry, write_entry

_NAMESPACE = "patches"
_MAX_BYTES = 1 << 30


class PatchHandover:
    """A directory on the host that the server and its engine run on. Its methods block.

    Args:
        directory: of all engines.
        engine_index: of the engine among those that share the requests (data parallel).
    """

    def __init__(self, directory: str, engine_index: int = 0) -> None:
        self._directory = Path(directory, str(engine_index))

    def put(self, key: str, patches: torch.Tensor) -> None:
        """Args: patches as in `VisualItem`. Raises: OSError."""
        self._directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory.mkdir(mode=0o700, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self._directory)
        try:
            with os.fdopen(descriptor, "wb") as file:
                write_entry(file, _NAMESPACE, key, patches)
            os.replace(name, self._directory / key)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise

    def take(self, key: str) -> torch.Tensor | None:
        """The patches, which are removed; None if they are not there yet."""
        path = str(self._directory / key)
        patches = None
        try:
            patches = read_entry(path, _NAMESPACE, key, max_bytes=_MAX_BYTES)
        except OSError:
            return None
        except DamagedEntry:
            pass
        self.discard(key)
        return patches

    def discard(self, key: str) -> None:
        """Remove patches that nobody has taken, if there are any."""
        with suppress(OSError):
            os.unlink(self._directory / key)
