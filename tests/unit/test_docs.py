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


def test_no_placeholder_is_left_in_the_readme() -> None:
    assert re.findall(r"@[A-Z]+@", (ROOT / "README.md").read_text()) == []
