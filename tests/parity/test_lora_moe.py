"""Adapters of a mixture of experts, against transformers with the same adapter."""

from collections.abc import Callable
from pathlib import Path

from model_executor.parity import EngineUnderTest, LoraAdapter, ParityCase, Reference
from multimodal.preprocessor_config import load_preprocessor_config
from tests.lora_adapters import apply_adapter, make_adapter
from tests.parity.test_lora import run
from tests.parity.test_model import assert_equal

_NUM_TOKENS = 12


def test_attention_of_a_mixture_of_experts_takes_adapters(
    checkpoint: Callable[[str], str],
    engine: Callable[..., EngineUnderTest],
    cases: list[ParityCase],
    tmp_path: Path,
) -> None:
    """The experts run as they do without adapters, and cannot be adapted."""
    model = checkpoint("moe")
    under_test = engine("moe", max_loras=1)
    targets = under_test.model.describe_lora_targets()
    assert [name for name in targets if "language_model" in name and "mlp" in name] == []
    adapter = LoraAdapter(1, str(make_adapter(model, tmp_path / "moe", "attention", "tower")), True)
    reference = Reference(model, load_preprocessor_config(model))
    for chosen in (None, adapter):
        if chosen is not None:
            apply_adapter(reference._model, tmp_path / "moe")
        for case, ours in zip(cases, run(under_test, cases, [chosen] * len(cases)), strict=True):
            assert_equal(case, ours, reference.run(case, _NUM_TOKENS))
