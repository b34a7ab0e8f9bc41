"""The media of a request on their way to the engine: encoded refs, then items with pixels."""

from dataclasses import dataclass
from typing import Literal

import torch

from multimodal.options import MediaOptions

Modality = Literal["image", "video"]


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One encoded image of a request. `param` is its place in the request body, for errors."""

    data: bytes
    options: MediaOptions
    param: str


@dataclass(frozen=True, slots=True)
class VideoRef:
    """One encoded video file of a request."""

    data: bytes
    options: MediaOptions
    param: str


@dataclass(frozen=True, slots=True)
class FramesRef:
    """A video given as a list of encoded images, in order."""

    frames: tuple[bytes, ...]
    options: MediaOptions
    param: str


MediaRef = ImageRef | VideoRef | FramesRef


@dataclass(frozen=True, slots=True)
class VisualItem:
    """What the vision tower encodes at once: an image, or a temporal patch (two frames) of a video.

    In Qwen3-VL the tower attends within a temporal patch only and M-RoPE sees each as a 1 x h x w
    grid, so a video is exactly the list of its temporal patches.

    Attributes:
        key: 64 hex digits, the content key (see `multimodal.keys`).
        grid_h, grid_w: ViT patches per side, before merging; multiples of `merge_size`.
        patches: uint8, (grid_h * grid_w, 768) for an image, (grid_h * grid_w, 1536) for a temporal
            patch: in merge order (h/2, w/2, 2, 2), each (frame, row, column, RGB) flattened.
            768 = 16 * 16 * 3, 1536 = 2 frames of that. None for an item that the vision cache is
            expected to know; the engine asks for its patches if it does not.
    """

    modality: Modality
    key: str
    grid_h: int
    grid_w: int
    patches: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class LoadedMedia:
    """One media part of a request, ready for the prompt.

    `timestamps` are the seconds written before each temporal patch of a video, one per item; empty
    for an image, which has exactly one item.
    """

    modality: Modality
    items: tuple[VisualItem, ...]
    timestamps: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class PlacedItem:
    """A visual item in the expanded prompt: `num_tokens` placeholders from `offset` on."""

    item: VisualItem
    offset: int
    num_tokens: int
