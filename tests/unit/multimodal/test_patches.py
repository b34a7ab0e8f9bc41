import numpy as np
import pytest
import torch
from test_grid import reference_function

from multimodal.patches import patchify

reference_patchify = reference_function("qwen3_vl/video_processing_qwen3_vl.py", "patchify")


def random_frames(count: int, height: int, width: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (height, width, 3)
    return [
        torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator) for _ in range(count)
    ]


def reference_rows(frames: list[torch.Tensor]) -> torch.Tensor:
    """The reference's rows, turned from (channel, frame, row, column) to ours."""
    video = torch.stack(frames).permute(0, 3, 1, 2)[None].contiguous()
    rows, _, _, _ = reference_patchify(None, video, 16, 2, len(frames))
    return rows[0].view(-1, 3, len(frames), 16, 16).permute(0, 2, 3, 4, 1).flatten(1)


@pytest.mark.parametrize("num_frames", [1, 2])
def test_patches_equal_the_reference_up_to_the_order_within_a_row(num_frames: int) -> None:
    frames = random_frames(num_frames, 96, 160)
    assert torch.equal(patchify(frames, 16, 2), reference_rows(frames))


def test_image_patches_have_768_bytes_and_temporal_patches_1536() -> None:
    frames = random_frames(2, 64, 96)
    assert patchify(frames[:1], 16, 2).shape == (24, 768)
    assert patchify(frames, 16, 2).shape == (24, 1536)


def test_the_first_row_is_the_top_left_patch_row_by_row() -> None:
    frame = torch.from_numpy(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3))
    assert torch.equal(patchify([frame], 16, 2)[0].view(16, 16, 3), frame[:16, :16])


def test_rows_are_in_merge_order() -> None:
    frame = torch.zeros(64, 64, 3, dtype=torch.uint8)
    frame[16:32, :16] = 7  # second patch row, first column: third in its 2 x 2 block
    rows = patchify([frame], 16, 2)
    assert [index for index, row in enumerate(rows) if row.any()] == [2]
