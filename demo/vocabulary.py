"""The tokenizer of the demo checkpoint, its merges trained on what the demo model talks about."""

import json
import random
import re

from transformers import PreTrainedTokenizerFast

from demo.chat_template import chat_template
from demo.skills import OTHERS, SINGLE_PICTURE, Example
from demo.tokenizer import build_tokenizer

_SEED, _NUM_EXAMPLES, _NUM_MERGES = 1, 1500, 560
_CAPITALS = re.compile(r"[A-Z]{2,}")  # words to read stay letters: any word can be spelled


def demo_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with the hybrid chat template; the same on every machine."""
    rng = random.Random(_SEED)
    makers = [*SINGLE_PICTURE, *OTHERS]
    examples = [makers[i % len(makers)](rng, True) for i in range(_NUM_EXAMPLES)]
    corpus = [_CAPITALS.sub(" ", text) for example in examples for text in _texts(example)]
    tokenizer = build_tokenizer(corpus, _NUM_MERGES)
    tokenizer.chat_template = chat_template("hybrid")
    return tokenizer


def _texts(example: Example) -> list[str]:
    lines = ["system\nYou are a helpful assistant.\nuser\nassistant\n", "<0.2 seconds>\n\n"]
    lines += [json.dumps(tool) for tool in example.tools]
    lines += ["# Tools\n\nYou may call these functions:\n\nTo call one, answer with its name and "]
    lines += ['arguments:\n{"name": ..., "arguments": {...}}\n']
    for question in example.questions:
        lines += [f"{question.text}\n", f"{question.thought}\n\n", question.answer]
    return lines
