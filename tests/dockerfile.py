"""Reads a Dockerfile: its stages and their instructions."""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "docker" / "Dockerfile"

_FLAG = re.compile(r"--([a-z-]+)=(\S+)\s+")
_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")


@dataclass(frozen=True, slots=True)
class Instruction:
    """Attributes:
    flags: (name, value) of `--mount=type=cache,...`, in order.
    argument: what follows them, in one line.
    """

    name: str
    flags: tuple[tuple[str, str], ...]
    argument: str

    @property
    def words(self) -> list[str]:
        """Of the exec form (`["a", "b"]`), or of a shell's line."""
        if self.argument.startswith("["):
            return list(json.loads(self.argument))
        return shlex.split(self.argument)

    def options_of(self, flag: str) -> list[dict[str, str]]:
        """`type=cache,target=/x` of each flag of this name, as mappings."""
        values = [value for name, value in self.flags if name == flag]
        return [dict(part.split("=", 1) for part in value.split(",")) for value in values]


@dataclass(frozen=True, slots=True)
class Stage:
    """Attributes:
    base: an image's name.
    """

    base: str
    instructions: tuple[Instruction, ...]

    def all(self, name: str) -> list[Instruction]:
        return [i for i in self.instructions if i.name == name]

    def last(self, name: str) -> Instruction:
        """The one in force. Raises: IndexError if there is none."""
        return self.all(name)[-1]

    @property
    def user(self) -> str:
        return self.last("USER").argument

    @property
    def health_command(self) -> list[str]:
        argument = self.last("HEALTHCHECK").argument
        return list(json.loads(argument.removeprefix("CMD").strip()))


def read_stages(text: str) -> dict[str, Stage]:
    """The stages by name, in order. Raises: ValueError for what is no Dockerfile of ours."""
    variables: dict[str, str] = {}
    stages: dict[str, tuple[str, list[Instruction]]] = {}
    current: list[Instruction] | None = None
    for line in _logical_lines(text):
        instruction = _read_instruction(line, variables)
        if instruction.name == "FROM":
            base, _, name = instruction.argument.partition(" AS ")
            current = []
            stages[name] = (base, current)
        elif current is not None:
            current.append(instruction)
        elif instruction.name == "ARG":
            variables |= read_pairs(instruction)
        else:
            raise ValueError(f"before the first FROM: {line}")
    return {name: Stage(base, tuple(found)) for name, (base, found) in stages.items()}


def read_pairs(instruction: Instruction) -> dict[str, str]:
    """`A=1 B=2` of ENV and ARG."""
    return dict(word.split("=", 1) for word in instruction.words)


def fill_in(text: str, variables: Mapping[str, str]) -> str:
    """Known variables by their values; others stay, as `$PATH` of the base image does."""
    return _VARIABLE.sub(lambda found: variables.get(found[1] or found[2], found[0]), text)


def _logical_lines(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    return [line.strip() for line in joined.splitlines() if line.strip()]


def _read_instruction(line: str, variables: Mapping[str, str]) -> Instruction:
    name, _, rest = line.partition(" ")
    name, rest, flags = name.upper(), rest.strip(), []
    while found := _FLAG.match(rest):
        flags.append((found[1], found[2]))
        rest = rest[found.end() :]
    argument = fill_in(rest, variables) if name == "FROM" else rest
    return Instruction(name, tuple(flags), argument)
