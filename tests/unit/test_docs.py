"""The documents say what the code says."""

import re
from pathlib import Path

from server.settings import render_settings_table

ROOT = Path(__file__).parents[2]


def test_the_settings_table_is_the_one_of_the_code() -> None:
    assert (ROOT / "docs" / "settings.md").read_text().endswith(render_settings_table())


def test_files_named_in_the_documents_exist() -> None:
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
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
