"""Both sides of the stream benchmark give the client what the engine said, chunk by chunk."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import vllm
from transformers import AutoTokenizer

from benchmarks.floor_stream import write_stream
from benchmarks.our_stream import make_app
from benchmarks.side_process import SideProcess, side_process
from benchmarks.stream import StreamRow, StreamTimes, print_report
from benchmarks.stream_engine import StepEngine
from benchmarks.stream_side import App, measure
from benchmarks.stream_work import NUM_UNTIMED, VARIANTS, Message, Variant, Work, read_message

NUM_OUTPUTS = 24
NUM_OTHER_BODIES = 3  # the role, the end of the choice, the end of the stream
EVENT = b'data: {"choices": [{"delta": {"content": "A cat."}}]}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.fixture
def engine(hybrid_checkpoint: Path) -> StepEngine:
    return StepEngine(AutoTokenizer.from_pretrained(hybrid_checkpoint))


@pytest.fixture
def ours(hybrid_checkpoint: Path, engine: StepEngine) -> App:
    return make_app(str(hybrid_checkpoint), engine, TemporaryDirectory())


@pytest.fixture(scope="module")
def stock(hybrid_checkpoint: Path) -> Iterator[SideProcess]:
    """vLLM's own application, of this environment: the plugin is not loaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_PLUGINS", "")
        python = Path(sys.executable)
        with side_process(python, "benchmarks.stock_stream", str(hybrid_checkpoint)) as side:
            yield side


@pytest.mark.parametrize("variant", VARIANTS)
async def test_our_side_sends_what_the_engine_said(
    ours: App, engine: StepEngine, variant: Variant
) -> None:
    run = await measure(ours, engine, Work(variant, num_streams=2, num_outputs=NUM_OUTPUTS))
    num_silent = {"thinking": 3, "tools": 9}.get(variant, 0)
    assert run.num_bodies == 0
