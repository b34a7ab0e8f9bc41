"""Items of a step spread over ranks that have all vision weights, against one process."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import multiprocessing

from model_executor.qwen3_vl.vision import Grid
from tests.parity.small_tower import (
    IMAGE_WIDTH,
    VIDEO_WIDTH,
    join_group,
    leave_group,
    make_tower,
    random_patches,
)

pytestmark = pytest.mark.slow

_NUM_RANKS = 3
# float32; kernels may sum in another order in a batch of another size. Measured here: below 1e-5.
_TOLERANCE = 1e-4
_BATCHES: Sequence[tuple[Sequence[Grid], int]] = (
    ([(8, 6), (2, 2), (10, 14), (4, 4), (2, 20)], IMAGE_WIDTH),
    ([(6, 8)] * 7, VIDEO_WIDTH),
    ([(12, 4), (2, 6), (4, 4)], IMAGE_WIDTH),  # one each
    ([(10, 6), (4, 8)], IMAGE_WIDTH),  # a rank has none
    ([(14, 2)], VIDEO_WIDTH),
)


def encode_all(rank: int, folder: Path, num_ranks: int, is_replicated: bool) -> None:
    join_group(folder / "meeting", rank, num_ranks)
    tower = make_tower(is_replicated=is_replicated)
    results = []
    for grids, width in _BATCHES:
        patches = random_patches(grids, width)
        results.append(tower.encode(patches, grids))
        assert results[-1].untyped_storage().nbytes() == results[-1].nbytes
    torch.save(results, folder / f"{rank}.pt")
    leave_group()


def run(folder: Path, num_ranks: int, *, is_replicated: bool) -> list[list[torch.Tensor]]:
    """The embeddings of each batch, by rank."""
    folder.mkdir()
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=encode_all, args=(rank, folder, num_ranks, is_replicated))
        for rank in range(num_ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * num_ranks
    return [torch.load(folder / f"{rank}.pt") for rank in range(num_ranks)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("towers")


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[torch.Tensor]:
    (results,) = run(folder / "one", 1, is_replicated=False)
    return results


@pytest.fixture(scope="module")
def spread(folder: Path) -> list[list[torch.Tensor]]:
    return run(folder / "spread", _NUM_RANKS, is_replicated=True)


def test_all_ranks_have_all_embeddings(
    spread: list[list[torch.Tensor]], expected: list[torch.Tensor]
) -> None:
    for results in spread:
        for (grids, _), ours, reference in zip(_BATCHES, results, expected, strict=True):
            assert ours.shape == (sum(h * w for h, w in grids) // 4, 96 * 3)
            torch.testing.assert_close(ours, reference, rtol=_TOLERANCE, atol=_TOLERANCE)


def test_an_item_that_a_rank_encodes_alone_is_equal_bit_by_bit(
    spread: list[list[torch.Tensor]], expected: list[torch.Tensor]
) -> None:
    alone = len(_BATCHES) - 1
    assert all(torch.equal(results[alone], expected[alone]) for results in spread)
