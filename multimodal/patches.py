"""From resized frames to the rows that the vision tower's patch embedding reads."""

from collections.abc import Sequence

import torch


def patchify(frames: Sequence[torch.Tensor], patch_size: int, merge_size: int) -> torch.Tensor:
    """Cut the frames of one visual item into patches, in one copy.

    Args:
        frames: one frame (an image) or those of a temporal patch; each (H, W, 3) uint8, all of one
            size, H and W multiples of patch_size * merge_size.
    Returns: uint8, (H * W / patch_size**2, num_frames * patch_size**2 * 3). Rows are in merge order
        (block row, block column, row in block, column in block); one is (frame, row, column, RGB).
    """
    height, width, channels = frames[0].shape
    factor = patch_size * merge_size
    rows, columns = height // factor, width // factor
    patches = torch.empty(
        (rows, columns, merge_size, merge_size, len(frames), patch_size, patch_size, channels),
        dtype=torch.uint8,
    )
    for index, frame in enumerate(frames):
        blocks = frame.view(rows, merge_size, patch_size, columns, merge_size, patch_size, channels)
        patches[:, :, :, :, index].copy_(blocks.permute(0, 3, 1, 4, 2, 5, 6))
    return patches.view(rows * columns * merge_size**2, -1)
