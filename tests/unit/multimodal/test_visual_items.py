import numpy as np
import torch
from media_files import gradient

from multimodal.items import LoadedMedia
from multimodal.options import MediaLimits, MediaOptions
from multimodal.patches import patchify
from multimodal.preprocessor_config import PreprocessorConfig
from multimodal.resize import resize_rgb
from multimodal.visual_items import image_item, video_items

CONFIG = PreprocessorConfig()
LIMITS = MediaLimits()


def make_video(num_frames: int, identity: str = "clip", fps: float = 24.0) -> LoadedMedia:
    frames = np.stack([gradient(96, 64) // (index + 1) for index in range(num_frames)])
    indices = tuple(range(0, 12 * num_frames, 12))
    return video_items(frames, indices, fps, identity, MediaOptions(), CONFIG, LIMITS, "weights")


def make_image(namespace: str = "weights", **options: int) -> tuple[str, torch.Tensor]:
    item = image_item(gradient(300, 200), "id", MediaOptions(**options), CONFIG, LIMITS, namespace)
    return item.key, item.patches


def test_image_is_resized_and_cut_into_one_frame_patches() -> None:
    item = image_item(gradient(300, 200), "id", MediaOptions(), CONFIG, LIMITS, "weights")
    assert (item.modality, item.grid_h, item.grid_w) == ("image", 14, 20)
    expected = patchify([resize_rgb(gradient(300, 200), 224, 320)], 16, 2)
    assert torch.equal(item.patches, expected)
    assert item.patches.shape == (14 * 20, 768)


def test_options_that_give_the_same_size_share_a_key() -> None:
    assert make_image()[0] == make_image(max_pixels=1_000_000)[0]
    assert make_image()[0] != make_image(max_pixels=40_000)[0]


def test_namespaces_are_apart() -> None:
    assert make_image("weights")[0] != make_image("other")[0]


def test_video_is_one_item_per_two_frames() -> None:
    media = make_video(6)
    assert media.modality == "video"
    assert media.timestamps == (0.25, 1.25, 2.25)
    assert [item.patches.shape for item in media.items] == [(24, 1536)] * 3
    assert {item.modality for item in media.items} == {"video"}


def test_odd_video_repeats_its_last_frame() -> None:
    media = make_video(3)
    frame = torch.from_numpy(gradient(96, 64) // 3)
    assert media.timestamps == (0.25, 1.0)
    assert torch.equal(media.items[1].patches, patchify([frame, frame], 16, 2))


def test_single_frame_counts_as_two() -> None:
    media = make_video(1)
    assert media.timestamps == (0.0,)
    assert media.items[0].patches.shape == (24, 1536)


def test_repeated_last_frame_has_a_key_of_its_own() -> None:
    assert make_video(3).items[0].key == make_video(4).items[0].key
    assert make_video(3).items[1].key != make_video(4).items[1].key


def test_key_does_not_depend_on_the_frame_rate() -> None:
    assert make_video(4, fps=24.0).items[1].key == make_video(4, fps=30.0).items[1].key


def test_key_depends_on_the_file() -> None:
    assert make_video(4, "one").items[0].key != make_video(4, "two").items[0].key
