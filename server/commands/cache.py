"""`qwen3vl-serve cache ls`, `stats`, `verify` and `clear`: the files of the vision cache."""

import argparse
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multimodal.vision_directory import (
    StoredEntry,
    find_damage,
    form_of,
    list_entries,
    remove_entries,
)
from server.settings import SettingsError, load_settings
from server.units import format_age, format_bytes

_SHORT = 12  # digits of a key or a namespace that tell it from others
_COLUMNS = ("KEY", "NAMESPACE", "SIZE", "USED", "TOKENS x WIDTH", "DTYPE")


@dataclass(frozen=True, slots=True)
class _Asked:
    """The arguments of one command, and what is in its directory."""

    arguments: argparse.Namespace
    entries: Sequence[StoredEntry]

    def print(self, values: Mapping[str, Any], text: str) -> None:
        print(json.dumps(values, indent=2) if self.arguments.json else text)


def main(argv: Sequence[str]) -> int:
    """Run one command. Returns: the exit status: 1 for damage or what is not confirmed, 2 if the
    directory or the settings cannot be used."""
    arguments = _parser().parse_args(argv)
    if not arguments.dir.is_dir():
        return _refuse(f"there is no directory {arguments.dir}")
    commands: dict[str, Callable[[_Asked], int]] = {
        "ls": _list,
        "stats": _summarise,
        "verify": _verify,
        "clear": _clear,
    }
    asked = _Asked(arguments, list(list_entries(arguments.dir)))
    try:
        return commands[arguments.command](asked)
    except SettingsError as error:
        return _refuse(str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        return _refuse(f"{error.filename or arguments.dir}: {error.strerror}")


def _list(asked: _Asked) -> int:
    now = time.time()
    newest_first = sorted(asked.entries, key=lambda entry: -entry.used_at)
    rows = [_describe(entry, now) for entry in newest_first]
    cells = [_COLUMNS, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    asked.print({"entries": rows}, "\n".join(lines))
    return 0


def _describe(entry: StoredEntry, now: float) -> dict[str, Any]:
    form = form_of(entry)
    return {
        "key": entry.key,
        "namespace": entry.namespace,
        "bytes": entry.num_bytes,
        "age_s": round(max(0.0, now - entry.used_at), 1),
        "shape": None if form is None else list(form.shape),
        "dtype": None if form is None else form.dtype,
    }


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["key"][:_SHORT],
        row["namespace"][:_SHORT],
        format_bytes(row["bytes"]),
        f"{format_age(row['age_s'])} ago",
        "damaged" if row["shape"] is None else " x ".join(map(str, row["shape"])),
        row["dtype"] or "-",
    )


def _summarise(asked: _Asked) -> int:
    """Raises: SettingsError."""
    entries, directory = asked.entries, asked.arguments.dir
    namespaces = Counter[str]()
    for entry in entries:
        namespaces[entry.namespace] += entry.num_bytes
    oldest = min((entry.used_at for entry in entries), default=None)
    values = {
        "directory": str(directory),
        "entries": len(entries),
        "bytes": sum(entry.num_bytes for entry in entries),
        "namespaces": dict(namespaces.most_common()),
        "oldest_age_s": None if oldest is None else round(max(0.0, time.time() - oldest), 1),
        "limit_bytes": _limit_of(directory, asked.arguments.config),
        "free_bytes": shutil.disk_usage(directory).free,
    }
    asked.print(values, _summary(values))
    return 0


def _summary(values: Mapping[str, Any]) -> str:
    limit, oldest = values["limit_bytes"], values["oldest_age_s"]
    rows = [
        ("entries", str(values["entries"])),
        ("size", format_bytes(values["bytes"])),
        ("limit", "not in these settings" if limit is None else format_bytes(limit)),
        ("free on the file system", format_bytes(values["free_bytes"])),
        ("used longest ago", "-" if oldest is None else f"{format_age(oldest)} ago"),
        ("namespaces", str(len(values["namespaces"]))),
        *((f"  {name[:_SHORT]}", format_bytes(n)) for name, n in values["namespaces"].items()),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)


def _limit_of(directory: Path, config: Path | None) -> int | None:
    """The budget that the settings give this directory; None if they do not name it.

    Raises: SettingsError.
    """
    cache = load_settings(config, {}).cache
    limits = ((cache.disk_dir, cache.disk_bytes), (cache.host_dir, cache.host_bytes))
    for named, num_bytes in limits:
        if named is not None and os.path.realpath(named) == os.path.realpath(directory):
            return num_bytes
    return None


def _verify(asked: _Asked) -> int:
    """Raises: OSError if a damaged entry cannot be removed."""
    damaged = [
        (entry, reason)
        for entry in asked.entries
        if (reason := find_damage(entry)) is not None  # one entry in memory at a time
    ]
    if asked.arguments.remove:
        remove_entries(entry for entry, _ in damaged)
    values = {
        "verified": len(asked.entries),
        "damaged": [{"path": entry.path, "reason": reason} for entry, reason in damaged],
        "removed": asked.arguments.remove and bool(damaged),
    }
    lines = [f"{entry.path}: {reason}" for entry, reason in damaged]
    end = " and removed" if values["removed"] else ""
    lines.append(f"{len(asked.entries)} entries verified, {len(damaged)} damaged{end}")
    asked.print(values, "\n".join(lines))
    return 1 if damaged else 0


def _clear(asked: _Asked) -> int:
    """Raises: OSError."""
    total = format_bytes(sum(entry.num_bytes for entry in asked.entries))
    question = f"Remove {len(asked.entries)} entries ({total}) in {asked.arguments.dir}? [y/N] "
    if not asked.arguments.yes and not _is_confirmed(question):
        print("nothing is removed", file=sys.stderr)
        return 1
    count, num_bytes = remove_entries(asked.entries)
    removed = {"removed": count, "bytes": num_bytes}
    asked.print(removed, f"{count} entries removed, {format_bytes(num_bytes)}")
    return 0


def _is_confirmed(question: str) -> bool:
    """Not where nobody can answer."""
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _refuse(message: str) -> int:
    print(f"qwen3vl-serve cache: {message}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="qwen3vl-serve cache", description="The files of a host or disk tier."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("ls", help="the entries, those used last first")
    stats = commands.add_parser("stats", help="sums, by namespace too")
    stats.add_argument("--config", type=Path, help="the server's settings, for the limit")
    verify = commands.add_parser("verify", help="read all entries; exit status 1 for damage")
    verify.add_argument("--remove", action="store_true", help="remove damaged entries")
    clear = commands.add_parser("clear", help="remove all entries; a server may go on meanwhile")
    clear.add_argument("--yes", action="store_true", help="do not ask")
    for command in (listing, stats, verify, clear):
        command.add_argument("--dir", type=Path, required=True, help="cache.host_dir or disk_dir")
        command.add_argument("--json", action="store_true", help="one JSON document")
    return parser
