"""Answers under adapters made by `peft`, against transformers with the same adapters."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from model_executor.parity import (
    EngineUnderTest,
    LoraAdapter,
    ParityCase,
    Reference,
    Run,
    difference,
)
from multimodal.preprocessor_config import load_preprocessor_config
from tests.lora_adapters import apply_adapter, make_adapter
from tests.parity.test_model import MIN_BROKEN, assert_equal

_NUM_TOKENS = 12
# name: what is adapted, whether the vision tower is
_ADAPTERS: dict[str, tuple[tuple[str, ...], bool]] = {
    "language": (("language",), False),
    "tower": (("tower",), True),
    "both": (("language", "tower"), True),
    "vocabulary": (("vocabulary",), False),
}
_NAMES = (None, *_ADAPTERS)


@pytest.fixture(scope="module")
def adapters(
    checkpoint: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, LoraAdapter]:
    made: dict[str, LoraAdapter] = {}
    for number, (name, (parts, has_tower)) in enumerate(_ADAPTERS.items(), 1):
        folder = tmp_path_factory.mktemp("adapters") / name
        make_adapter(checkpoint("dense"), folder, *parts, seed=number)
        made[name] = LoraAdapter(number, str(folder), has_tower)
    return made


@pytest.fixture(scope="module")
def adapted(
    checkpoint: Callable[[str], str], adapters: dict[str, LoraAdapter], cases: list[ParityCase]
) -> dict[str | None, dict[str, Run]]:
    """The reference's answers: adapter, case."""
    found: dict[str | None, dict[str, Run]] = {}
    model = checkpoint("dense")
    for name in _NAMES:
        reference = Reference(model, load_preprocessor_config(model))
        if name is not None:
            apply_adapter(reference._model, Path(adapters[name].folder))
        found[name] = {case.name: reference.run(case, _NUM_TOKENS) for case in cases}
    return found


@pytest.fixture(scope="module")
def lora_engine(checkpoint: Callable[[str], str]) -> Iterator[EngineUnderTest]:
    """Fewer slots than adapters, so that some have to give way."""
    engine = EngineUnderTest(checkpoint("dense"), max_model_len=1024, max_loras=3)
    yield engine
    engine.close()


def keyed(case: ParityCase, adapter: LoraAdapter | None, salt: int) -> ParityCase:
    """The case with the keys that items have under an adapter of the vision tower.

    Args:
        salt: as many times is everything encoded anew.
    """
    mark = f"{salt:04x}{adapter.lora_int_id if adapter and adapter.has_tower else 0:04x}"
    items = (replace(p, item=replace(p.item, key=p.item.key[:-8] + mark)) for p in case.items)
    return replace(case, items=tuple(items))


def run(
    engine: EngineUnderTest,
    cases: Sequence[ParityCase],
    adapters: Sequence[LoraAdapter | None],
    salt: int = 0,
) -> list[Run]:
    marked = [keyed(*pair, salt) for pair in zip(cases, adapters, strict=True)]
    return engine.run(marked, _NUM_TOKENS, adapters)


def test_the_adapters_matter(
    adapted: dict[str | None, dict[str, Run]], cases: list[ParityCase]
) -> None:
    """Each changes what it should: one of the tower only answers to pictures."""
    for name in _ADAPTERS:
        for case in cases:
            base = adapted[None][case.name]
            ours = adapted[name][case.name]
            start = len(base.logits) - _NUM_TOKENS + 1
            change = difference(
                Run(ours.generated[:1], 0, ours.logits[:start]),
                Run(base.generated[:1], 0, base.logits[:start]),
            ).relative
            assert (change > MIN_BROKEN) == (name != "tower" or bool(case.items)), (name, case.name)


@pytest.mark.parametrize("name", _NAMES)
def test_logits_and_tokens_under_an_adapter_equal_transformers(
    name: str | None,
    lora_engine: EngineUnderTest,
    adapters: dict[str, LoraAdapter],
    adapted: dict[str | None, dict[str, Run]],
    cases: list[ParityCase],
) -> None:
    adapter = adapters[name] if name else None
    for case in cases:
        (ours,) = run(lora_engine, [case], [adapter])
        assert_equal(case, ours, adapted[name][case.name])


def test_a_batch_of_several_adapters_and_none_equals_each_alone(
    lora_engine: EngineUnderTest,
    adapters: dict[str, LoraAdapter],
    adapted: dict[str | None, dict[str, Run]],
    cases: list[ParityCase],
) -> None:
    names = (None, "both", "tower", None, "language")
    # every case under every one of these, with images and videos in the same step
    for shift in range(len(cases)):
        mixed = [cases[(index + shift) % len(cases)] for index in range(len(names))]
        chosen = [adapters[name] if name else None for name in names]
        answers = run(lora_engine, mixed, chosen, salt=1 + shift)
        for name, case, ours in zip(names, mixed, answers, strict=True):
            assert_equal(case, ours, adapted[name][case.name])
