from pathlib import Path

import pytest

from server.access.key_file import read_keys
from server.cli import main


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def add(path: Path, name: str, *options: str) -> int:
    return main(["keys", "add", name, "--file", str(path), *options])


def test_a_key_is_printed_once_and_only_its_hash_is_kept(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert add(path, "alice") == 0
    api_key = capsys.readouterr().out.strip()
    assert api_key.startswith("sk-qwen3vl-")
    assert api_key not in path.read_text() and path.stat().st_mode & 0o777 == 0o600
    entry = read_keys(path)[0].find(api_key)
    assert entry is not None and (entry.name, entry.is_admin) == ("alice", False)


def test_options_are_those_of_the_key(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = ("--requests-per-minute", "6", "--tokens-per-minute", "7", "--max-concurrent", "8")
    add(path, "root", "--admin", *limits, "--expires", "2999-01-31T00:00:00Z")
    (entry,) = read_keys(path)[0].entries
    assert entry.is_admin and entry.expires is not None and entry.expires.year == 2999
    assert (entry.requests_per_minute, entry.tokens_per_minute, entry.max_concurrent) == (6, 7, 8)
    capsys.readouterr()
    assert main(["keys", "ls", "--file", str(path)]) == 0
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split()[0] == "NAME"
    assert row.split() == ["root", "admin", "6", "7", "8", "2999-01-31T00:00:00+00:00"]
    assert entry.hash.removeprefix("sha256:") not in row


def test_keys_are_taken_out_by_name(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b", "c"):
        add(path, name)
    assert main(["keys", "rm", "b", "--file", str(path)]) == 0
    assert [entry.name for entry in read_keys(path)[0].entries] == ["a", "c"]
    capsys.readouterr()
    assert main(["keys", "rm", "b", "--file", str(path)]) == 2
    assert "there is no key named b" in capsys.readouterr().err


def test_a_name_is_of_one_key(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(path, "a")
    before = path.read_bytes()
    capsys.readouterr()
    assert add(path, "a") == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "there is a key named a already" in captured.err
    assert path.read_bytes() == before


def test_a_link_stays_a_link(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    add(path, "a")
    link.symlink_to(path)
    add(link, "b")
    assert link.is_symlink()
    assert [entry.name for entry in read_keys(path)[0].entries] == ["a", "b"]


@pytest.mark.parametrize(
    "argv",
    [
        ["add", "a b", "--file", "f"],
        ["add", "a"],
        ["add", "a", "--file", "f", "--max-concurrent", "0"],
        ["add", "a", "--file", "f", "--expires", "soon"],
        ["rotate", "--file", "f"],
    ],
)
def test_a_wrong_command_ends_with_2(argv: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["keys", *argv])
    assert ended.value.code == 2


def test_a_folder_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert add(tmp_path / "none" / "keys.json", "a") == 2
    assert "No such file" in capsys.readouterr().err
