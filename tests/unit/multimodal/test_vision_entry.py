import random
from io import BytesIO
from pathlib import Path

import pytest
import torch

from multimodal.vision_entry import OVERHEAD_BYTES, DamagedEntry, read_entry, write_entry

NAMESPACE, KEY = "0a" * 16, "1b" * 32
MAX_BYTES = 1 << 20
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.uint8]


def make_embedding(
    num_tokens: int, width: int, dtype: torch.dtype = torch.bfloat16
) -> torch.Tensor:
    values = torch.randn(num_tokens, width, generator=torch.Generator().manual_seed(num_tokens))
    return values.mul(50).abs().to(dtype)


def write(path: Path, embedding: torch.Tensor) -> Path:
    with path.open("wb", buffering=0) as file:
        write_entry(file, NAMESPACE, KEY, embedding)
    return path


def read(path: Path, max_bytes: int = MAX_BYTES) -> torch.Tensor:
    return read_entry(str(path), NAMESPACE, KEY, max_bytes=max_bytes)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_written_is_read(tmp_path: Path, dtype: torch.dtype) -> None:
    sizes = random.Random(str(dtype))
    shapes = [(sizes.randrange(1, 200), sizes.randrange(1, 300)) for _ in range(20)]
    for shape in [(0, 0), (0, 8), (3, 0), (1, 1), *shapes]:
        embedding = make_embedding(*shape, dtype)
        found = read(write(tmp_path / "entry", embedding))
        assert (found.shape, found.dtype) == (embedding.shape, dtype)
        assert torch.equal(found, embedding)


def test_an_entry_is_as_large_as_its_payload_and_the_overhead(tmp_path: Path) -> None:
    embedding = make_embedding(3, 5)
    assert write(tmp_path / "entry", embedding).stat().st_size == 30 + OVERHEAD_BYTES


def test_rows_that_are_not_contiguous_are_written_in_order(tmp_path: Path) -> None:
    embedding = make_embedding(6, 8)[::2, ::2]
    assert torch.equal(read(write(tmp_path / "entry", embedding)), embedding)


def test_an_embedding_outlives_its_file(tmp_path: Path) -> None:
    embedding = make_embedding(6, 8)
    path = write(tmp_path / "entry", embedding)
    found = read(path)
    path.write_bytes(bytes(path.stat().st_size))
    path.unlink()
    assert torch.equal(found, embedding)


def test_an_embedding_can_be_written_to(tmp_path: Path) -> None:
    found = read(write(tmp_path / "entry", make_embedding(2, 2)))
    assert found.zero_().sum() == 0


@pytest.mark.parametrize(
    "embedding",
    [torch.zeros(2, 2, dtype=torch.int64), torch.zeros(4), torch.zeros(1, 2, 2)],
    ids=["dtype", "one dimension", "three dimensions"],
)
def test_what_is_no_embedding_is_not_written(embedding: torch.Tensor) -> None:
    file = BytesIO()
    with pytest.raises(ValueError, match="no embedding"):
        write_entry(file, NAMESPACE, KEY, embedding)
    assert file.getvalue() == b""


def test_names_that_do_not_fit_the_header_are_not_written() -> None:
    with pytest.raises(ValueError, match="too long"):
        write_entry(BytesIO(), "0a" * 200, "1b" * 200, make_embedding(1, 1))


@pytest.mark.parametrize(("namespace", "key"), [("0b" * 16, KEY), (NAMESPACE, "1c" * 32)])
def test_another_entrys_content_is_damage(tmp_path: Path, namespace: str, key: str) -> None:
    path = write(tmp_path / "entry", make_embedding(2, 2))
    with pytest.raises(DamagedEntry, match="another entry"):
        read_entry(str(path), namespace, key, max_bytes=MAX_BYTES)


def test_the_limit_is_on_the_whole_file(tmp_path: Path) -> None:
    path = write(tmp_path / "entry", make_embedding(2, 2))
    num_bytes = path.stat().st_size
    assert read(path, max_bytes=num_bytes).shape == (2, 2)
    with pytest.raises(DamagedEntry, match="out of bounds"):
        read(path, max_bytes=num_bytes - 1)


def test_a_missing_file_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "entry")
