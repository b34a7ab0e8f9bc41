"""The documents say what the code says."""

import re
from pathlib import Path

from server.settings import render_settings_table

ROOT = Path(__file__).parents[2]


def test_the_settings_table_is_the_one_of_the_code() -> None:
    assert (ROOT / "docs" / "settings.md").read_text().endswith(render_settings_table())


def test_files_named_in_the_documents_exist() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    links = {
        (document, target)
        for document in documents
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text())
    }
    assert links
    assert [
        str(target) for document, target in links if not (document.parent / target).exists()
    ] == []


def test_no_placeholder_is_left() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        assert re.findall(r"@[A-Z]+@|^[A-Z]{5,}$", page.read_text(), re.MULTILINE) == [], page


def test_functions_named_for_profiles_are_there() -> None:
    rows = (
        (ROOT / "docs" / "profiling.md").read_text().split("| Step | Function")[1].split("\n\n")[0]
    )
    cells = [row.split("|")[2].split("vLLM's")[0] for row in rows.splitlines()[2:]]
    names = {name for cell in cells for name in re.findall(r"`(?:\w+\.)?([A-Za-z_]+)`", cell)}
    files = [
        path
        for folder in ("server", "multimodal", "model_executor")
        for path in (ROOT / folder).rglob("*.py")
    ]
    defined = set(re.findall(r"def (\w+)", "".join(path.read_text() for path in files)))
    assert len(names) > 15
    assert names - defined <= {"process_input_sockets", "py"}  # of vLLM; the end of a file


def test_every_promise_names_tests_that_are_there() -> None:
    pages = [ROOT / "SECURITY.md", ROOT / "docs" / "load.md", ROOT / "docs" / "logs.md"]
    named = {
        name
        for page in pages
        for name in re.findall(r"`(tests/[\w/.]+\.py(?:::\w+)?)`", page.read_text())
    }
    assert len(named) > 80
    assert [name for name in sorted(named) if not _is_test(name)] == []
    rows = [
        line
        for line in (ROOT / "SECURITY.md").read_text().splitlines()
        if line.startswith("| ") and not line.startswith(("| Promise", "| Advisory"))
    ]
    assert [row for row in rows if "`tests/" not in row] == []


def _is_test(name: str) -> bool:
    path, _, function = name.partition("::")
    source = ROOT / path
    return source.is_file() and (
        not function or re.search(rf"def {function}\(", source.read_text()) is not None
    )
