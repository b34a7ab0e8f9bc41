"""Mistakes that servers of this kind have made, one test each, where no other test shows that this
one does not make them. The classes are those of published advisories of vLLM, SGLang and others.
"""

import ast
import asyncio
import base64
import gzip
import json
import random
import re
import shutil
import struct
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from multimodal.errors import MediaError, UnsupportedMedia
from multimodal.image import decode_image, probe_image
from multimodal.items import ImageRef
from multimodal.options import MediaLimits, MediaOptions
from multimodal.patch_handover import PatchHandover
from multimodal.pipeline import MediaPipeline
from multimodal.preprocessor_config import PreprocessorConfig, load_preprocessor_config
from multimodal.vision_cache import VisionCacheConfig
from multimodal.vision_entry import DamagedEntry, read_entry
from server.context_length import ContextLength
from server.errors import InvalidRequest
from server.grammar.check import GrammarChecker
from server.grammar.output_grammar import json_schema
from server.prompt import PromptRenderer
from server.settings import EngineSettings
from server.vllm_args import engine_args
from tests.fake_backend import FakeRenderer, Server, image_part, video_part

ROOT = Path(__file__).resolve().parent.parent.parent
MEDIA = Path(__file__).parent.parent / "media"
LIMITS = MediaLimits()
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
TURN = {"role": "user", "content": "hi"}


def data_url(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def encode(image_format: str, size: tuple[int, int], mode: str = "RGB") -> bytes:
    buffer = BytesIO()
    Image.new(mode, size, 7).save(buffer, image_format)
    return buffer.getvalue()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """On fakes, but for the media, which are really decoded."""
    server = Server(max_model_len=100_000)
    server.pipeline = MediaPipeline(  # type: ignore[assignment]
        PreprocessorConfig(), LIMITS, namespace="0a", num_workers=1
    )
    server.state.backend = server.backend
    yield server
    await server.pipeline.close()


# ---- media


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (1, 199), (199, 1)])
@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
async def test_a_tiny_image_is_answered_as_any_other(
    server: Server, size: tuple[int, int], image_format: str
) -> None:
    """CVE-2026-22773: an image of one pixel ended the engine."""
    url = data_url(encode(image_format, size, "L"), f"image/{image_format.lower()}")
    response = await server.post([image_part(url)])
    assert response.status_code == 200, response.text
    (item,) = server.engine.requests[0].items
    assert item.item.grid_h * item.item.grid_w >= 4


TELLING = re.compile(r"\b0x[0-9a-f]{4}|object at|BytesIO|Traceback|PIL|/tmp|site-packages|\.py")


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"])
def test_no_error_of_an_image_tells_of_the_process(image_format: str) -> None:
    """CVE-2026-22778: Pillow's message, with the address of an object, was the answer."""
    rng = random.Random(image_format)
    whole = encode(image_format, (40, 30))
    for _ in range(150):
        damaged = bytearray(whole[: rng.randrange(1, len(whole))])
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        for use in (probe_image, lambda data: decode_image(data, LIMITS)):
            try:
                use(bytes(damaged))
            except MediaError as error:
                assert not TELLING.search(error.message), error.message


def part_of(path: str, url: str) -> dict[str, Any]:
    part: dict[str, Any] = image_part(url)
    if path == RESPONSES:
        part = {"type": "input_image", "image_url": url}
    if path == MESSAGES:
        part = {"type": "image", "source": {"type": "url", "url": url}}
    name = "input" if path == RESPONSES else "messages"
    limit = {"max_tokens": 5} if path == MESSAGES else {}
    return {"model": "qwen", name: [{**TURN, "content": [part]}], **limit}


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
async def test_every_api_hides_what_decoders_and_bugs_say(server: Server, path: str) -> None:
    """CVE-2026-54236: the same by Anthropic's route, which had been left out of the fix."""
    for data in (b"no image", encode("PNG", (40, 30))[:60], b"GIF89a", encode("JPEG2000", (8, 8))):
        body = part_of(path, data_url(data, "image/png"))
        response = await server.request("POST", path, json=body)
        assert 400 <= response.status_code < 500
        assert not TELLING.search(response.text), response.text

    async def fail(*args: Any, **kwargs: Any) -> None:
        raise ValueError("cannot identify image file <_io.BytesIO object at 0x7f00deadbeef>")

    server.pipeline.load, load = fail, server.pipeline.load  # type: ignore[method-assign,assignment]
    body = part_of(path, data_url(encode("PNG", (8, 8)), "image/png"))
    response = await server.request("POST", path, json=body)
    server.pipeline.load = load  # type: ignore[method-assign]
    assert response.status_code == 500
    assert not TELLING.search(response.text), response.text


def make_fits(size: int) -> bytes:
    """A compressed FITS image, which says that it is large."""
    cards = ("SIMPLE  =                    T", "BITPIX  =                    8")
    cards += (
        "NAXIS   =                    2",
        f"NAXIS1  = {size:20}",
        f"NAXIS2  = {size:20}",
        "END",
    )
    header = "".join(card.ljust(80) for card in cards).encode().ljust(2880)
    return header + gzip.compress(bytes(1_000_000))


def test_a_format_outside_the_list_is_not_even_identified() -> None:
    """CVE-2026-40192: a FITS file that unpacks without end. None of Pillow's other readers runs."""
    for data in (
        make_fits(100),
        encode("JPEG2000", (8, 8)),
        encode("ICO", (16, 16)),
        b"%!PS-Adobe",
    ):
        for use in (probe_image, lambda data: decode_image(data, LIMITS)):
            with pytest.raises(UnsupportedMedia):
                use(data)


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
@pytest.mark.parametrize("kind", ["input_audio", "audio_url", "audio"])
async def test_there_is_no_audio_to_decode(path: str, kind: str) -> None:
    """CVE-2026-54233: a small file of hours of sound."""
    body = part_of(path, "https://example.com/")
    name = "input" if path == RESPONSES else "messages"
    body[name][0]["content"] = [{"type": kind, kind: {"data": "UklGRg==", "format": "wav"}}]
    response = await Server().request("POST", path, json=body)
    assert response.status_code == 400
    assert "type" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "option",
    [
        {"fps": 1e6},
        {"fps": LIMITS.max_fps + 1},
        {"max_frames": LIMITS.max_frames + 1},
        {"max_frames": 2**40},
        {"num_frames": LIMITS.max_frames + 1},
        {"num_frames": 2**40},
        {"max_pixels": LIMITS.max_pixels + 1},
        {"min_pixels": LIMITS.max_pixels + 1},
        {"min_pixels": 2**40},
        {"total_pixels": LIMITS.max_total_pixels + 1},
        {"size": {"longest_edge": 2**40}},
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["part", "request"])
async def test_no_request_raises_the_ceilings_of_its_media(
    server: Server, option: dict[str, Any], place: str
) -> None:
    """CVE-2026-105758, -105760, -126396: `fps`, `max_frames`, `min_pixels` of any size."""
    url = data_url((MEDIA / "bunny_3_frames.mp4").read_bytes(), "video/mp4")
    if place == "part" and "size" in option:
        return  # the processors' word, of requests only
    part = video_part(url, **(option if place == "part" else {}))
    shared = {"mm_processor_kwargs": option} if place == "request" else {}
    response = await server.post([part], **shared)
    assert response.status_code == 400, response.text
    name = "total_pixels" if "size" in option else next(iter(option))  # what it stands for
    assert name in response.json()["error"]["message"]
    assert server.engine.requests == []


# ---- templates and prompts


class ThreadsRenderer(FakeRenderer):
    """Notes which threads render."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[int] = []

    def render(self, messages: Any, **options: Any) -> tuple[int, ...]:
        self.threads.append(threading.get_ident())
        return super().render(messages, **options)


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
async def test_no_template_runs_in_the_event_loop(path: str) -> None:
    """CVE-2025-62426: a long prompt, rendered there, kept all other requests waiting."""
    renderer = ThreadsRenderer()
    body = part_of(path, "https://example.com/a.png")
    assert (await Server(renderer=renderer).request("POST", path, json=body)).status_code == 200
    assert renderer.threads and threading.get_ident() not in renderer.threads


HOSTILE_TEMPLATE = (
    "{% for a in range(99999999) %}{% for b in range(99999999) %}{% endfor %}{% endfor %}"
)


@pytest.mark.parametrize("where", ["chat_template", "chat_template_kwargs"])
@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES, "/tokenize"])
async def test_no_template_of_a_client_is_ever_rendered(
    path: str, where: str, instruct_checkpoint: Path
) -> None:
    """CVE-2025-61620, CVE-2026-115911, and CVE-2026-115918: one API did not know of the refusal."""
    server = Server(max_model_len=4096)
    server.state.backend = server.backend.__class__(
        server.engine,
        PromptRenderer(str(instruct_checkpoint)),
        server.pipeline,  # type: ignore[arg-type]
        server.fetcher,  # type: ignore[arg-type]
        server.grammars,  # type: ignore[arg-type]
        server.adapters,
    )
    value: Any = HOSTILE_TEMPLATE
    if where == "chat_template_kwargs":
        value = {"chat_template": HOSTILE_TEMPLATE, "tokenize": True, "tools": [HOSTILE_TEMPLATE]}
    name = "input" if path == RESPONSES else "messages"
    limit = {"max_tokens": 5} if path == MESSAGES else {}
    body = {"model": "qwen", name: [TURN], where: value, **limit}
    async with asyncio.timeout(60):
        response = await server.request("POST", path, json=body)
        plain = await server.request("POST", path, json={**body, where: None})
    assert plain.status_code == 200
    if where == "chat_template":
        assert response.status_code == 400
        assert "`chat_template` is not supported" in response.json()["error"]["message"]
    else:
        assert response.status_code == 200, response.text
        prompts = {tuple(request.prompt_token_ids) for request in server.engine.requests}
        assert len(prompts) <= 1  # the same with and without


def test_a_template_is_text_where_a_client_types_one(instruct_checkpoint: Path) -> None:
    renderer = PromptRenderer(str(instruct_checkpoint))
    for typed in ("{{ 7 * 191 }}", "{% raw %}", "{{ messages }}", "{# a #}"):
        token_ids = renderer.render([{"role": "user", "content": typed}], thinking=False)
        assert typed in renderer.decode(token_ids)


VISION_TOKENS = ("<|vision_start|>", "<|image_pad|>", "<|video_pad|>", "<|vision_end|>")


@pytest.mark.parametrize("token", VISION_TOKENS)
def test_placeholders_come_from_media_only(instruct_checkpoint: Path, token: str) -> None:
    """CVE-2026-44222 and PYSEC-2026-4353: placeholders without an image behind them."""
    renderer = PromptRenderer(str(instruct_checkpoint))
    token_id = renderer._tokenizer.convert_tokens_to_ids(token)
    typed = f"a {token} b {token * 3}"
    rendered = renderer.render([{"role": "user", "content": typed}], thinking=False)
    assert token_id not in rendered
    assert token_id not in renderer.encode_prompt(typed)
    with pytest.raises(InvalidRequest):
        renderer.check_tokens([token_id], "prompt")
    assert renderer.expand(rendered, []).items == ()


# ---- keys of the caches


async def test_what_is_cached_goes_by_its_content_and_nothing_else() -> None:
    """CVE-2025-46722, CVE-2026-24255: equal bytes in another shape had one key. LMCache#3301: a
    key of 16 bits. CVE-2026-111392: a key of the client's choice."""
    pipeline = MediaPipeline(PreprocessorConfig(), LIMITS, namespace="0a", num_workers=1)
    pixels = np.arange(64 * 96 * 3, dtype=np.uint32).astype(np.uint8)
    keys = set()
    for shape in ((64, 96, 3), (96, 64, 3), (32, 192, 3), (192, 32, 3)):
        buffer = BytesIO()
        Image.fromarray(pixels.reshape(shape)).save(buffer, "BMP")
        (media,) = await pipeline.load([ImageRef(buffer.getvalue(), MediaOptions(), "a")])
        (item,) = media.items
        assert len(bytes.fromhex(item.key)) * 8 == 256
        keys.add(item.key)
    await pipeline.close()
    assert len(keys) == 4


# ---- grammars


async def test_grammars_leave_nothing_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instruct_checkpoint: Path
) -> None:
    """CVE-2025-29770: every new schema of a client became a file for ever."""
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    config = json.loads((instruct_checkpoint / "config.json").read_text())
    checker = GrammarChecker(
        str(instruct_checkpoint),
        None,
        config["text_config"]["vocab_size"],
        timeout_s=120,
        max_bytes=4 << 30,
    )
    for number in range(5):
        await checker.check(json_schema({"const": f"a{number}"}, "response_format"))
    await checker.close()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# ---- code and objects of others


def iterate_sources(*folders: str) -> Iterator[tuple[Path, ast.AST]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                yield path, node


def imported_names(node: ast.AST) -> Sequence[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


UNPICKLERS = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}


def test_no_source_of_ours_unpickles_or_evaluates() -> None:
    """CVE-2025-62164, CVE-2026-56340, CVE-2025-62372, CVE-2026-115912: objects and tensors that
    came from a client, or lay where one could put them, were unpickled."""
    found = []
    for path, node in iterate_sources("server", "multimodal", "model_executor"):
        found += [(path.name, n) for n in imported_names(node) if n.split(".")[0] in UNPICKLERS]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("torch.load", "np.load", "numpy.load", "eval", "exec", "compile"):
                found.append((path.name, called))
    assert found == []


def test_a_pickle_in_place_of_patches_or_an_embedding_is_damage(tmp_path: Path) -> None:
    """CVE-2026-115912: what one process puts down for another is bytes of a known number."""
    pickled = b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94."
    key = "0b" * 32
    handover = PatchHandover(str(tmp_path / "patches"), 0)

    handover.put(key, torch.zeros(4, 768, dtype=torch.uint8))
    (file,) = [path for path in (tmp_path / "patches").rglob("*") if path.is_file()]
    file.write_bytes(pickled)
    assert handover.take(key) is None
    entry = tmp_path / "entry"
    entry.write_bytes(pickled + struct.pack("<Q", 0) * 64)
    with pytest.raises(DamagedEntry):
        read_entry(str(entry), "0a" * 16, key, max_bytes=1 << 20)


def test_code_of_a_checkpoint_is_never_trusted() -> None:
    """CVE-2026-27893, CVE-2026-47155, CVE-2026-114053: models' and processors' own code was run."""
    given = []
    for path, node in iterate_sources("server", "multimodal", "model_executor", "demo"):
        if isinstance(node, ast.Call):
            names = [keyword.arg for keyword in node.keywords]
            given += [(path.name, n) for n in names if n in ("trust_remote_code", "code_revision")]
        if isinstance(node, ast.Constant) and node.value in ("trust_remote_code", "code_revision"):
            given.append((path.name, node.value))
    assert given == []
    cache = VisionCacheConfig(namespace="0a" * 32, handover_dir="patches")
    engine = EngineSettings(profile="cpu")
    args = engine_args("demo", engine, ContextLength(4096), cache, None, None)
    assert args.trust_remote_code is False
    assert args.enable_prompt_embeds is False
    assert not args.enable_mm_embeds


def test_code_beside_a_tokenizer_is_not_run(tmp_path: Path, instruct_checkpoint: Path) -> None:
    """The same where no setting is asked: an `auto_map` in the files that are read at start."""
    checkpoint, mark = tmp_path / "checkpoint", tmp_path / "has-run"
    shutil.copytree(instruct_checkpoint, checkpoint)
    (checkpoint / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: pass\n")
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        path = checkpoint / name
        content = json.loads(path.read_text()) if path.exists() else {}
        names = ("AutoConfig", "AutoTokenizer", "AutoProcessor", "AutoImageProcessor")
        content["auto_map"] = {key: "evil.Evil" for key in names}
        content["auto_map"]["AutoTokenizer"] = ["evil.Evil", None]
        path.write_text(json.dumps(content))
    renderer = PromptRenderer(str(checkpoint))
    load_preprocessor_config(str(checkpoint), None)
    assert renderer.render([TURN], thinking=False)
    assert not mark.exists()


FETCHERS = {"requests", "aiohttp", "urllib3", "urllib.request", "http.client", "ftplib"}
MAY_CONNECT = {"media_fetch.py", "address_check.py", "head_bound.py", "encoder_client.py"}
MAY_CONNECT |= {"media_url.py"}  # parses with the same library
MAY_CONNECT |= {"chat_client.py"}  # `qwen3vl-serve chat`: no part of a server


def test_only_the_media_fetcher_reads_what_clients_name() -> None:
    """CVE-2026-34753: a second way to media, of the batch runner, did not have the checks of the
    first. `encoder_client` goes to the address in the settings."""
    found = set()
    for path, node in iterate_sources("server", "multimodal", "model_executor"):
        for name in imported_names(node):
            if name in FETCHERS or name.split(".")[0] in FETCHERS:
                found.add((path.name, name))
            if name.split(".")[0] in ("httpx", "httpcore") and path.name not in MAY_CONNECT:
                found.add((path.name, name))
    assert found == set()


async def test_there_are_no_batches_and_no_files_of_clients() -> None:
    for path in (
        "/v1/batches",
        "/v1/files",
        "/v1/embeddings",
        "/pooling",
        "/generate",
        "/invocations",
    ):
        response = await Server().request("POST", path, json={})
        assert response.status_code == 404, path
