"""What is refused at start: wide addresses without keys, certificates, a wrong encoder key."""

import socket
from pathlib import Path
from typing import Any

import pytest

from server.access.binding import check_binding, is_loopback
from server.access.encoder_key import read_encoder_key
from server.access.tls import load_certificate
from server.settings import ServerSettings, Settings, SettingsError, load_settings
from tests.certificates import write_certificate


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1.2.3", "localhost", "::1", "::ffff:127.0.0.1", "::1%lo"]
)
def test_loopback_needs_no_keys(host: str) -> None:
    check_binding(Settings(server=ServerSettings(host=host)))


WIDE = ["0.0.0.0", "::", "192.0.2.1", "2001:db8::1", "0", "::ffff:192.0.2.1", "fe80::1"]


@pytest.mark.parametrize("host", WIDE)
def test_other_addresses_need_keys_or_a_word_of_their_own(host: str) -> None:
    settings = Settings(server=ServerSettings(host=host))
    with pytest.raises(SettingsError, match=r"^server\.host: .*--api-keys-file.*--insecure"):
        check_binding(settings)
    check_binding(Settings(server=ServerSettings(host=host, insecure=True)))
    check_binding(load_settings(None, {"server": {"host": host}, "access": {"api_keys_file": "f"}}))


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (["127.0.0.1"], True),
        (["::1", "127.0.0.1"], True),
        (["127.0.0.1", "192.0.2.1"], False),
        (["192.0.2.1"], False),
    ],
)
def test_a_name_is_as_wide_as_its_widest_address(
    addresses: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(*args: Any, **options: Any) -> list[Any]:
        return [(None, None, 0, "", (address, 0)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert is_loopback("a.name") is expected


def check(certfile: Path | None, keyfile: Path | None) -> None:
    load_certificate(ServerSettings(ssl_certfile=certfile, ssl_keyfile=keyfile))


def test_a_certificate_with_its_key_is_fine(tmp_path: Path) -> None:
    check(*write_certificate(tmp_path))
    check(None, None)


@pytest.mark.parametrize("name", ["ssl_certfile", "ssl_keyfile"])
def test_a_certificate_and_a_key_go_together(name: str) -> None:
    with pytest.raises(SettingsError, match="ssl_certfile and ssl_keyfile go together"):
        load_settings(None, {"server": {name: "file.pem"}})


def test_a_certificate_of_another_key_is_refused(tmp_path: Path) -> None:
    certfile, _ = write_certificate(tmp_path / "one")
    _, keyfile = write_certificate(tmp_path / "other")
    with pytest.raises(SettingsError, match=r"ssl_keyfile: .* is not the key of"):
        check(certfile, keyfile)


def test_an_encrypted_key_is_refused_without_a_question(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is encrypted"):
        check(*write_certificate(tmp_path, password=b"secret"))


@pytest.mark.parametrize("name", ["cert.pem", "key.pem"])
def test_files_that_are_missing_or_no_pem_are_named(tmp_path: Path, name: str) -> None:
    files = write_certificate(tmp_path)
    (tmp_path / name).write_text("no PEM")
    with pytest.raises(SettingsError, match="are not a PEM certificate and its key"):
        check(*files)
    (tmp_path / name).unlink()
    with pytest.raises(SettingsError, match=rf"{name} cannot be read: No such file"):
        check(*files)


def test_the_encoder_key_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("sk-qwen3vl-abc\n")
    assert read_encoder_key(path) == "sk-qwen3vl-abc"
    assert read_encoder_key(None) is None


@pytest.mark.parametrize("text", ["", "two secrets", "secret\nsecret", "sécret", "secret\0"])
def test_any_other_encoder_key_is_refused_without_its_text(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"^engine\.encoder_key_file: .* one API key$"):
        read_encoder_key(path)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"engine": {"encoder_key_file": "f"}}, "engine.encoder_key_file .*role `language`"),
        ({"access": {"requests_per_minute": 1}}, "access.requests_per_minute .*needs api_keys"),
        ({"access": {"tokens_per_minute": 1}}, "access.tokens_per_minute .*needs api_keys"),
        ({"access": {"max_concurrent_per_key": 1}}, "max_concurrent_per_key .*needs api_keys"),
        ({"server": {"cors_allow_origins": "https://a.example/"}}, "cors_allow_origins"),
        ({"server": {"cors_allow_origins": "a.example"}}, "cors_allow_origins"),
    ],
)
def test_settings_of_access_must_fit_together(
    settings: dict[str, dict[str, str]], reason: str
) -> None:
    with pytest.raises(SettingsError, match=reason):
        load_settings(None, settings)
