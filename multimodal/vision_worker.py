"""What the model tells the vision cache in its worker process: how to encode, and how long it took.

The model registers itself; vLLM makes the cache's connector and the model apart from each other.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

Encode = Callable[
    [torch.Tensor, Sequence[tuple[int, int]], Sequence[int] | None], list[torch.Tensor]
]

_encoders: list[Encode] = []


def register_encoder(encode: Encode) -> None:
    """Args: encode: uint8 patches of items of one kind (see `VisualItem`), grids, adapters ->
    embeddings.
    """
    _encoders[:] = [encode]


def encode_patches(
    patches: torch.Tensor, grid: tuple[int, int], lora_int_id: int | None
) -> torch.Tensor:
    """(tokens, width) on the model's device. Args: lora_int_id: None if there are no adapters."""
    lora_int_ids = None if lora_int_id is None else [lora_int_id]
    (embedding,) = encode_batch(patches, [grid], lora_int_ids)
    return embedding


def encode_batch(
    patches: torch.Tensor,
    grids: Sequence[tuple[int, int]],
    lora_int_ids: Sequence[int] | None = None,
) -> Sequence[torch.Tensor]:
    """One (tokens, width) for each grid, on the model's device."""
    return _encoders[0](patches, grids, lora_int_ids)


class EncodeClock:
    """Times the vision tower. On a GPU nothing waits for it: its own clock is read later."""

    def __init__(self) -> None:
        self._num_bytes, self._seconds = 0, 0.0
        self._on_gpu: list[tuple[Any, Any, int]] = []  # events before and after, bytes

    def run(self, encode: Callable[[], torch.Tensor], device: torch.device) -> torch.Tensor:
        """Call `encode`, which makes embeddings on `device`."""
        started = self.start(device)
        embeddings = encode()
        self.stop(started, embeddings.nbytes)
        return embeddings

    def start(self, device: torch.device) -> Any:
        """For `stop`, when embeddings have been made on `device`."""
        return time.perf_counter() if device.type != "cuda" else _record_event()

    def stop(self, started: Any, num_bytes: int) -> None:
        if isinstance(started, float):
            self._add(num_bytes, time.perf_counter() - started)
        else:
            self._on_gpu.append((started, _record_event(), num_bytes))

    def take(self) -> tuple[int, float]:
        """Bytes of embeddings and seconds since the last call."""
        while self._on_gpu and self._on_gpu[0][1].query():
            begin, end, num_bytes = self._on_gpu.pop(0)
            self._add(num_bytes, begin.elapsed_time(end) / 1000)
        taken = self._num_bytes, self._seconds
        self._num_bytes, self._seconds = 0, 0.0
        return taken

    def _add(self, num_bytes: int, seconds: float) -> None:
        self._num_bytes += num_bytes
        self._seconds += seconds


def _record_event() -> Any:
    make_event: Any = torch.cuda.Event
    event = make_event(enable_timing=True)
    event.record()
    return event


encode_clock = EncodeClock()
