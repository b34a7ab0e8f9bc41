import base64
import random
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from multimodal.errors import MediaCorrupt, MediaError, MediaTooLarge
from server.body import _parse
from server.body_data_url import MAX_URLS, MIN_CHARS, BodyDataUrl, set_aside_data_urls
from server.conversation import build_conversation
from server.errors import InvalidRequest
from server.media_fetch import DataUrl, decode_data_url
from server.protocol import ChatCompletionRequest
from tests.fake_backend import image_part, make_body, parse_chat

LONG = bytes(range(256)) * 20
HEADER = "data:image/png;base64,"


def data_url(*payloads: bytes, header: str = HEADER) -> str:
    return header + ",".join(base64.b64encode(payload).decode() for payload in payloads)


def urls_of(body: bytes) -> list[str]:
    return [url for source in build_conversation(parse_chat(body)).media for url in source.urls]


def decode(url: str, *, max_bytes: int = 10**6, max_frames: int = 8) -> DataUrl:
    return decode_data_url(url, max_bytes=max_bytes, max_frames=max_frames, param="p")


@pytest.mark.parametrize(
    "part",
    [
        image_part(data_url(LONG)),
        {"type": "image", "image": data_url(LONG)},
        {
            "type": "video_url",
            "video_url": {"url": data_url(LONG, header="data:video/mp4;base64,")},
        },
        {"type": "video", "video": data_url(LONG, header="data:video/mp4;base64,")},
        {"type": "video", "video": [data_url(LONG), data_url(LONG[1:]), "https://example.com/x"]},
        {"type": "video", "video": data_url(LONG, LONG, header="data:video/jpeg;base64,")},
    ],
)
def test_a_long_data_url_of_media_stays_in_the_body(part: dict[str, Any]) -> None:
    body = orjson.dumps(make_body([part, {"type": "text", "text": "hi"}]))
    expected = _parse(body, {}, ChatCompletionRequest).request
    expected_sources = build_conversation(expected).media
    sources = build_conversation(parse_chat(body)).media
    assert [(s.kind, s.options, s.param) for s in sources] == [
        (s.kind, s.options, s.param) for s in expected_sources
    ]
    for url, plain in zip(sources[0].urls, expected_sources[0].urls, strict=True):
        if not plain.startswith("data:"):
            assert url == plain
            continue
        assert isinstance(url, BodyDataUrl)
        assert str(url) + str(url.payload, "ascii") == plain
        assert decode(url) == decode(plain)


def test_several_media_get_their_own_urls() -> None:
    payloads = [LONG[shift:] for shift in range(5)]
    body = orjson.dumps(make_body([image_part(data_url(payload)) for payload in payloads]))
    assert [decode(url).payloads[0] for url in urls_of(body)] == payloads


def test_a_bytearray_is_a_body() -> None:
    body = bytearray(orjson.dumps(make_body([image_part(data_url(LONG))])))
    (url,) = urls_of(body)
    assert decode(url).payloads == (LONG,)


@pytest.mark.parametrize(
    "url",
    [
        data_url(LONG)[: len(HEADER) + MIN_CHARS - 1],
        data_url(LONG, header="data:;base64,"),
        data_url(LONG, header="DATA:image/png;base64,"),
        data_url(LONG, header="data:image/png,"),
        "https://example.com/" + "x" * MIN_CHARS,
    ],
)
def test_short_and_unusual_urls_are_parsed_with_the_rest(url: str) -> None:
    assert urls_of(orjson.dumps(make_body([image_part(url)]))) == [url]


@pytest.mark.parametrize(
    "fields",
    [
        {"content": data_url(LONG)},
        {"content": [{"type": "text", "text": data_url(LONG)}, image_part(data_url(LONG))]},
        {"content": [{"type": "text", "text": f'see "{data_url(LONG)}"'}]},
        {"content": "hi", "metadata": {"a": data_url(LONG)}},
        {"content": "hi", "metadata": {data_url(LONG): "a"}},
        {"content": "hi", "stop": [data_url(LONG)]},
        {"content": "hi", "model": data_url(LONG)},
        {"content": "hi", data_url(LONG): 1},
        {"content": [image_part(data_url(LONG), fps=1)]},
        {"content": [image_part(data_url(LONG))], "temperature": 9},
        {"content": [{"type": "image_url", "image_url": data_url(LONG)}]},
        {"content": [{"type": "video", "video": [data_url(LONG), 1]}]},
    ],
)
def test_elsewhere_the_body_means_what_it_means_to_a_parser(fields: dict[str, Any]) -> None:
    assert outcome(orjson.dumps(make_body(**fields))) == outcome_of_all(
        orjson.dumps(make_body(**fields))
    )


def outcome(body: bytes) -> object:
    """The request with whole URLs, or what is wrong."""
    try:
        request = parse_chat(body)
    except InvalidRequest as error:
        return error.code, error.param, error.message
    return [whole(request.model_dump(warnings=False))]


def outcome_of_all(body: bytes) -> object:
    try:
        return [_parse(body, {}, ChatCompletionRequest).request.model_dump()]
    except InvalidRequest as error:
        return error.code, error.param, error.message


def whole(value: object) -> object:
    if isinstance(value, BodyDataUrl):
        return str(value) + str(value.payload, "utf-8")
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    return [whole(item) for item in value] if isinstance(value, list) else value


def test_the_second_of_two_equal_keys_counts() -> None:
    part = b'{"type":"image_url","image_url":{"url":"%b","url":"%b"}}'
    first, second = (data_url(payload).encode() for payload in (LONG, LONG[1:]))
    message = b'{"role":"user","content":[%b]}' % (part % (first, second))
    (url,) = urls_of(b'{"model":"qwen","messages":[%b]}' % message)
    assert decode(url).payloads == (LONG[1:],)


def test_escaped_characters_of_base64_are_understood() -> None:
    """PHP escapes slashes, .NET plus signs; the size is that of what they stand for."""
    plain = data_url(LONG)
    escaped = plain[len(HEADER) :].replace("/", "\\/").replace("+", "\\u002B")
    body = orjson.dumps(make_body([image_part(HEADER + "?")])).replace(b"?", escaped.encode())
    (url,) = urls_of(body)
    assert isinstance(url, BodyDataUrl)
    assert decode(url, max_bytes=len(LONG)).payloads == (LONG,)


@pytest.mark.parametrize(
    "sloppy", [b"\n", b"\x00", b"\xff", b" ", b"-", b"=", b"\\n", b"\\x", b","]
)
def test_a_payload_that_is_no_base64_is_corrupt(sloppy: bytes) -> None:
    body = orjson.dumps(make_body([image_part(data_url(LONG))]))
    middle = body.index(HEADER.encode()) + 4000
    for width in (0, len(sloppy)):
        (url,) = urls_of(body[:middle] + sloppy + body[middle + width :])
        with pytest.raises(MediaCorrupt) as refusal:
            decode(url)
        assert (refusal.value.code, refusal.value.param) == ("invalid_data_url", "p")


def test_limits_hold_for_a_payload_in_the_body() -> None:
    (url,) = urls_of(orjson.dumps(make_body([image_part(data_url(LONG))])))
    assert decode(url, max_bytes=len(LONG)).payloads == (LONG,)
    with pytest.raises(MediaTooLarge):
        decode(url, max_bytes=len(LONG) - 1)
    frames = {"type": "video", "video": data_url(LONG, LONG, header="data:video/jpeg;base64,")}
    (url,) = urls_of(orjson.dumps(make_body([frames])))
    assert decode(url, max_frames=2).payloads == (LONG, LONG)
    with pytest.raises(MediaTooLarge, match="more than 1 frames"):
        decode(url, max_frames=1)


def test_signs_within_a_payload_are_no_structure() -> None:
    frames = data_url(*[b"abc"] * 200_001, header="data:video/jpeg;base64,")
    (url,) = urls_of(orjson.dumps(make_body([{"type": "video", "video": frames}])))
    with pytest.raises(MediaTooLarge, match="frames"):
        decode(url)


def test_a_body_of_nothing_but_urls_is_looked_at_in_part() -> None:
    body = orjson.dumps(["data:image/png;base64,AAAA"] * (2 * MAX_URLS) + [data_url(LONG)])
    assert set_aside_data_urls(body) == (body, {})


def test_the_rest_of_the_json_is_left_as_it_is() -> None:
    values = ["a", data_url(LONG), '\\"data:', {"b": data_url(LONG[3:])}, "data:image/png;base64,"]
    skeleton, urls = set_aside_data_urls(orjson.dumps(values))
    first, second = urls
    assert orjson.loads(skeleton) == [
        "a",
        first,
        '\\"data:',
        {"b": second},
        "data:image/png;base64,",
    ]
    assert [whole(url) for url in urls.values()] == [data_url(LONG), data_url(LONG[3:])]


@pytest.mark.parametrize(
    "text",
    [f'see "{data_url(LONG)}"', f'"{data_url(LONG)}', f'{data_url(LONG)}"', data_url(LONG) + "\\"],
)
def test_quotes_that_are_text_neither_start_nor_end_a_url(text: str) -> None:
    body = orjson.dumps([text])
    assert set_aside_data_urls(body) == (body, {})


def mutated(body: bytes, pieces: Sequence[bytes], rng: random.Random) -> bytes:
    """Some bytes cut out, doubled, or replaced, mostly where JSON has its signs."""
    changed = bytearray(body)
    for _ in range(rng.choice((1, 1, 2, 4))):
        signs = [i for i, byte in enumerate(changed) if byte in b'"\\{}[],:d']
        start = rng.choice(signs) + rng.choice((-1, 0, 1))
        changed[start : start + rng.choice((0, 0, 1, 2))] = rng.choice(pieces)
    return bytes(changed)


def media_of(request: ChatCompletionRequest) -> list[object]:
    """What its URLs hold, or what is wrong with them."""
    found: list[object] = []
    for source in build_conversation(request).media:
        for url in source.urls:
            try:
                found.append(decode(url).payloads)
            except MediaError as error:
                found.append(error.code)
    return found


def test_damaged_bodies_fare_as_with_a_parser_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is wrong within a payload may be found later, when it is decoded."""
    monkeypatch.setattr("server.body_data_url.MIN_CHARS", 1)
    parts = [image_part(data_url(b"abc")), {"type": "text", "text": 'a "data:image/png;base64,b"'}]
    frames = {"type": "video", "video": [data_url(b"abc"), data_url(b"abcd")]}
    bodies = [orjson.dumps(make_body(content)) for content in (parts[:1], parts, [frames])]
    start = f'"{HEADER}'.encode()
    pieces = [
        b"",
        b'"',
        b"\\",
        b'\\"',
        b'\\\\"',
        b",",
        b":",
        b"[",
        b"}",
        start,
        start + b'AA"',
        b"A",
    ]
    rng = random.Random(0)
    num_accepted = 0
    for index in range(20_000):
        body = mutated(bodies[index % len(bodies)], pieces, rng)
        try:
            expected = _parse(body, {}, ChatCompletionRequest).request
        except InvalidRequest as error:
            if error.code != "invalid_json" or outcome(body) == outcome_of_all(body):
                assert outcome(body) == outcome_of_all(body)
            else:
                assert "invalid_data_url" in media_of(parse_chat(body))
        else:
            assert media_of(parse_chat(body)) == media_of(expected)
            num_accepted += 1
    assert num_accepted > 1000
