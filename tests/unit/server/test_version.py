"""One source of the version: the metadata of what is installed."""

from importlib.metadata import version

import pytest

from server.cli import main
from server.openapi.document import encode_document
from server.version import PROJECT, find_version


def test_the_command_tells_the_installed_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"qwen3vl-serve {version(PROJECT)}\n"


def test_the_api_document_has_the_same_version() -> None:
    assert f'"version":"{version(PROJECT)}"'.encode() in encode_document()


def test_what_is_not_installed_has_no_version() -> None:
    assert find_version("no-such-package") is None
    assert find_version("no-such-package", PROJECT) == version(PROJECT)
