"""Conversations that are made up, about media that are drawn or come from a folder."""

import math
from collections.abc import Mapping

from benchmarks.workload.drawn_media import DrawnMedia
from benchmarks.workload.error import WorkloadError
from benchmarks.workload.media_folder import MediaFolder
from benchmarks.workload.media_source import MediaSource
from benchmarks.workload.mixture import MIXED, Mixture
from benchmarks.workload.numbering import Numbering, numberings
from benchmarks.workload.options import WorkloadName, WorkloadOptions
from benchmarks.workload.recipes import RECIPES, Material
from benchmarks.workload.turn import Conversation


class DrawnConversations:
    """Those of one workload, or of several in a mixture.

    Raises: WorkloadError if a folder lacks what the workload needs.
    """

    def __init__(self, options: WorkloadOptions) -> None:
        shares: Mapping[WorkloadName, int] = MIXED if options.name == "mixed" else {options.name: 1}
        self._mixture = Mixture(options.seed, shares)
        media = _media(options)
        images = numberings(shares, {name: RECIPES[name].num_images(options) for name in shares})
        videos = numberings(shares, {name: RECIPES[name].num_videos for name in shares})
        self._materials = {
            name: Material(name, options, media, images[name], videos[name]) for name in shares
        }
        num_blocks = min(
            _num_blocks(options, "images", images, media.num_images),
            _num_blocks(options, "videos", videos, media.num_videos),
        )
        num_distinct = num_blocks * self._mixture.block_length
        self._num_distinct = None if math.isinf(num_distinct) else int(num_distinct)

    @property
    def num_distinct(self) -> int | None:
        return self._num_distinct

    def conversation(self, index: int) -> Conversation:
        name, number = self._mixture.place(index)
        return RECIPES[name].build(self._materials[name], number)


def _media(options: WorkloadOptions) -> MediaSource:
    if options.media_dir is None:
        return DrawnMedia(options.seed, options.image_sizes, options.video_seconds)
    return MediaFolder(options.media_dir, options.seed, options.video_seconds)


def _num_blocks(
    options: WorkloadOptions,
    kind: str,
    taken: Mapping[WorkloadName, Numbering],
    num_files: int | None,
) -> float:
    """Blocks of the mixture until media repeat, those apart that `reuse` repeats."""
    per_block: float = next(iter(taken.values())).per_block
    if per_block and num_files == 0:
        raise WorkloadError(f"{options.media_dir} has no {kind}, which `{options.name}` needs")
    if options.name == "reuse":
        per_block *= 1 - options.reuse
    return num_files / per_block if num_files is not None and per_block else math.inf
