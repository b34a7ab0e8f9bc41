"""The `rope_scaling` switch against transformers with the published YaRN parameters."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from demo.checkpoint import CheckpointSpec
from demo.random_checkpoint import build_checkpoint
from model_executor.parity import EngineUnderTest, ParityCase, Reference, Run, difference
from model_executor.parity_cases import CaseBuilder
from multimodal.preprocessor_config import load_preprocessor_config
from server.context_length import find_context_length
from server.settings import EngineSettings
from tests.parity.test_model import MAX_RELATIVE, MIN_BROKEN, assert_equal

ORIGINAL = 512
NUM_TOKENS = 16
LENGTHS = {"yarn-512k": 1024, "yarn-1m": 1953}  # 512 * 524,288 / 262,144; * 1,000,000 / 262,144
FACTORS = {"yarn-512k": 2.0, "yarn-1m": 3.0}


@pytest.fixture(scope="module")
def short_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    spec = CheckpointSpec(max_position_embeddings=ORIGINAL)
    return str(build_checkpoint(tmp_path_factory.mktemp("checkpoints") / "short", spec))


def build(checkpoint: str, length: int) -> ParityCase:
    """As long as the context but for the answer, with pictures on both sides of the old end."""

    def with_words(num_words: int) -> ParityCase:
        text = "<image>Before" + " page" * num_words + "<image>What is in the picture?"
        return CaseBuilder(checkpoint).build("long", text)

    num_others, per_ten = (len(with_words(num).token_ids) for num in (0, 10))
    case = with_words((length - NUM_TOKENS - num_others) * 10 // (per_ten - num_others))
    assert ORIGINAL < case.items[-1].offset < len(case.token_ids) <= length - NUM_TOKENS
    return case


def published(factor: float) -> dict[str, Any]:
    """https://huggingface.co/Qwen/Qwen3-VL-8B-Instruct, with this checkpoint's sizes."""
    return {
        "rope_type": "yarn",
        "rope_theta": 5_000_000.0,
        "mrope_section": [6, 5, 5],
        "mrope_interleaved": True,
        "factor": factor,
        "original_max_position_embeddings": ORIGINAL,
    }


@contextmanager
def scaled_engine(checkpoint: str, settings: EngineSettings) -> Iterator[EngineUnderTest]:
    context = find_context_length(checkpoint, settings)
    under_test = EngineUnderTest(
        checkpoint, max_model_len=context.num_tokens, hf_overrides=context.hf_overrides
    )
    try:
        yield under_test
    finally:
        under_test.close()


def run_reference(checkpoint: str, case: ParityCase, rope: dict[str, Any] | None) -> Run:
    config = load_preprocessor_config(checkpoint)
    return Reference(checkpoint, config, rope).run(case, NUM_TOKENS)


@pytest.mark.parametrize("choice", LENGTHS)
def test_logits_over_the_longer_context_equal_transformers(
    choice: Any, short_checkpoint: str
) -> None:
    case = build(short_checkpoint, LENGTHS[choice])
    expected = run_reference(short_checkpoint, case, published(FACTORS[choice]))
    with scaled_engine(short_checkpoint, EngineSettings(rope_scaling=choice)) as under_test:
        assert under_test.llm.model_config.max_model_len == LENGTHS[choice]
        (ours,) = under_test.run([case], NUM_TOKENS)
    assert_equal(case, ours, expected)
    # without the switch the model is another one
    unscaled = run_reference(short_checkpoint, case, None)
    assert difference(ours, unscaled).relative > MIN_BROKEN > MAX_RELATIVE
