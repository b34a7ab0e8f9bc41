"""The commands and programs that README and documents show do what they say."""

import base64
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.load.arguments import parse_arguments
from server.settings import iterate_fields
from tests.e2e.real_server import RealServer, server_environment

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/quickstart.md")
EXAMPLES = ROOT / "demo" / "examples"
# Commands that are not run, by their beginning, and why.
NOT_RUN = {
    "make serve": "it sets up an environment; it must be a target",
    ".venv/bin/qwen3vl-serve bench": "a load test takes too long; its flags are parsed",
    ".venv/bin/qwen3vl-serve serve /models/": "needs a checkpoint; its flags are parsed",
    "qwen3vl-serve serve Qwen/": "needs a GPU and the hub; its flags are parsed",
    ".venv/bin/qwen3vl-serve check /models/": "needs a checkpoint; its flags are parsed",
    "pip install '.[cuda]'": "needs vLLM for CUDA; the extra must be there",
}
# Programs that are no whole ones, by their first line, and why.
FRAGMENTS = {"client.chat.completions.create(...": "shows one argument"}


@dataclass(frozen=True)
class Command:
    """A line behind `$`, and what is shown below it."""

    page: str
    line: str
    shown: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.line, comments=True)

    @property
    def is_run(self) -> bool:
        return not self.line.startswith(tuple(NOT_RUN))


def read_commands() -> Iterator[Command]:
    for page in PAGES:
        for block in _blocks(page, "console"):
            for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                line, _, shown = part.partition("\n")
                yield Command(page, line, shown.strip())


def read_programs() -> Iterator[tuple[str, str]]:
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        page = str(path.relative_to(ROOT))
        for index, block in enumerate(_blocks(page, "python")):
            if not block.startswith(tuple(FRAGMENTS)):
                yield f"{page} {index}", block


def _blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


COMMANDS = list(read_commands())
PROGRAMS = dict(read_programs())


def run(command: list[str], folder: Path) -> str:
    ran = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
        env=server_environment(PYTHONPATH=str(ROOT)),
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def assert_like(shown: str, printed: str) -> None:
    """`…` stands for anything, and numbers in usage for any numbers."""
    usage = re.compile(r'("\w+_tokens":)\d+')
    pattern = ".*".join(map(re.escape, usage.sub(r"\1N", shown).split("…")))
    assert re.fullmatch(pattern, usage.sub(r"\1N", printed).strip(), re.DOTALL), printed


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.is_run], ids=lambda c: c.line[:70])
def test_a_command_prints_what_is_shown(command: Command, demo: RealServer, tmp_path: Path) -> None:
    line = command.line.replace("http://127.0.0.1:8000", demo.base_url).replace('"demo"', '"tiny"')
    line = re.sub(r"(demo/ask\.py)", rf"\1 --base-url {demo.base_url}/v1", line)
    line = line.replace(".venv/bin/python", sys.executable)
    line = re.sub(r"^(\.venv/bin/)?qwen3vl-serve", f"{sys.executable} -m server.cli", line)
    writes = "--file" in command.words
    printed = run(["bash", "-c", line], tmp_path if writes else ROOT)
    assert printed
    if command.shown:
        assert_like(command.shown, printed)


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if not c.is_run], ids=lambda c: c.line[:70]
)
def test_a_command_that_is_not_run_is_one(command: Command) -> None:
    program, *arguments = command.words
    if program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif program == "pip":
        assert "\ncuda = [" in (ROOT / "pyproject.toml").read_text()
    elif arguments[0] == "bench":
        parse_arguments(arguments[1:])
    else:
        fields = {"--" + name.split(".")[1].replace("_", "-") for name, _ in iterate_fields()}
        assert {word for word in arguments if word.startswith("--")} <= fields


def test_every_exception_is_needed() -> None:
    for start in NOT_RUN:
        assert any(command.line.startswith(start) for command in COMMANDS), start
    pages = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    assert [start for start in FRAGMENTS if f"```python\n{start}" not in pages] == []


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_runs(name: str, demo: RealServer, monkeypatch: pytest.MonkeyPatch) -> None:
    source = PROGRAMS[name].replace("http://127.0.0.1:8000", demo.base_url)
    source = source.replace('model="demo"', 'model="tiny"')
    for kind, file in (("image", "shapes.png"), ("video", "shapes.mp4")):
        media_type = f"{kind}/{file.rpartition('.')[2]}"
        url = (
            f"data:{media_type};base64," + base64.b64encode((EXAMPLES / file).read_bytes()).decode()
        )
        source = re.sub(rf"https://example\.com/\w+\.{_suffixes(kind)}", url, source)
        source = source.replace(f"data:{media_type};base64,...", url)
    monkeypatch.chdir(ROOT)
    exec(compile(source, name, "exec"), {"__name__": "__main__"})


def _suffixes(kind: str) -> str:
    return "(?:jpg|png)" if kind == "image" else "mp4"
