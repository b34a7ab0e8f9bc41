"""Our forward pass in vLLM against transformers, float32: all logits, greedy tokens."""

from collections.abc import Callable

import pytest

from model_executor.parity import EngineUnderTest, ParityCase, Reference, Run, difference
from model_executor.parity_cases import CaseBuilder
from tests.parity.conftest import NUM_TOKENS, SPECS

# float32 on both sides; kernels sum in different orders. Measured here: below 1e-5.
MAX_RELATIVE = 1e-3
# What a broken part must at least cost for the comparison to be worth anything.
MIN_BROKEN = 1e-2


def assert_equal(case: ParityCase, ours: Run, reference: Run) -> None:
    found = difference(ours, reference)
    assert found.num_equal_tokens == found.num_tokens, f"{case.name}: {found}"
    assert found.relative <= MAX_RELATIVE, f"{case.name}: {found}"


def assert_all_equal(
    under_test: EngineUnderTest, cases: list[ParityCase], expected: dict[str, Run]
) -> None:
    """Each case alone."""
    for case in cases:
        (ours,) = under_test.run([case], NUM_TOKENS)
        assert_equal(case, ours, expected[case.name])


@pytest.mark.parametrize("name", SPECS)
def test_logits_and_tokens_equal_transformers(
    name: str,
    cases: list[ParityCase],
    engine: Callable[..., EngineUnderTest],
    expected: Callable[[str], dict[str, Run]],
) -> None:
    assert_all_equal(engine(name), cases, expected(name))


@pytest.mark.parametrize("name", ["dense", "moe"])
def test_a_batch_of_eight_mixed_requests_equals_each_alone(
    name: str,
    cases: list[ParityCase],
    engine: Callable[..., EngineUnderTest],
    expected: Callable[[str], dict[str, Run]],
) -> None:
    mixed = (cases * 2)[:8]
    assert len({case.name for case in mixed}) == 5
    for case, ours in zip(mixed, engine(name).run(mixed, NUM_TOKENS), strict=True):
        assert_equal(case, ours, expected(name)[case.name])


def test_chunked_prefill_may_split_an_image(
    cases: list[ParityCase],
    engine: Callable[..., EngineUnderTest],
    expected: Callable[[str], dict[str, Run]],
) -> None:
    chunk = 16
    under_test = engine("dense", max_num_batched_tokens=chunk)
    num_split = 0
    for case in cases:
        ends = range(chunk, len(case.token_ids), chunk)
        num_split += sum(p.offset < e < p.offset + p.num_tokens for p in case.items for e in ends)
        (ours,) = under_test.run([case], NUM_TOKENS)
        assert max(under_test.step_sizes) <= chunk
        assert_equal(case, ours, expected("dense")[case.name])
    assert num_split > 0


@pytest.mark.parametrize("name", ["dense", "moe"])
def test_a_prefix_cache_hit_may_end_inside_an_image(
    name: str,
    checkpoint: Callable[[str], str],
    engine: Callable[..., EngineUnderTest],
    reference: Callable[[str], Reference],
) -> None:
    under_test = engine(name, enable_prefix_caching=True)
    # the same seed draws the same picture; the text after it differs
    first, second = (
        CaseBuilder(checkpoint(name), max_pixels=300_000, min_pixels=200_000).build(text, text)
        for text in ("Look: <image>What is it?", "Look: <image>Something else to ask.")
    )
    assert first.items[0].item.key == second.items[0].item.key
    under_test.run([first], 1)
    (ours,) = under_test.run([second], NUM_TOKENS)
    picture = second.items[0]
    assert picture.offset < ours.first_position < picture.offset + picture.num_tokens
    assert_equal(second, ours, reference(name).run(second, NUM_TOKENS))


def test_a_fully_cached_image_needs_no_pixels_again(
    checkpoint: Callable[[str], str],
    engine: Callable[..., EngineUnderTest],
    reference: Callable[[str], Reference],
) -> None:
    under_test = engine("dense", enable_prefix_caching=True)
    text = "<image>" + "What is in the picture? " * 10
    case = CaseBuilder(checkpoint("dense")).build("cached", text)
    under_test.run([case], 1)
    (ours,) = under_test.run([case], NUM_TOKENS)
    assert ours.first_position > case.items[0].offset + case.items[0].num_tokens
    assert_equal(case, ours, reference("dense").run(case, NUM_TOKENS))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dense", "moe"])
def test_a_compiled_backbone_gives_the_same(
    name: str,
    cases: list[ParityCase],
    engine: Callable[..., EngineUnderTest],
    expected: Callable[[str], dict[str, Run]],
) -> None:
    assert_all_equal(engine(name, enforce_eager=False), cases, expected(name))


def test_the_comparison_sees_a_missing_deepstack_level(
    cases: list[ParityCase],
    engine: Callable[..., EngineUnderTest],
    expected: Callable[[str], dict[str, Run]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = cases[1]
    under_test = engine("dense")
    model = under_test.model
    write = model.deepstack.write

    def write_without_last_level(is_multimodal, levels):  # type: ignore[no-untyped-def]
        levels[:, -model.config.text_config.hidden_size :] = 0
        write(is_multimodal, levels)

    monkeypatch.setattr(model.deepstack, "write", write_without_last_level)
    (ours,) = under_test.run([case], 1)
    assert difference(ours, reference_start(expected("dense")[case.name])).relative > MIN_BROKEN


def test_the_comparison_sees_wrong_positions(
    cases: list[ParityCase],
    engine: Callable[..., EngineUnderTest],
    expected: Callable[[str], dict[str, Run]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = cases[1]
    under_test = engine("dense")
    model = under_test.model
    correct = model.get_mrope_input_positions

    def with_height_and_width_swapped(tokens, features):  # type: ignore[no-untyped-def]
        positions, delta = correct(tokens, features)
        return positions[[0, 2, 1]], delta

    monkeypatch.setattr(model, "get_mrope_input_positions", with_height_and_width_swapped)
    (ours,) = under_test.run([case], 1)
    assert difference(ours, reference_start(expected("dense")[case.name])).relative > MIN_BROKEN


def reference_start(run: Run) -> Run:
    """The reference's first token only."""
    num_prompt_tokens = len(run.logits) - len(run.generated) + 1
    return Run(run.generated[:1], 0, run.logits[:num_prompt_tokens])
