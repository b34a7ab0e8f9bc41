"""The certificate that the server shows, tried before the model is loaded."""

import ssl
from pathlib import Path

from server.settings import ServerSettings, SettingsError


def load_certificate(settings: ServerSettings) -> ssl.SSLContext | None:
    """What connections are served with; None for plain HTTP.

    Raises: SettingsError unless there is no certificate, or one with its key.
    """
    certfile, keyfile = settings.ssl_certfile, settings.ssl_keyfile
    if certfile is None or keyfile is None:
        return None  # the settings have both or neither
    for name, path in (("ssl_certfile", certfile), ("ssl_keyfile", keyfile)):
        _check_readable(name, path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certfile, keyfile, password=_refuse_password)
    except _Encrypted:
        raise SettingsError(f"server.ssl_keyfile: {keyfile} is encrypted") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            message = f"{keyfile} is not the key of the first certificate in {certfile}"
        else:
            message = f"{certfile} and {keyfile} are not a PEM certificate and its key"
        raise SettingsError(f"server.ssl_keyfile: {message}") from None
    return context


class _Encrypted(Exception):
    pass


def _refuse_password() -> str:
    """OpenSSL would ask on the terminal."""
    raise _Encrypted


def _check_readable(name: str, path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise SettingsError(f"server.{name}: {path} cannot be read: {error.strerror}") from None
