"""Samples packed into rows of one length, with an attention mask that keeps them apart."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import torch

from demo.samples import Sample, SampleMaker
from demo.skills import OTHERS, SINGLE_PICTURE, Example

ROW_TOKENS = 320
# Steps at which freely placed things and the skills beyond one picture come in, and are all in.
FREE_STEPS = (700, 2200)
OTHER_STEPS = (500, 2000)
PHASE_STEPS = (3000, 6000)  # each time more of what is hard is drawn from here on


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of `ROW_TOKENS` tokens. Unused ends have token 0 and attend to themselves only.

    Attributes:
        token_ids: int64, (B, L).
        positions: int64, (3, B, L).
        attention: bool, (B, 1, L, L), true where a query (row) may look at a key (column).
        weights: float32, (B, L), of predicting the token.
        patches: uint8, (P, 1536); grids: int64, (items, 3), temporal, height, width in patches.
        glyphs, covers, boxes, places: int64, see `demo.samples.SeenItem`.
        answers: row, slice of the row and skill of each answer.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    attention: torch.Tensor
    weights: torch.Tensor
    patches: torch.Tensor
    grids: torch.Tensor
    glyphs: torch.Tensor
    covers: torch.Tensor
    boxes: torch.Tensor
    places: torch.Tensor
    answers: tuple[tuple[int, slice, str], ...]

    def to(self, device: torch.device | str) -> Self:
        """The same batch with its tensors on this device."""
        names = [field.name for field in fields(self) if field.name != "answers"]
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def share(step: int, steps: tuple[int, int]) -> float:
    """0 before the first of `steps`, 1 from the second on."""
    return min(1.0, max(0.0, (step - steps[0]) / (steps[1] - steps[0])))


def random_example(rng: random.Random, step: int) -> Example:
    """An example of the curriculum at this step."""
    others = 0.55 * share(step, OTHER_STEPS)
    makers = OTHERS if rng.random() < others else SINGLE_PICTURE
    phase = sum(step >= first for first in PHASE_STEPS)
    (maker,) = rng.choices(list(makers), [weights[phase] for weights in makers.values()])
    return maker(rng, rng.random() >= 0.97 * share(step, FREE_STEPS))


def batches(maker: SampleMaker, seed: int, num_rows: int, steps: Iterable[int]) -> Iterator[Batch]:
    """One batch for each of these steps of the curriculum; it depends on seed and step only."""
    for step in steps:
        rng = random.Random(f"{seed}/{step}")
        rows: list[list[Sample]] = [[] for _ in range(num_rows)]
        room = [ROW_TOKENS] * num_rows
        while True:
            sample = maker.make(rng, random_example(rng, step), ROW_TOKENS)
            length = len(sample.token_ids)
            row = next((row for row in range(num_rows) if room[row] >= length), None)
            if row is None:
                break
            rows[row].append(sample)
            room[row] -= length
        yield pack(rows, np.random.default_rng([seed, step]))


def pack(rows: Sequence[Sequence[Sample]], noise: np.random.Generator | None = None) -> Batch:
    """Put the samples of each row one after another."""
    count, length = len(rows), ROW_TOKENS
    token_ids = np.zeros((count, length), dtype=np.int64)
    positions = np.zeros((3, count, length), dtype=np.int64)
    weights = np.zeros((count, length), dtype=np.float32)
    samples = np.full((count, length), -1)
    branches = np.zeros((count, length), dtype=np.int64)
    answers: list[tuple[int, slice, str]] = []
    for row, members in enumerate(rows):
        start = 0
        for number, sample in enumerate(members):
            place = slice(start, start + len(sample.token_ids))
            token_ids[row, place] = sample.token_ids
            positions[:, row, place] = sample.positions
            weights[row, place] = sample.weights
            samples[row, place], branches[row, place] = number, sample.branches
            for branch, skill in enumerate(sample.skills, start=1):
                where = np.flatnonzero((sample.branches == branch) & (sample.weights > 0)) + start
                answers.append((row, slice(int(where[0]), int(where[-1]) + 1), skill))
            start = place.stop
    items = [item for members in rows for sample in members for item in sample.items]
    return Batch(
        token_ids=torch.from_numpy(token_ids),
        positions=torch.from_numpy(positions),
        attention=torch.from_numpy(_attention(samples, branches)),
        weights=torch.from_numpy(weights),
        patches=_with_noise(torch.cat([item.patches for item in items]), noise),
        grids=torch.tensor([(1, item.item.grid_h, item.item.grid_w) for item in items]),
        **{
            name: torch.from_numpy(np.concatenate([getattr(item, name) for item in items]))
            for name in ("glyphs", "covers", "boxes", "places")
        },
        answers=tuple(answers),
    )


def _attention(samples: np.ndarray, branches: np.ndarray) -> np.ndarray:
    same_sample = samples[:, :, None] == samples[:, None, :]
    same_branch = branches[:, :, None] == branches[:, None, :]
    in_prefix = branches[:, None, :] == 0
    length = samples.shape[1]
    causal = np.tri(length, dtype=bool)
    allowed = (same_sample & (same_branch | in_prefix) & causal) | np.eye(length, dtype=bool)
    return np.asarray(allowed[:, None])


def _with_noise(patches: torch.Tensor, noise: np.random.Generator | None) -> torch.Tensor:
    """A little grain, as compression leaves it."""
    if noise is None:
        return patches
    grain = noise.integers(-6, 7, size=patches.shape, dtype=np.int16)
    return (patches.to(torch.int16) + torch.from_numpy(grain)).clamp_(0, 255).to(torch.uint8)
