"""From RGB pixels to visual items. Nothing is decoded here; frames arrive one at a time."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from multimodal.items import LoadedMedia, Modality, VisualItem
from multimodal.keys import IdentityKind, content_key
from multimodal.options import MediaLimits, MediaOptions
from multimodal.patches import patchify
from multimodal.plan import VideoPlan, plan_clip, plan_image
from multimodal.preprocessor_config import PreprocessorConfig
from multimodal.resize import resize_rgb


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
    height, width = plan_image(rgb.shape[0], rgb.shape[1], options, config, limits)
    resized = resize_rgb(rgb, height, width)
    return _item("image", "image", (identity,), [resized], config, namespace)


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
    identities = video_identities(identity, plan)
    contiguous = (np.ascontiguousarray(frame) for frame in frames)
    return temporal_patches(contiguous, plan, "video", identities, config, namespace)


def video_identities(digest: str, plan: VideoPlan) -> list[tuple[str | int, ...]]:
    """What each temporal patch of a video file is made from: the file and the frame numbers."""
    return [(digest, *indices) for indices in _temporal_groups(plan)]


def frame_list_identities(digests: Sequence[str], plan: VideoPlan) -> list[tuple[str | int, ...]]:
    """What each temporal patch of a list of frames is made from: the frames' own files."""
    return [tuple(digests[index] for index in indices) for indices in _temporal_groups(plan)]


def temporal_patches(
    frames: Iterable[np.ndarray],
    plan: VideoPlan,
    kind: IdentityKind,
    identities: Sequence[tuple[str | int, ...]],
    config: PreprocessorConfig,
    namespace: str,
) -> LoadedMedia:
    """Turn the frames of a clip into its visual items; one raw frame is held at a time.

    Args:
        frames: (H, W, 3) uint8, C-contiguous, for `plan.indices` in order; the repetitions that
            fill the last temporal patch may be left out.
        identities: one per temporal patch.
    """
    items: list[VisualItem] = []
    resized: list[torch.Tensor] = []
    for frame in frames:
        resized.append(resize_rgb(frame, plan.height, plan.width))
        if len(resized) == config.temporal_patch_size:
            items.append(_item("video", kind, identities[len(items)], resized, config, namespace))
            resized = []
    if resized:
        resized += [resized[-1]] * (config.temporal_patch_size - len(resized))
        items.append(_item("video", kind, identities[len(items)], resized, config, namespace))
    assert len(items) == len(plan.timestamps), "frames do not match their plan"
    return LoadedMedia("video", tuple(items), plan.timestamps)


def _temporal_groups(plan: VideoPlan) -> Iterator[tuple[int, ...]]:
    size = len(plan.indices) // len(plan.timestamps)
    return (plan.indices[i : i + size] for i in range(0, len(plan.indices), size))


def _item(
    modality: Modality,
    kind: IdentityKind,
    identity: tuple[str | int, ...],
    frames: list[torch.Tensor],
    config: PreprocessorConfig,
    namespace: str,
) -> VisualItem:
    height, width = frames[0].shape[:2]
    key = content_key(
        kind,
        identity,
        height=height,
        width=width,
        patch_size=config.patch_size,
        merge_size=config.merge_size,
        namespace=namespace,
    )
    patches = patchify(frames, config.patch_size, config.merge_size)
    return VisualItem(
        modality, key, height // config.patch_size, width // config.patch_size, patches
    )
