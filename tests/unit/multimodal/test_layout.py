"""Placeholders are expanded in prompt order; nothing is left over, nothing is missing."""

import pytest
import torch

from multimodal.items import LoadedMedia, Modality, VisualItem
from multimodal.layout import VisionTokens, expand_prompt

START, END, IMAGE, VIDEO = 1, 2, 3, 4
TOKENS = VisionTokens(vision_start=START, vision_end=END, image_pad=IMAGE, video_pad=VIDEO)


def make_media(modality: Modality, *grids: tuple[int, int]) -> LoadedMedia:
    items = tuple(
        VisualItem(modality, f"{i}", h, w, torch.empty(0)) for i, (h, w) in enumerate(grids)
    )
    timestamps = tuple(i + 0.25 for i in range(len(grids))) if modality == "video" else ()
    return LoadedMedia(modality, items, timestamps)


def test_the_token_ids_are_read_from_the_config_of_the_checkpoint() -> None:
    config = {"vision_start_token_id": START, "vision_end_token_id": END, "other": 0}
    config |= {"image_token_id": IMAGE, "video_token_id": VIDEO}
    assert VisionTokens.from_config(config) == TOKENS


def encode(text: str) -> list[int]:
    return [100 + ord(character) for character in text]


def test_an_image_takes_one_placeholder_per_four_patches() -> None:
    prompt = expand_prompt([9, START, IMAGE, END, 9], [make_media("image", (4, 6))], TOKENS, encode)
    assert prompt.token_ids == (9, START, *[IMAGE] * 6, END, 9)
    assert [(p.offset, p.num_tokens) for p in prompt.items] == [(2, 6)]


def test_a_video_has_a_timestamp_before_each_temporal_patch_inside_the_outer_pair() -> None:
    video = make_media("video", (2, 2), (2, 2))
    prompt = expand_prompt([START, VIDEO, END], [video], TOKENS, encode)
    first, second = encode("<0.2 seconds>"), encode("<1.2 seconds>")
    block = [START, VIDEO, END]
    assert list(prompt.token_ids) == [START, *first, *block, *second, *block, END]
    assert [prompt.token_ids[p.offset] for p in prompt.items] == [VIDEO, VIDEO]


def test_images_and_videos_are_matched_in_their_own_order() -> None:
    media = [make_media("video", (2, 2)), make_media("image", (2, 2)), make_media("image", (2, 4))]
    prompt = expand_prompt([IMAGE, 9, VIDEO, 9, IMAGE], media, TOKENS, encode)
    assert [p.item.modality for p in prompt.items] == ["image", "video", "image"]
    assert [p.num_tokens for p in prompt.items] == [1, 1, 2]
    assert prompt.count_tokens("image") == 3
    assert prompt.count_tokens("video") == 1


def test_a_placeholder_without_media_is_an_error() -> None:
    with pytest.raises(ValueError, match="more placeholders"):
        expand_prompt([IMAGE], [], TOKENS, encode)


def test_media_without_a_placeholder_are_an_error() -> None:
    with pytest.raises(ValueError, match="more media"):
        expand_prompt([9], [make_media("image", (2, 2))], TOKENS, encode)
