from typing import Any

import pytest

from multimodal.items import VisualItem
from multimodal.preprocessor_config import PreprocessorConfig
from server.encode_request import EncodeRequest, encode_query, parse_query
from server.errors import Conflict, InvalidRequest

NAMESPACE = "0a" * 32
KEY = "b1" * 32
CONFIG = PreprocessorConfig()


def parse(**changes: Any) -> EncodeRequest:
    query = {"key": KEY, "modality": "image", "grid_h": "4", "grid_w": "6", "namespace": NAMESPACE}
    given = {name: value for name, value in (query | changes).items() if value is not None}
    return parse_query(given, CONFIG, NAMESPACE)


@pytest.mark.parametrize(("modality", "patch_bytes"), [("image", 768), ("video", 1536)])
def test_what_the_client_writes_is_what_the_encoder_reads(modality: Any, patch_bytes: int) -> None:
    item = VisualItem(modality, KEY, 4, 6)
    read = parse_query(encode_query(item, NAMESPACE), CONFIG, NAMESPACE)
    assert read == EncodeRequest(modality, KEY, 4, 6, num_tokens=6, num_bytes=24 * patch_bytes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("key", KEY[:-1]),
        ("key", KEY.upper()),
        ("key", "../" + KEY[3:]),
        ("key", KEY + "\n"),
        ("modality", "audio"),
        ("modality", ""),
        ("grid_h", "0"),
        ("grid_h", "-2"),
        ("grid_h", "3"),
        ("grid_h", "2.0"),
        ("grid_h", "०२"),
        ("grid_w", "1e3"),
        ("grid_w", "100000"),
        ("grid_w", ""),
    ],
)
def test_a_wrong_value_is_named(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(**{name: value})
    assert caught.value.param == name


@pytest.mark.parametrize("name", ["key", "modality", "grid_h", "grid_w", "namespace"])
def test_what_is_missing_is_named(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(**{name: None})
    assert (caught.value.param, caught.value.code) == (name, "missing_parameter")


def test_the_largest_item_of_the_preprocessing_is_the_largest_here() -> None:
    assert parse(grid_h="256", grid_w="256").num_tokens == CONFIG.max_item_tokens
    with pytest.raises(InvalidRequest, match=str(CONFIG.max_item_tokens)):
        parse(grid_h="256", grid_w="258")


def test_another_namespace_is_a_conflict_that_tells_our_own() -> None:
    with pytest.raises(Conflict, match=NAMESPACE):
        parse(namespace="ff" * 32)
