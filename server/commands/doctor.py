"""`qwen3vl-serve doctor [MODEL]`: is this machine fit to serve, and what is to be changed?"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from server.commands.findings import (
    Finding,
    Status,
    judge_gpus,
    judge_libraries,
    judge_machine,
    judge_plan,
)
from server.commands.readings import Libraries, Machine, read_libraries, read_machine
from server.settings import Settings, SettingsError, load_settings

_MARKS: Mapping[Status, str] = {"ok": "ok", "warn": "WARN", "bad": "BAD"}
_GIB = 2**30
# What `plan` prints as JSON for its arguments. Raises: ValueError, OSError.
MakePlan = Callable[[Sequence[str]], Mapping[str, Any]]


def main(argv: Sequence[str], make_plan: MakePlan) -> int:
    """Print a line for each check. Returns: the exit status: 1 if something is bad, 2 for wrong
    settings."""
    arguments = _parser().parse_args(argv)
    cache = {} if arguments.disk_dir is None else {"disk_dir": arguments.disk_dir}
    try:
        settings = load_settings(arguments.config, {"cache": cache} if cache else {})
    except SettingsError as error:
        print(f"qwen3vl-serve doctor: {error}", file=sys.stderr)
        return 2
    libraries, machine = read_libraries(), read_machine(settings)
    findings = list(judge(libraries, machine, settings))
    if arguments.model is not None:
        findings.append(check_plan(arguments.model, machine, make_plan))
    if arguments.json:
        print(json.dumps({"findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        print(to_text(findings))
    return 1 if any(finding.status == "bad" for finding in findings) else 0


def judge(libraries: Libraries, machine: Machine, settings: Settings) -> Iterator[Finding]:
    yield from judge_libraries(libraries)
    yield from judge_gpus(machine.gpus, libraries)
    yield from judge_machine(machine, settings)


def check_plan(model: str, machine: Machine, make_plan: MakePlan) -> Finding:
    try:
        return judge_plan(make_plan(plan_arguments(model, machine)))
    except (OSError, ValueError) as error:
        return Finding("memory", "bad", f"{model}: {error}", "a folder, or a name on Hugging Face")


def plan_arguments(model: str, machine: Machine) -> list[str]:
    """For what is free on this machine: its GPUs, or its memory if there is none."""
    if not machine.gpus:
        memory = ["--gpu", "CPU", "--gpu-memory-gib", f"{machine.memory_bytes / _GIB:.2f}"]
        return [model, *memory]
    smallest = min(machine.gpus, key=lambda gpu: gpu.total_bytes)
    memory_gib = f"{smallest.total_bytes / _GIB:.2f}"
    count = str(len(machine.gpus))
    return [model, "--gpu", smallest.name, "--gpu-memory-gib", memory_gib, "--count", count]


def to_text(findings: Sequence[Finding]) -> str:
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{_MARKS[finding.status]:<4}  {finding.name:<{width}}  {finding.message}")
        if finding.advice:
            lines.append(f"{'':<4}  {'':<{width}}  -> {finding.advice}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="qwen3vl-serve doctor", description=__doc__)
    parser.add_argument("model", nargs="?", metavar="MODEL", help="that is to fit as well")
    parser.add_argument("--config", type=Path, help="the server's settings")
    parser.add_argument("--disk-dir", metavar="DIR", help="measure this as the cache's disk tier")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    return parser
