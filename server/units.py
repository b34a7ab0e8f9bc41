"""Numbers for people: bytes, durations."""

_BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_SECONDS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def format_bytes(num_bytes: float) -> str:
    """`3.2 GiB`; whole numbers below 1024 bytes."""
    size, unit = float(num_bytes), 0
    while size >= 1024 and unit < len(_BYTE_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.0f} B" if unit == 0 else f"{size:.1f} {_BYTE_UNITS[unit]}"


def format_age(seconds: float) -> str:
    """`3 d`, `12 min`: the largest unit that there is one of."""
    for length, name in _SECONDS:
        if seconds >= length:
            return f"{seconds // length:.0f} {name}"
    return "0 s"
