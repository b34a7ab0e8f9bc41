"""docs/migration.md has every flag of the installed `vllm serve`, and names flags that exist."""

import re
from collections import Counter
from pathlib import Path

from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

from server.settings import iterate_fields

PAGE = Path(__file__).parents[2] / "docs" / "migration.md"


def read_rows() -> list[tuple[list[str], str, str]]:
    """(vLLM's flags, what is here, why) of each row."""
    rows = re.findall(r"^\| (`--.*?) \| (.*?) \|(.*)\|$", PAGE.read_text(), re.MULTILINE)
    return [(re.findall(r"`(--[\w-]+)`", flags), here, why) for flags, here, why in rows]


def vllm_flags() -> set[str]:
    parser = make_arg_parser(FlexibleArgumentParser())
    return {
        next(name for name in action.option_strings if name.startswith("--"))
        for action in parser._actions
        if action.option_strings and "--help" not in action.option_strings
    }


def our_flags() -> set[str]:
    names = (name.split(".")[1] for name, _ in iterate_fields())
    return {"--config", *("--" + name.replace("_", "-") for name in names)}


def test_every_flag_of_vllm_has_one_row() -> None:
    listed = Counter(flag for flags, _, _ in read_rows() for flag in flags)
    known = vllm_flags()
    assert len(known) > 200
    assert listed.keys() ^ known == set()
    assert [flag for flag, count in listed.items() if count > 1] == []


def test_every_flag_that_is_named_as_ours_is_there() -> None:
    for _, here, why in read_rows():
        named = set(re.findall(r"`(--[\w-]+)[ `]", here + why))
        assert named - our_flags() == set()
        assert here in ("no", "fixed", "not needed", "MODEL") or here.strip("`") in our_flags()


def test_a_flag_of_the_same_name_is_named() -> None:
    for flags, here, _ in read_rows():
        same = set(flags) & our_flags() - {"--model"}
        assert not same or here.strip("`") in same, flags


def test_what_is_fixed_or_missing_has_its_reason() -> None:
    bare = [f for f, here, why in read_rows() if here in ("no", "fixed") and not why.strip()]
    assert bare == []
