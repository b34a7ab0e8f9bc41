"""Folders for the vision cache of the server under test, and the settings that name them."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")
_TIER_BYTES = 4 * 1024**3  # several times what any benchmark stores


@dataclass(frozen=True, slots=True)
class CacheFolders:
    """`host` lies in shared memory; without `disk` there is no tier below it."""

    host: Path
    disk: Path | None

    @property
    def variables(self) -> dict[str, str]:
        """For the environment of `qwen3vl-serve`."""
        variables = {
            "QWEN3VL_CACHE__HOST_DIR": str(self.host),
            "QWEN3VL_CACHE__HOST_BYTES": str(_TIER_BYTES),
        }
        if self.disk is not None:
            variables |= {
                "QWEN3VL_CACHE__DISK_DIR": str(self.disk),
                "QWEN3VL_CACHE__DISK_BYTES": str(_TIER_BYTES),
            }
        return variables

    def empty_host(self) -> None:
        """What a restart of the machine or the container does; no server may be running."""
        shutil.rmtree(self.host)
        self.host.mkdir(mode=0o700)


@contextmanager
def temporary_cache(*, with_disk: bool = False) -> Iterator[CacheFolders]:
    """Empty folders that are removed at the end."""
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-", dir=_SHARED_MEMORY) as host,
        tempfile.TemporaryDirectory(prefix="benchmark-") as disk,
    ):
        yield CacheFolders(Path(host), Path(disk) if with_disk else None)
