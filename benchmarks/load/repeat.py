"""The command line of a run, as its result tells it: complete, and without secrets."""

import re
from collections.abc import Sequence

_MASK = "***"
_SECRET = r"(?:key|token|secret|password)"
# `--api-key X`, `--api-key=X` and `NAME_KEY=X`, alone or within a command
_VALUE = re.compile(rf"(?i)(--[\w-]*{_SECRET}[= ]|\b\w*_{_SECRET}=)[^\s'\"]+")
_USER = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def masked(argv: Sequence[str]) -> list[str]:
    """What looks like a secret becomes `***`."""
    return [mask(argument) for argument in argv]


def mask(text: str) -> str:
    return _USER.sub(_MASK, _VALUE.sub(rf"\1{_MASK}", text))


def seed_flag(argv: Sequence[str], seed: int) -> Sequence[str]:
    """What is missing if the seed was drawn."""
    is_given = any(argument.partition("=")[0] == "--seed" for argument in argv)
    return () if is_given else ("--seed", str(seed))
