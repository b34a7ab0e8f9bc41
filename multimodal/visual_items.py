"""From planned media and RGB pixels to visual items. Nothing is decoded here.

An outline has every item's key and grid, which is all that a prompt and a cache need; patches are
made from the frames of one item at a time.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from multimodal.items import LoadedMedia, Modality, VisualItem
from multimodal.keys import IdentityKind, content_key
from multimodal.options import MediaLimits, MediaOptions
from multimodal.patches import patchify
from multimodal.plan import VideoPlan, plan_clip, plan_image
from multimodal.preprocessor_config import PreprocessorConfig
from multimodal.resize import resize_rgb

ItemIdentity = tuple[str | int, ...]


def image_item(
    rgb: np.ndarray,
    identity: str,
    options: MediaOptions,
    config: PreprocessorConfig,
    limits: MediaLimits,
    namespace: str,
) -> VisualItem:
    """One image, ready for the vision tower.

    Args:
        rgb: (H, W, 3) uint8, C-contiguous, oriented.
        identity: `bytes_digest` of the file, or `array_digest` of the pixels.
    Raises: InvalidOption, MediaTooLarge.
    """
    size = plan_image(rgb.shape[0], rgb.shape[1], options, config, limits)
    (item,) = image_outline(size, identity, config, namespace).items
    return replace(item, patches=item_patches([rgb], item, config))


def video_items(
    frames: np.ndarray,
    indices: tuple[int, ...],
    source_fps: float,
    identity: str,
    options: MediaOptions,
    config: PreprocessorConfig,
    limits: MediaLimits,
    namespace: str,
) -> LoadedMedia:
    """A clip whose frames are chosen and decoded already.

    Args:
        frames: (T, H, W, 3) uint8, T >= 1.
        indices: the T frame numbers in the source, for timestamps and keys.
        source_fps: frame rate of the source, above 0.
        identity: `bytes_digest` of the file, or `array_digest` of `frames`.
        options: only the pixel options are read.
    Raises: InvalidOption, MediaTooLarge.
    """
    plan = plan_clip(indices, source_fps, frames.shape[1], frames.shape[2], options, config, limits)
    outline = clip_outline(plan, "video", video_identities(identity, plan), config, namespace)
    contiguous = [np.ascontiguousarray(frame) for frame in frames]
    size = config.temporal_patch_size
    groups = (contiguous[start : start + size] for start in range(0, len(contiguous), size))
    items = [
        replace(item, patches=item_patches(group, item, config))
        for item, group in zip(outline.items, groups, strict=True)
    ]
    return replace(outline, items=tuple(items))


def video_identities(digest: str, plan: VideoPlan) -> list[ItemIdentity]:
    """What each temporal patch of a video file is made from: the file and the frame numbers."""
    return [(digest, *indices) for indices in temporal_groups(plan)]


def frame_list_identities(digests: Sequence[str], plan: VideoPlan) -> list[ItemIdentity]:
    """What each temporal patch of a list of frames is made from: the frames' own files."""
    return [tuple(digests[index] for index in indices) for indices in temporal_groups(plan)]


def temporal_groups(plan: VideoPlan) -> list[tuple[int, ...]]:
    """The frame numbers of each temporal patch."""
    size = len(plan.indices) // len(plan.timestamps)
    return [plan.indices[i : i + size] for i in range(0, len(plan.indices), size)]


def image_outline(
    size: tuple[int, int], identity: str, config: PreprocessorConfig, namespace: str
) -> LoadedMedia:
    """An image without its patches.

    Args:
        size: (height, width) in pixels after resizing.
    """
    item = _item_outline("image", "image", (identity,), size, config, namespace)
    return LoadedMedia("image", (item,))


def clip_outline(
    plan: VideoPlan,
    kind: IdentityKind,
    identities: Sequence[ItemIdentity],
    config: PreprocessorConfig,
    namespace: str,
) -> LoadedMedia:
    """A clip without its patches: one item per temporal patch.

    Args:
        identities: one per temporal patch.
    """
    size = plan.height, plan.width
    items = [
        _item_outline("video", kind, identity, size, config, namespace) for identity in identities
    ]
    return LoadedMedia("video", tuple(items), plan.timestamps)


def item_patches(
    frames: Sequence[np.ndarray], item: VisualItem, config: PreprocessorConfig
) -> torch.Tensor:
    """The patches of one item (see `VisualItem`).

    Args:
        frames: of the item, each (H, W, 3) uint8, C-contiguous; the repetitions that fill a
            temporal patch may be left out.
    """
    height, width = item.grid_h * config.patch_size, item.grid_w * config.patch_size
    resized = [resize_rgb(frame, height, width) for frame in frames]
    if item.modality == "video":
        resized += [resized[-1]] * (config.temporal_patch_size - len(resized))
    return patchify(resized, config.patch_size, config.merge_size)


def _item_outline(
    modality: Modality,
    kind: IdentityKind,
    identity: ItemIdentity,
    size: tuple[int, int],
    config: PreprocessorConfig,
    namespace: str,
) -> VisualItem:
    height, width = size
    key = content_key(
        kind,
        identity,
        height=height,
        width=width,
        patch_size=config.patch_size,
        merge_size=config.merge_size,
        namespace=namespace,
    )
    return VisualItem(modality, key, height // config.patch_size, width // config.patch_size)
