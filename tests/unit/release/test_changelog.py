"""The changelog has an entry for what is being released, in the form of Keep a Changelog."""

import re
import subprocess
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "CHANGELOG.md").read_text()
ENTRIES = re.findall(r"^## (.*)$", TEXT, re.MULTILINE)
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
RELEASE = re.compile(r"\[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d")


def test_entries_are_releases_after_what_is_unreleased() -> None:
    assert ENTRIES
    released = ENTRIES[1:] if ENTRIES[0] == "[Unreleased]" else ENTRIES
    assert [entry for entry in released if not RELEASE.fullmatch(entry)] == []
    versions = [Version(RELEASE.fullmatch(entry)[1]) for entry in released]
    assert versions == sorted(set(versions), reverse=True)


def test_every_section_is_of_a_known_kind() -> None:
    assert set(re.findall(r"^### (.*)$", TEXT, re.MULTILINE)) <= KINDS


def test_the_newest_release_is_the_newest_tag() -> None:
    """Of tags that are ancestors: a clone without tags has nothing to compare."""
    command = ["git", "describe", "--tags", "--abbrev=0", "--match", "v[0-9]*"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    if found.returncode != 0:
        pytest.skip("no tag of a release")
    [newest] = [m[1] for entry in ENTRIES if (m := RELEASE.fullmatch(entry))][:1]
    assert Version(newest) >= Version(found.stdout.strip())
