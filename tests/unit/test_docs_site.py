"""The site of the documents: what its hooks do, and that every page is reached."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from server.settings import iterate_fields

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages_of(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for part in entry.values() if isinstance(entry, dict) else entry:
            yield from pages_of(part)


def test_every_page_is_in_the_navigation_once(hooks: ModuleType) -> None:
    listed = list(pages_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    inside = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")]
    outside = [site for site in hooks.OUTSIDE.values() if site.endswith(".md")]
    assert sorted(listed) == sorted(inside + outside)
    assert [path for path in hooks.OUTSIDE if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize(
    ("page", "written", "wanted"),
    [
        ("context.md", "[a](../benchmarks/README.md#fairness)", "[a](benchmarks.md#fairness)"),
        ("security.md", "[a](docs/access.md)", "[a](access.md)"),
        ("results.md", "[a](../README.md)", "[a](benchmarks.md)"),
        ("docker.md", "![a](../demo/loss.png)", "![a](demo/loss.png)"),
        ("index.md", "[the code](../server/)", "the code"),
        ("index.md", "[a](nowhere.md)", "[a](nowhere.md)"),
        (
            "index.md",
            "[a](#here), [b](https://example.com/x)",
            "[a](#here), [b](https://example.com/x)",
        ),
        ("index.md", "```\n[a](../SECURITY.md)\n```", "```\n[a](../SECURITY.md)\n```"),
    ],
)
def test_links_are_those_of_the_site(
    hooks: ModuleType, page: str, written: str, wanted: str
) -> None:
    assert hooks.rewrite_links(written, page) == wanted


@pytest.mark.parametrize(
    ("html", "is_loaded"),
    [
        ('<script src="https://cdn.example/x.js">', True),
        ('<img alt="" src="//cdn.example/x.png">', True),
        ('<link rel="stylesheet" href="https://fonts.example/a.css">', True),
        ("<style>body { background: url(https://cdn.example/x.png) }", True),
        ('<a href="https://pypi.org/">a link</a>', False),
        ('<script src="assets/x.js"></script><img src="a.png">', False),
    ],
)
def test_what_a_page_would_load_from_elsewhere_is_found(
    hooks: ModuleType, html: str, is_loaded: bool
) -> None:
    assert bool(hooks.LOADED_FROM_ELSEWHERE.search(html)) is is_loaded


def test_flags_in_commands_of_the_documents_are_settings() -> None:
    known = {"--" + name.split(".")[1].replace("_", "-") for name, _ in iterate_fields()}
    known |= {flag.replace("--", "--no-", 1) for flag in known} | {"--config"}
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "docker" / "README.md"):
        text = path.read_text().replace("\\\n", " ")
        for command in re.findall(r"^.*?qwen3vl-serve serve [^`\n]*", text, re.MULTILINE):
            flags = re.findall(
                r"(--[a-z][a-z-]*)", command.partition("qwen3vl-serve serve ")[2].split("' ")[0]
            )
            assert set(flags) <= known, f"{path.name}: {command}"
