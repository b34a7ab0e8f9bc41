"""Flags that are on or off, with and without a value."""

import pytest

from server import cli
from server.settings import Settings


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch):
    """The settings that a command line starts the server with."""
    started: list[Settings] = []
    monkeypatch.setattr(cli, "_serve", lambda settings: started.append(settings) or 0)

    def parse(*argv: str) -> Settings:
        assert cli.main(["serve", *argv]) == 0
        return started.pop()

    return parse


@pytest.mark.parametrize(
    "argv",
    [
        ["--insecure", "demo"],
        ["demo", "--insecure"],
        ["--insecure"],
        ["--insecure", "--port", "9000", "demo"],
        ["--insecure", "true", "demo"],
        ["--insecure=true", "demo"],
        ["demo", "--insecure", "yes"],
        ["--insecure", "TRUE", "demo"],
    ],
)
def test_insecure_is_a_bare_flag_or_has_a_value(parse, argv):
    settings = parse(*argv)
    assert settings.server.insecure and settings.engine.model == "demo"


@pytest.mark.parametrize("value", ["false", "0", "off", "No"])
def test_a_switch_is_turned_off_by_its_value(parse, value):
    settings = parse("--fair-prefill", value, "demo")
    assert not settings.engine.fair_prefill and settings.engine.model == "demo"


def test_every_switch_may_be_bare(parse):
    settings = parse("--enable-lora", "--enforce-eager", "--http-allowed", "demo")
    assert settings.engine.enable_lora and settings.engine.enforce_eager
    assert settings.media.http_allowed and settings.engine.model == "demo"


def test_other_flags_still_need_a_value(parse):
    with pytest.raises(SystemExit):
        parse("demo", "--port")
