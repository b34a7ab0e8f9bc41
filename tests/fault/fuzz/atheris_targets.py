"""Functions for atheris to look for crashes in, guided by which lines of ours an input reaches.

    python -m tests.fault.fuzz.atheris_targets TARGET [libFuzzer's options, as -max_total_time=600]

It begins with small valid inputs. What crashes is written into the working directory, and can be
given as an option to run it again. Each target imports what it needs under instrumentation.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import atheris

Run = Callable[[bytes], object]
Target = Callable[[], tuple[Run, list[bytes]]]


def _body(name: str) -> tuple[Run, list[bytes]]:
    from server.errors import InvalidRequest
    from tests.fault.fuzz.bodies import READERS

    reader, seeds = READERS[name]

    def run(data: bytes) -> None:
        try:
            reader(data)
        except InvalidRequest as error:
            assert len(error.message) < 1000

    return run, [json.dumps(seed).encode() for seed in seeds]


def chat() -> tuple[Run, list[bytes]]:
    return _body("chat")


def responses() -> tuple[Run, list[bytes]]:
    return _body("responses")


def messages() -> tuple[Run, list[bytes]]:
    return _body("messages")


def tool_calls() -> tuple[Run, list[bytes]]:
    """The answer as a whole has the parts that it has in single characters."""
    from tests.fault.fuzz.test_fuzz_answers import parse_calls

    def run(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        assert parse_calls(text) == parse_calls([text])

    call = '<tool_call>\n{"name": "f", "arguments": {"a": [1.5e3, "\\u00e9", null]}}\n</tool_call>'
    return run, [call.encode(), f"a\n{call}\n{call} b".encode()]


def json_scanner() -> tuple[Run, list[bytes]]:
    """What it takes for complete is what another parser takes for JSON, `1e999` included."""
    from server.tools.json_scanner import JsonScanner

    def run(data: bytes) -> None:
        with suppress(UnicodeDecodeError):
            text = data.decode()
            scanner = JsonScanner()
            end = scanner.scan(text + " ", 0)
            if scanner.is_complete:
                json.loads(text[:end])

    return run, [b'{"a": [1.5e-3, "\\ud83d\\ude00", true, null, {}]}', b"-0", b'"\\u00e9"']


def image() -> tuple[Run, list[bytes]]:
    from multimodal.errors import MediaError
    from multimodal.image import decode_image, probe_image
    from multimodal.options import MediaLimits
    from tests.fault.fuzz.media_seeds import IMAGES

    limits = MediaLimits(max_source_pixels=100_000)

    def run(data: bytes) -> None:
        with suppress(MediaError):
            header = probe_image(data)
            pixels = decode_image(data, limits)
            assert pixels.shape == (header.height, header.width, 3)

    return run, list(IMAGES.values())


def vision_entry() -> tuple[Run, list[bytes]]:
    """Headers of any kind, under a checksum that is right."""
    from multimodal.vision_entry import DamagedEntry, read_entry
    from tests.fault.fuzz.media_seeds import ENTRY_KEY, ENTRY_NAMESPACE, make_entry

    path = Path(tempfile.mkdtemp(), "entry")

    def run(data: bytes) -> None:
        path.write_bytes(make_entry(header=data, payload=len(data) % 64))
        with suppress(DamagedEntry):
            read_entry(str(path), ENTRY_NAMESPACE, ENTRY_KEY, max_bytes=1 << 20)

    header = {"namespace": ENTRY_NAMESPACE, "key": ENTRY_KEY, "shape": [3, 4], "dtype": "uint8"}
    return run, [json.dumps(header).encode()]


def media_url() -> tuple[Run, list[bytes]]:
    from urllib.parse import urlsplit

    from server.media_url import UrlNotAllowed, UrlRules

    rules = UrlRules(http_allowed=True, allowed_domains=())

    def run(data: bytes) -> None:
        with suppress(UrlNotAllowed):
            url = rules.parse(data.decode("utf-8", "replace"))
            host = (urlsplit(str(url)).hostname or "").strip("[]")
            assert host == url.raw_host.decode().strip("[]").lower()

    return run, [b"https://good.example:8443/a?b#c", b"http://[2001:db8::1]/", b"https://xn--zca/"]


def data_url() -> tuple[Run, list[bytes]]:
    from multimodal.errors import MediaError
    from server.media_fetch import decode_data_url

    def run(data: bytes) -> None:
        with suppress(MediaError):
            url = data.decode("utf-8", "replace")
            decoded = decode_data_url(url, max_bytes=64, max_frames=3, param="p")
            assert sum(map(len, decoded.payloads)) <= 64 and len(decoded.payloads) <= 3

    return run, [b"data:image/png;base64,AAAA", b"data:video/jpeg;base64,AAAA,BBBB"]


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        chat,
        responses,
        messages,
        tool_calls,
        json_scanner,
        image,
        vision_entry,
        media_url,
        data_url,
    )
}


def main() -> None:
    name, *options = sys.argv[1:] or ["?"]
    if name not in TARGETS:
        sys.exit(f"usage: python -m tests.fault.fuzz.atheris_targets {{{','.join(TARGETS)}}} ...")
    with atheris.instrument_imports(include=["server", "multimodal"]):
        run, seeds = TARGETS[name]()
    with tempfile.TemporaryDirectory() as corpus:
        for index, seed in enumerate(seeds):
            Path(corpus, str(index)).write_bytes(seed)
        is_replay = any(not option.startswith("-") for option in options)
        atheris.Setup([name, *options, *([] if is_replay else [corpus])], run)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
