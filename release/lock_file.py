"""Lock files: one `name==version` a line, perhaps with a marker."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REQUIREMENTS = Path(__file__).parents[1] / "requirements"


@dataclass(frozen=True, slots=True)
class Pin:
    """One package; `name` as it writes itself."""

    name: str
    version: str

    @property
    def key(self) -> str:
        return canonicalize_name(self.name)


def read_lock(kind: str) -> list[Pin]:
    """The pins of `requirements/KIND.lock`, by name."""
    return sorted(_read_pins(REQUIREMENTS / f"{kind}.lock"), key=lambda pin: pin.key)


def _read_pins(path: Path) -> Iterator[Pin]:
    for line in path.read_text().splitlines():
        text = re.sub(r"(^|\s)#.*", "", line).strip()
        if text:
            requirement = Requirement(text)
            [pinned] = requirement.specifier
            yield Pin(requirement.name, pinned.version)
