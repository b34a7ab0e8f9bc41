import numpy as np
import pytest
import torch
from media_files import gradient
from PIL import Image
from torch.nn import functional as F

from multimodal.resize import resize_rgb


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(64, 96), (256, 320), (32, 640), (1088, 1920)])
def test_equals_interpolation_of_planes_as_the_reference_does_it(size: tuple[int, int]) -> None:
    rgb = noise(123, 457)
    planes = torch.from_numpy(rgb).permute(2, 0, 1).contiguous()[None]
    expected = F.interpolate(planes, size=size, mode="bicubic", antialias=True)[0].permute(1, 2, 0)
    resized = resize_rgb(rgb, *size)
    assert resized.dtype == torch.uint8
    assert torch.equal(resized, expected)


def test_differs_from_pillow_by_rounding_only() -> None:
    rgb = noise(300, 500)
    expected = np.asarray(Image.fromarray(rgb).resize((224, 160), Image.Resampling.BICUBIC))
    difference = np.abs(resize_rgb(rgb, 160, 224).numpy().astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


def test_same_size_shares_memory() -> None:
    rgb = gradient(64, 32)
    assert resize_rgb(rgb, 32, 64).data_ptr() == rgb.ctypes.data


def test_result_is_contiguous() -> None:
    assert resize_rgb(gradient(50, 40), 64, 96).is_contiguous()
