import logging
import resource

import pytest

from server.open_files import raise_file_limit


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """A soft limit of 1024 and a hard one of 4096 files, as far as the process knows."""
    limits = {"now": (1024, 4096)}
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda which, new: limits.update(now=new))
    return limits


def test_the_limit_is_raised_as_far_as_allowed(
    limits: dict[str, tuple[int, int]], caplog: pytest.LogCaptureFixture
) -> None:
    raise_file_limit(3000)
    assert limits["now"] == (4096, 4096)
    assert caplog.records == []


def test_too_few_files_for_all_connections_are_warned_of(
    limits: dict[str, tuple[int, int]], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        raise_file_limit(4096)
    assert "max_connections (4096)" in caplog.text
