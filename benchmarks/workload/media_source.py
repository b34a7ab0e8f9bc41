"""Where a workload's images and videos come from."""

from collections.abc import Sequence
from typing import Protocol

from benchmarks.workload.message import Part


class MediaSource(Protocol):
    """Media by number: the same number gives the same bytes, in every process.

    Attributes:
        num_images: after which images repeat; None if they never do.
        num_videos: as `num_images`.
    """

    @property
    def num_images(self) -> int | None: ...
    @property
    def num_videos(self) -> int | None: ...

    def image(self, number: int) -> Part:
        """A content part of a message."""

    def page(self, number: int) -> Part:
        """A page of a document."""

    def screenshot(self, number: int) -> Part: ...

    def video(self, number: int) -> Part: ...

    def frames(self, number: int) -> Sequence[bytes]:
        """A video as JPEG files, `clip.SAMPLED_FPS` for each second."""
