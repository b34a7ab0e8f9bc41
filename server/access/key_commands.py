"""`qwen3vl-serve keys add NAME`, `ls` and `rm NAME`: the file of API keys from the command line."""

import argparse
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from server.access.key_file import (
    NAME_PATTERN,
    KeyEntry,
    KeyFileError,
    hash_key,
    locked,
    make_key,
    read_keys,
    write_keys,
)

_COLUMNS = ("NAME", "ROLE", "REQUESTS/MIN", "TOKENS/MIN", "CONCURRENT", "EXPIRES")


def main(argv: Sequence[str]) -> int:
    """Run one of the commands; the return value is the process's exit status."""
    arguments = _parser().parse_args(argv)
    commands = {"add": _add, "ls": _list, "rm": _remove}
    try:
        commands[arguments.command](arguments)
    except KeyFileError as error:
        print(f"qwen3vl-serve: {error}", file=sys.stderr)
        return 2
    return 0


def _add(arguments: argparse.Namespace) -> None:
    """Raises: KeyFileError."""
    api_key = make_key()
    entry = KeyEntry(
        name=arguments.name,
        hash=hash_key(api_key),
        role="admin" if arguments.admin else "user",
        requests_per_minute=arguments.requests_per_minute,
        tokens_per_minute=arguments.tokens_per_minute,
        max_concurrent=arguments.max_concurrent,
        expires=arguments.expires,
    )
    with locked(arguments.file) as path:
        entries = read_keys(path)[0].entries if path.exists() else ()
        if any(known.name == entry.name for known in entries):
            raise KeyFileError(f"{path}: there is a key named {entry.name} already")
        write_keys(path, (*entries, entry))
    print(api_key)
    print(f"{path} holds only its hash: this is the one time it is shown", file=sys.stderr)


def _list(arguments: argparse.Namespace) -> None:
    """Raises: KeyFileError."""
    rows = [_COLUMNS, *map(_describe, read_keys(arguments.file)[0].entries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _remove(arguments: argparse.Namespace) -> None:
    """Raises: KeyFileError."""
    with locked(arguments.file) as path:
        entries = read_keys(path)[0].entries
        kept = tuple(entry for entry in entries if entry.name != arguments.name)
        if len(kept) == len(entries):
            raise KeyFileError(f"{path}: there is no key named {arguments.name}")
        write_keys(path, kept)


def _describe(entry: KeyEntry) -> tuple[str, ...]:
    limits = (entry.requests_per_minute, entry.tokens_per_minute, entry.max_concurrent)
    expires = "-" if entry.expires is None else entry.expires.isoformat()
    return (
        entry.name,
        entry.role,
        *("-" if limit is None else str(limit) for limit in limits),
        f"{expires} (expired)" if entry.has_expired else expires,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="qwen3vl-serve keys")
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", help="make a key, and print it")
    add.add_argument("name", metavar="NAME", type=_read_name, help="letters, digits and _.@-")
    add.add_argument("--admin", action="store_true", help="for the operator's routes as well")
    for flag in ("--requests-per-minute", "--tokens-per-minute", "--max-concurrent"):
        add.add_argument(flag, metavar="N", type=_read_limit, help="default: the server's")
    add.add_argument("--expires", metavar="TIME", type=_read_time, help="2030-01-31T00:00:00Z")
    listing = commands.add_parser("ls", help="names, roles and limits")
    remove = commands.add_parser("rm", help="take a key out of the file")
    remove.add_argument("name", metavar="NAME")
    for command in (add, listing, remove):
        command.add_argument("--file", type=Path, required=True, help="`access.api_keys_file`")
    return parser


def _read_name(text: str) -> str:
    if not re.fullmatch(NAME_PATTERN, text):
        raise argparse.ArgumentTypeError("must be up to 64 letters, digits and _.@-")
    return text


def _read_limit(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a number above 0")
    return int(text)


def _read_time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("must be a time like 2030-01-31T00:00:00Z") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
