"""The checkpoint behind the model name `demo`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from demo.random_checkpoint import CheckpointSpec, build_checkpoint

# Small pictures and clips keep a CPU's answers prompt: at most 980 and 4096 visual tokens. The seed
# is one whose answers are mostly printable.
_SPEC = CheckpointSpec(
    image_max_pixels=980 * 32**2,
    video_max_pixels=2 * 4096 * 32**2,
    dtype=torch.bfloat16,
    seed=5,
)


@contextmanager
def embedded_checkpoint() -> Iterator[Path]:
    """A folder with the embedded checkpoint; building it takes about 50 ms."""
    with TemporaryDirectory(prefix="qwen3vl-serve-demo-") as folder:
        yield build_checkpoint(Path(folder), _SPEC)
