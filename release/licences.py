"""Licences of everything that is locked: `python -m release.licences` writes docs/licences.md.

They are read from the metadata of the installed packages. What that leaves open, and packages that
only a GPU needs and that are not installed here, stand in licences.toml with where it says so.
"""

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.utils import canonicalize_name

from release.lock_file import Pin, read_lock

PAGE = Path(__file__).parents[1] / "docs" / "licences.md"
TABLE = Path(__file__).with_name("licences.toml")
_CLASSIFIERS = {
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: ISC License (ISCL)": "ISC",
    "License :: OSI Approved :: The Unlicense (Unlicense)": "Unlicense",
}
_COPYLEFT = ("GPL", "MPL", "EPL", "CDDL", "EUPL")
_INTRODUCTION = """\
# Licences of dependencies

The project is Apache-2.0. This is what its packages are under, as SPDX expressions: those of the
CPU server (`requirements/cpu.lock`), then those that only the CUDA server has
(`requirements/cuda.lock`). `make licences` makes this page from the packages' own metadata; what
that leaves open is read from the packages and stands, with its source, in
`release/licences.toml`. `LicenseRef` is a licence that has no SPDX identifier. The packages of the
tests and of `qwen3vl-serve bench` are not in the images and not listed. This page lists facts and
is no legal advice.
"""


class UnknownLicence(Exception):
    """Neither the package's metadata nor licences.toml tells it."""


@cache
def read_table() -> Mapping[str, Mapping[str, Mapping[str, str]]]:
    """Sections `packages`, `cuda` and `bundled`; packages by their canonical names."""
    return tomllib.loads(TABLE.read_text())


def find_licence(name: str) -> str:
    """As an SPDX expression. Raises: UnknownLicence."""
    key = canonicalize_name(name)
    table = read_table()
    by_hand = table["packages"].get(key) or table["cuda"].get(key)
    found = by_hand["licence"] if by_hand else read_licence(key)
    if found is None:
        raise UnknownLicence(f"{name}: add it to {TABLE.name}, with its source")
    return canonicalize_license_expression(found)


def read_licence(name: str) -> str | None:
    """What the metadata of an installed package says without doubt."""
    try:
        message = metadata(name)
    except PackageNotFoundError:
        return None
    for field in ("License-Expression", "License"):
        if field in message:
            with suppress(InvalidLicenseExpression):
                return canonicalize_license_expression(message[field])
    classifiers = message.get_all("Classifier") or []
    named = [text for text in classifiers if text.startswith("License ::")]
    return _CLASSIFIERS.get(named[0]) if len(named) == 1 else None


def is_copyleft(expression: str) -> bool:
    """Whether it, or a part of it, asks for the source of changes or of more."""
    return any(name in expression for name in _COPYLEFT)


def render_page() -> str:
    """docs/licences.md. Raises: UnknownLicence."""
    cpu, cuda = read_lock("cpu"), read_lock("cuda")
    known = {pin.key for pin in cpu}
    lines = [_INTRODUCTION, *_copyleft_lines([*cpu, *cuda])]
    lines += ["", "## CPU", "", *_package_lines(cpu)]
    lines += ["", "## CUDA, beside those", ""]
    lines += _package_lines(pin for pin in cuda if pin.key not in known)
    return "\n".join(lines) + "\n"


def _copyleft_lines(pins: Iterable[Pin]) -> Iterator[str]:
    found = {pin.name: find_licence(pin.name) for pin in pins}
    yield "## Copyleft and proprietary"
    yield ""
    yield "| Package | Licence | |"
    yield "|---|---|---|"
    for name, licence in found.items():
        if is_copyleft(licence):
            yield f"| {name} | {licence} | used as it is |"
    for name, row in read_table()["bundled"].items():
        yield f"| {name} | {row['licence']} | {row['what']} |"
    restricted = [name for name, licence in found.items() if "LicenseRef-" in licence]
    yield ""
    yield f"Under terms of their makers, not free software: {', '.join(restricted)}."


def _package_lines(pins: Iterable[Pin]) -> Iterator[str]:
    yield "| Package | Licence |"
    yield "|---|---|"
    for pin in pins:
        yield f"| {pin.name} | {find_licence(pin.name)} |"


if __name__ == "__main__":
    PAGE.write_text(render_page())
