"""33,000 tokens of text and pictures, prefilled in chunks, against transformers at every position.

A picture early in the prompt is the needle: what the model says at the end depends on it. A random
model cannot name it, but its logits move, and ours must move as the reference's do.
"""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from demo.checkpoint import CheckpointSpec
from demo.random_checkpoint import build_checkpoint
from model_executor.parity import EngineUnderTest, ParityCase, Reference, Run, difference
from model_executor.parity_cases import CaseBuilder
from multimodal.items import LoadedMedia
from multimodal.preprocessor_config import load_preprocessor_config

pytestmark = pytest.mark.slow

# float32 on both sides; sums over up to 33,000 positions. Measured here: 2.3e-5.
MAX_RELATIVE = 2e-4
# What another needle must do to the last logits for the comparison to be worth anything.
MIN_MOVED = 2e-3
CHUNK = 2048
NUM_TOKENS = 8
NUM_PICTURES = 48
NEEDLE = 5  # index of a picture about 3,500 tokens from the start
_WORDS = "The quick brown fox jumps over the lazy dog while seven small wizards watch quietly. "
_PAGES = "".join(f"Page {page}: {_WORDS * 7}<image>" for page in range(NUM_PICTURES))


@pytest.fixture(scope="module")
def long_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    spec = CheckpointSpec(
        hidden_size=64,
        num_heads=2,
        num_kv_heads=1,
        intermediate_size=128,
        max_position_embeddings=40_960,
    )
    return str(build_checkpoint(tmp_path_factory.mktemp("checkpoints") / "long", spec))


@pytest.fixture(scope="module")
def reference_model(long_checkpoint: str) -> Reference:
    return Reference(long_checkpoint, load_preprocessor_config(long_checkpoint))


@pytest.fixture(scope="module")
def long_engine(long_checkpoint: str) -> Iterator[EngineUnderTest]:
    under_test = EngineUnderTest(
        long_checkpoint,
        max_model_len=40_960,
        max_num_batched_tokens=CHUNK,
        enable_prefix_caching=True,
    )
    yield under_test
    under_test.close()


@pytest.fixture(scope="module")
def prompt(long_checkpoint: str) -> ParityCase:
    return build(long_checkpoint, "What is on page five?")


@pytest.fixture(scope="module")
def expected_run(prompt: ParityCase, reference_model: Reference) -> Run:
    return reference_model.run(prompt, NUM_TOKENS)


def build(checkpoint: str, question: str, seed: int = 0) -> ParityCase:
    """Prompts of all seeds have the same layout, but other pictures."""
    builder = CaseBuilder(checkpoint, seed=seed, min_pixels=200_000, max_pixels=320_000)
    case = builder.build(question, _PAGES + question)
    assert len(case.token_ids) > 32_768
    assert len(case.items) == NUM_PICTURES
    return case


def with_other_needle(case: ParityCase, other: ParityCase) -> ParityCase:
    """The same prompt with one picture of another."""
    items, media = list(case.items), list(case.media)
    items[NEEDLE] = replace(items[NEEDLE], item=other.items[NEEDLE].item)
    media[NEEDLE] = LoadedMedia("image", (other.items[NEEDLE].item,))
    assert items[NEEDLE].offset < 4096
    return replace(case, name="needle", items=tuple(items), media=tuple(media))


def assert_equal(ours: Run, expected: Run) -> None:
    found = difference(ours, expected)
    assert found.num_equal_tokens == found.num_tokens, found
    assert found.relative <= MAX_RELATIVE, found


def test_every_position_equals_transformers(
    prompt: ParityCase, expected_run: Run, long_engine: EngineUnderTest
) -> None:
    (ours,) = long_engine.run([prompt], NUM_TOKENS)
    assert ours.first_position == 0
    assert max(long_engine.step_sizes) == CHUNK
    assert_equal(ours, expected_run)


def test_another_question_about_the_same_pages_equals_transformers(
    prompt: ParityCase,
    long_checkpoint: str,
    long_engine: EngineUnderTest,
    reference_model: Reference,
) -> None:
    """All but its last tokens comes from the prefix cache."""
    long_engine.run([prompt], 1)
    question = build(long_checkpoint, "Which page shows a red circle, and why?")
    (ours,) = long_engine.run([question], NUM_TOKENS)
    assert ours.first_position > 32_768
    assert_equal(ours, reference_model.run(question, NUM_TOKENS))


def test_the_answer_depends_on_the_needle_as_in_transformers(
    prompt: ParityCase,
    expected_run: Run,
    long_checkpoint: str,
    long_engine: EngineUnderTest,
    reference_model: Reference,
) -> None:
    changed = with_other_needle(prompt, build(long_checkpoint, "What is on page five?", seed=1))
    expected = reference_model.run(changed, NUM_TOKENS)
    last = len(prompt.token_ids) - 1
    before, after = expected_run.logits[last], expected.logits[last]
    assert float((after - before).norm() / before.norm()) > MIN_MOVED
    (ours,) = long_engine.run([changed], NUM_TOKENS)
    assert ours.first_position < changed.items[NEEDLE].offset + changed.items[NEEDLE].num_tokens
    assert_equal(ours, expected)
