"""Versions of what is installed. This project's own comes from git's tags, when it is built."""

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

PROJECT = "qwen3vl-serve"


def find_version(*packages: str) -> str | None:
    """Of the first of them that is installed."""
    for package in packages:
        with suppress(PackageNotFoundError):
            return version(package)
    return None
