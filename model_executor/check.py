"""`qwen3vl-serve check`: is this checkpoint's forward pass the same here as in transformers?"""

import logging

from model_executor.parity import EngineUnderTest, Reference, Run, difference
from model_executor.parity_cases import CaseBuilder
from multimodal.preprocessor_config import load_preprocessor_config

# float32 on both sides; different kernels sum in different orders.
MAX_RELATIVE = 1e-3
_NUM_TOKENS = 64
_MAX_MODEL_LEN = 2048


def check(model: str) -> int:
    """Print one line per case. Returns 0 if all agree, else 1.

    Both models are held in memory in float32: this takes 8 bytes per parameter.
    """
    logging.disable(logging.WARNING)  # two libraries' start-up messages
    cases = CaseBuilder(model).standard_cases()
    reference = Reference(model, load_preprocessor_config(model))
    expected = [reference.run(case, _NUM_TOKENS) for case in cases]
    engine = EngineUnderTest(model, max_model_len=_MAX_MODEL_LEN)
    print(f"{'case':<24}{'positions':>10}{'max':>12}{'mean':>12}{'relative':>12}{'tokens':>10}")
    agree = [
        _report(case.name, engine.run([case], _NUM_TOKENS)[0], run)
        for case, run in zip(cases, expected, strict=True)
    ]
    batch = engine.run(cases, _NUM_TOKENS)
    agree += [
        _report(f"{case.name}, in a batch", ours, run)
        for case, ours, run in zip(cases, batch, expected, strict=True)
    ]
    print("equal" if all(agree) else f"DIFFERENT: relative above {MAX_RELATIVE:g}, or other tokens")
    return 0 if all(agree) else 1


def _report(name: str, ours: Run, reference: Run) -> bool:
    found = difference(ours, reference)
    print(
        f"{name:<24}{len(reference.logits):>10}{found.max_abs:>12.2e}{found.mean_abs:>12.2e}"
        f"{found.relative:>12.2e}{found.num_equal_tokens:>7}/{found.num_tokens}"
    )
    return found.relative <= MAX_RELATIVE and found.num_equal_tokens == found.num_tokens
