"""docs/cli.md names what the commands have."""

import argparse
from pathlib import Path

import pytest

from server import cli
from server.commands import cache, chat, doctor
from server.start_report import list_fields
from tests.unit.server.test_doctor_command import found
from tests.unit.server.test_start_report import FACTS

PAGE = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()


def flags(parser: argparse.ArgumentParser) -> set[str]:
    """Those of its own commands too."""
    own = {option for action in parser._actions for option in action.option_strings}
    groups = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    below = (flags(command) for group in groups for command in group.choices.values())
    return own.union(*below)


@pytest.mark.parametrize("module", [cache, chat, doctor], ids=lambda module: module.__name__)
def test_every_flag_is_there(module) -> None:
    found_flags = flags(module._parser()) - {"-h", "--help"}
    assert [flag for flag in sorted(found_flags) if flag not in PAGE] == []


def test_every_command_is_there() -> None:
    commands = {*cli._OWN_PARSERS, "serve", "check"}
    assert [name for name in commands if f"| `qwen3vl-serve {name}" not in PAGE] == []


def test_every_field_of_the_report_is_there() -> None:
    assert [name for name in list_fields(FACTS) if f"`{name}`" not in PAGE] == []


def test_every_check_of_the_doctor_is_there() -> None:
    named = {name for name in found() if not name.startswith("gpu ")}
    assert [name for name in named if f"`{name}`" not in PAGE] == []
