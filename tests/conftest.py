"""What every test has: an environment without settings, and the tiny checkpoints."""

import os
from pathlib import Path

import pytest

from demo.chat_template import TemplateKind
from demo.checkpoint import CheckpointSpec
from demo.random_checkpoint import build_checkpoint
from server.settings import ENV_PREFIX

collect_ignore = ["clients"]  # they have an environment of their own: `make test-clients`


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of whoever runs the tests stay out of them."""
    for name in [name for name in os.environ if name.upper().startswith(ENV_PREFIX)]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def instruct_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build(tmp_path_factory, "instruct")


@pytest.fixture(scope="session")
def thinking_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build(tmp_path_factory, "thinking")


@pytest.fixture(scope="session")
def hybrid_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build(tmp_path_factory, "hybrid")


def _build(tmp_path_factory: pytest.TempPathFactory, kind: TemplateKind) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / kind
    return build_checkpoint(path, CheckpointSpec(template=kind))
