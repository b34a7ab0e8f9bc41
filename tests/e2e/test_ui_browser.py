"""The page at `/`, in Chromium, against the demo model on the real server."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from tests.api_keys import write_key_file
from tests.e2e.real_server import MODEL_NAME, RealServer
from tests.e2e.ui_browser import BROWSER, CLIP, PICTURE, TIMEOUT_MS, ChatPage, open_browser
from tests.throwaway_server import Handler, address_of, listening

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="there is no chromium"),
]

KEY, LIMITED_KEY = "sk-qwen3vl-page", "sk-qwen3vl-limited"
NASTY = 'It\'s "$HOME" `id` \\n $(id)\n\tEND\nFILE1. é \u2028 \\'
expect.set_options(timeout=TIMEOUT_MS)


@pytest.fixture(scope="module")
def server(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    limited = {"key": LIMITED_KEY, "requests_per_minute": 1}
    keys = write_key_file(tmp_path_factory.mktemp("ui") / "keys.json", {"key": KEY}, limited)
    with RealServer("demo", logs / "ui", dtype="auto", api_keys_file=keys) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@contextmanager
def visit(browser: Browser, server: RealServer, **options: Any) -> Iterator[ChatPage]:
    """A visit that must leave nothing behind, ask nobody else and break none of its rules."""
    context = browser.new_context(reduced_motion="reduce", **options)
    page = context.new_page()
    errors: list[str] = []
    addresses: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: addresses.append(request.url))
    chat = ChatPage(page)
    yield chat
    assert errors == []
    assert page.evaluate("violations") == []
    own = (f"{server.base_url}/", "blob:", "data:")
    assert [address for address in addresses if not address.startswith(own)] == []
    assert addresses
    assert not any(key in address for key in (KEY, LIMITED_KEY) for address in addresses)
    assert_nothing_kept(page)
    context.close()


def assert_nothing_kept(page: Page) -> None:
    kept = page.evaluate(
        "async () => [localStorage.length, sessionStorage.length, document.cookie, name,"
        " history.state, (await indexedDB.databases()).length]"
    )
    assert kept == [0, 0, "", "", None, 0]
    assert KEY not in page.url and KEY not in page.content()
    assert page.context.cookies() == []


@pytest.fixture
def chat(browser: Browser, server: RealServer) -> Iterator[ChatPage]:
    with visit(browser, server) as chat:
        chat.open(server.base_url, KEY)
        yield chat


# --- giving it files ---


def test_pictures_are_dropped_pasted_chosen_and_taken_out(chat: ChatPage) -> None:
    names = chat.page.locator("#tray .name")
    png = PICTURE.read_bytes()
    assert not chat.send_files("dragover", ("a.png", "image/png", png))
    expect(chat.page.locator("#drop-hint")).to_be_visible()
    assert not chat.send_files("drop", ("a.png", "image/png", png), ("b.txt", "text/plain", b"b"))
    expect(chat.page.locator("#drop-hint")).to_be_hidden()
    expect(chat.page.locator("#refused")).to_have_text("Neither picture nor clip: b.txt")
    assert not chat.send_files("paste", ("image.png", "image/png", png))
    chat.attach(CLIP, PICTURE)
    expect(names).to_have_text(["a.png", "image.png", "shapes.mp4", "shapes.png"])
    expect(chat.page.locator("#tray img")).to_have_count(3)
    expect(chat.page.locator("#tray video")).to_have_count(1)
    for label in ("Remove shapes.mp4", "Remove a.png"):
        chat.page.get_by_label(label).click()
    expect(names).to_have_text(["image.png", "shapes.png"])
    turn = chat.answer("How many pictures are there?")
    expect(turn.locator(".media img")).to_have_count(2)
    assert chat.figures(turn)["Image tokens"] == "70"
    expect(names).to_have_count(0)


# --- asking the model ---


def test_it_thinks_answers_and_draws_where_the_model_says(chat: ChatPage) -> None:
    chat.attach(PICTURE)
    turn = chat.answer("Give the bounding box of the purple square.")
    thinking = turn.locator(".thinking")
    expect(thinking.locator("summary")).to_have_text(re.compile(r"Thought for \d"))
    expect(thinking).not_to_have_attribute("open", "")
    expect(thinking.locator(".thoughts")).to_contain_text("purple square")
    (found,) = json.loads(turn.locator(".content code").text_content() or "")
    assert_drawn(turn, turn.locator(".mark"), found["bbox_2d"])
    expect(turn.locator(".mark")).to_have_text("purple square")


def assert_drawn(turn: Locator, mark: Locator, box: list[float]) -> None:
    """Its outer edge is at these thousandths of the picture."""
    picture, drawn = (
        node.evaluate("node => node.getBoundingClientRect().toJSON()")
        for node in (turn.locator(".canvas img"), mark)
    )
    assert picture["width"] > 100
    for side, share in zip(("left", "top", "right", "bottom"), box, strict=True):
        start, length = ("x", "width") if side in ("left", "right") else ("y", "height")
        expected = picture[start] + picture[length] * share / 1000
        assert drawn[side] == pytest.approx(expected, abs=1), side


def test_figures_are_those_of_the_server_and_a_second_ask_finds_the_cache(
    chat: ChatPage, tmp_path: Path
) -> None:
    Image.effect_noise((160, 128), 90).convert("RGB").save(tmp_path / "noise.png")
    chat.page.get_by_label("Thinking").uncheck()
    for count, told in ((0, "0 of 1 (encoded 1)"), (1, "1 of 1 (")):
        chat.page.click("#new-chat")
        expect(chat.turns).to_have_count(0)
        chat.attach(tmp_path / "noise.png")
        with chat.page.expect_response("**/chat/completions") as response:
            turn = chat.answer("What color is the shape?")
        usage = next(
            json.loads(line[6:])["usage"]
            for line in response.value.text().splitlines()
            if line.startswith('data: {"') and json.loads(line[6:]).get("usage")
        )
        figures = chat.figures(turn)
        assert re.fullmatch(r"\d+ ms|\d+\.\d s", figures.pop("Time to first token"))
        assert re.fullmatch(r"\d+\.\d|–", figures.pop("Tokens per second"))
        assert figures.pop("Images and frames from caches").startswith(told)
        assert figures == {
            "Prompt tokens": str(usage["prompt_tokens"]),
            "Image tokens": str(usage["prompt_tokens_details"]["image_tokens"]),
            "Video tokens": "0",
            "Prompt tokens from the KV cache": str(usage["prompt_tokens_details"]["cached_tokens"]),
            "Answer tokens": str(usage["completion_tokens"]),
            "Thinking tokens": "0",
        }
        expect(turn.locator(".panel > summary")).to_contain_text(f"cache {count}/1")
        expect(turn.locator(".thinking")).to_be_hidden()


def test_times_in_an_answer_jump_in_the_clip(chat: ChatPage) -> None:
    chat.attach(CLIP)
    turn = chat.answer("When does the purple star appear?")
    expect(turn.locator(".content")).to_have_text(re.compile(r"At \d\.\d seconds\."))
    time = turn.locator(".content .time")
    seconds = float((time.text_content() or "").split()[0])
    time.click()
    expect(turn.locator("video")).to_have_js_property("currentTime", seconds)
    # of a later turn, in the other ways to write them; those behind the end stop at it
    text = "<2.5 seconds> then 00:04, 00:01.25 and `00:03`, at 1:02:03, but 16:9 and v1.5 seconds."
    later = chat.answer_scripted("And then?", text)
    times = later.locator(".time")
    expect(times).to_have_text(["2.5 seconds", "00:04", "00:01.25", "1:02:03"])
    end = turn.locator("video").evaluate("video => video.duration")
    for index, expected in enumerate((2.5, 4, 1.25, end)):
        times.nth(index).click()
        expect(turn.locator("video")).to_have_js_property("currentTime", expected)


# --- answers that a script writes ---


def test_an_answer_streams_and_thinking_folds_when_it_begins(chat: ChatPage) -> None:
    turn = chat.ask_scripted("Why?")
    thinking = turn.locator(".thinking")
    expect(turn.locator(".waiting")).to_be_visible()
    chat.say(reasoning_content="Hm, ")
    expect(thinking.locator(".thoughts")).to_have_text("Hm,")
    expect(thinking).to_have_attribute("open", "")
    expect(turn.locator(".waiting")).to_be_hidden()
    chat.say(reasoning_content="because")
    expect(thinking.locator(".thoughts")).to_have_text("Hm, because")
    chat.say(content="It is ")
    expect(turn.locator(".content")).to_have_text("It is")
    expect(thinking).not_to_have_attribute("open", "")
    chat.say(content="**so**.")
    expect(turn.locator(".content strong")).to_have_text("so")
    expect(turn.locator(".answer")).to_have_attribute("aria-busy", "true")
    chat.end()
    expect(chat.page.get_by_role("status")).to_have_text("Answer: It is **so**.")
    sent = json.loads(chat.page.evaluate("asked.body"))
    assert sent["enable_thinking"] and sent["stream_options"] == {"include_usage": True}
    # whoever opens thoughts by hand keeps them
    again = chat.ask_scripted("Really?")
    chat.say(reasoning_content="Yes")
    for _ in range(2):
        again.locator(".thinking summary").click()
    chat.say(content="Yes.")
    chat.end()
    expect(again.locator(".thinking")).to_have_attribute("open", "")
    messages = json.loads(chat.page.evaluate("asked.body"))["messages"]
    assert [message["content"] for message in messages] == ["Why?", "It is **so**.", "Really?"]


def test_stopping_ends_the_request_and_keeps_what_was_said(chat: ChatPage) -> None:
    turn = chat.ask_scripted("Tell me a story.")
    chat.say(content="Once upon")
    expect(turn.locator(".content")).to_have_text("Once upon")
    chat.page.click("#stop")
    expect(turn.locator(".ending")).to_have_text("Stopped.")
    expect(turn.locator(".content")).to_have_text("Once upon")
    assert chat.page.evaluate("asked.signal.aborted")
    expect(chat.page.locator("#send")).to_be_visible()
    expect(turn.locator(".error")).to_have_count(0)


def test_stopping_closes_the_connection(chat: ChatPage) -> None:
    chat.page.route("**/chat/completions", lambda route: None)  # it never answers
    with chat.page.expect_request("**/chat/completions"):
        chat.ask("Hello?")
    with chat.page.expect_event("requestfailed") as failed:
        chat.page.click("#stop")
    assert "ERR_ABORTED" in (failed.value.failure or "")
    chat.page.unroute("**/chat/completions")


def test_boxes_and_points_of_fenced_and_loose_json(chat: ChatPage) -> None:
    chat.attach(PICTURE, PICTURE)
    objects = [
        {"bbox_2d": [0, 0, 250, 500], "label": "a } b"},
        {"bbox_2d": [500, 250, 1000, 1000], "label": "c"},
    ]
    cut = '{"point_2d": [600, 400], "label": "tip"} [{"bbox_2d": [1, 2'
    answer = f"Here:\n```json\n{json.dumps(objects, indent=1)}\n```\nand {cut}"
    turn = chat.answer_scripted("Where?", answer)
    marks = turn.locator(".mark")
    expect(marks).to_have_text(["a } b", "c", "tip"])
    for index, found in enumerate(objects):
        assert_drawn(turn, marks.nth(index), found["bbox_2d"])
    point, picture = marks.nth(2).bounding_box(), turn.locator(".canvas img").bounding_box()
    assert point is not None and picture is not None
    assert point["x"] + 7 == pytest.approx(picture["x"] + 0.6 * picture["width"], abs=1)
    assert point["y"] + 7 == pytest.approx(picture["y"] + 0.4 * picture["height"], abs=1)
    expect(turn.locator(".choice[aria-pressed=true]")).to_have_text("Picture 1")
    turn.get_by_text("Picture 2").click()
    expect(turn.locator(".choice[aria-pressed=true]")).to_have_text("Picture 2")


def test_hostile_text_stays_text(chat: ChatPage) -> None:
    attack = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>"
    name = "<img src=x onerror=hacked=1>$(id).png"
    chat.send_files("drop", (name, "image/png", PICTURE.read_bytes()))
    marks = json.dumps([{"bbox_2d": [1, 1, 900, 900], "label": attack}])
    text = f"{attack}\n\n# {attack}\n- {attack}\n- **{attack}** [x](javascript:hacked=1)\n\n{marks}"
    turn = chat.ask_scripted(attack)
    chat.say(reasoning_content=attack)
    chat.say(content=f"{text}\n```{attack}\n{attack}")
    chat.end()
    expect(turn.locator(".content")).to_contain_text(f"{attack} [x](javascript:hacked=1)")
    expect(turn.locator(".thoughts")).to_have_text(attack)
    expect(turn.locator(".mark .label")).to_have_text(attack)
    expect(turn.locator(".question .text")).to_have_text(attack)
    assert turn.locator("script, iframe, a, .content img").count() == 0
    assert chat.page.evaluate("window.hacked") is None


def test_a_hostile_answer_does_not_hold_the_page_up(chat: ChatPage) -> None:
    text = '"bbox_2d"' + "{" * 20_000 + "*" * 20_000 + "`" * 20_000 + "1:" * 10_000
    turn = chat.answer_scripted("Go.", text)
    expect(turn.locator(".content")).to_contain_text("1:1:1:")


# --- the code that it shows ---


class Capture(Handler):
    """Keeps what it is sent, and streams an answer."""

    bodies: list[dict[str, Any]]
    keys: list[str | None]

    def do_POST(self) -> None:
        self.bodies.append(json.loads(self.read_body()))
        self.keys.append(self.headers["authorization"])
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b"data: [DONE]\n\n")


@contextmanager
def capture() -> Iterator[tuple[str, type[Capture]]]:
    handler = type("Handler", (Capture,), {"bodies": [], "keys": []})
    with listening(handler) as server:
        yield address_of(server), handler


def read_code(turn: Locator, language: str) -> str:
    return turn.locator(f"code.{language}").text_content() or ""


def run_code(turn: Locator, language: str, folder: Path, address: tuple[str, str]) -> str:
    """What it prints, with `address[0]` replaced by `address[1]`."""
    code = read_code(turn, language).replace(*address)
    assert KEY not in code
    command = [sys.executable, "-c", code] if language == "python" else ["bash", "-c", code]
    environment = {**os.environ, "API_KEY": KEY, "HOME": "/elsewhere"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("language", ["python", "curl"])
def test_code_shown_asks_the_model_the_same(
    chat: ChatPage, server: RealServer, tmp_path: Path, language: str
) -> None:
    if language == "curl" and shutil.which("curl") is None:
        pytest.skip("there is no curl")
    shutil.copy(PICTURE, tmp_path)
    chat.page.get_by_label("Thinking").uncheck()
    chat.attach(PICTURE)
    turn = chat.answer("How many stars are there?")
    printed = run_code(turn, language, tmp_path, ("", ""))
    if language == "curl":
        chunks = [json.loads(line[6:]) for line in printed.splitlines() if "delta" in line]
        printed = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert printed.strip() == "3"
    expect(turn.locator(".content")).to_have_text("3")
    assert chat.page.url.rstrip("/") == server.base_url


def test_code_shown_sends_every_character_that_was_asked(
    chat: ChatPage, server: RealServer, tmp_path: Path
) -> None:
    chat.page.click("#open-settings")
    for name, value in {"temperature": "0.5", "top_k": "7", "seed": "3"}.items():
        chat.page.fill(f"[name={name}]", value)
    chat.page.keyboard.press("Escape")
    files = [("odd $(id) 'name'.png", b"one"), ("odd $(id) 'name'.png", b"two")]
    chat.send_files("drop", *((name, "image/png", data) for name, data in files))
    chat.answer_scripted(NASTY, "An `answer` with \"$PATH\" and 'more' \\")
    turn = chat.answer_scripted("Sure?", "Yes.")
    asked = json.loads(chat.page.evaluate("asked.body"))
    del asked["stream_options"]  # for the figures of the page
    paths = re.findall(r'data_url\("image/png", "([^"]+)"\)', read_code(turn, "python"))
    assert len(set(paths)) == 2 and all(re.fullmatch(r"[\w.-]+", path) for path in paths)
    for path, (_, data) in zip(paths, files, strict=True):
        (tmp_path / path).write_bytes(data)
    with capture() as (address, captured):
        for language in ("python", *(["curl"] if shutil.which("curl") else [])):
            run_code(turn, language, tmp_path, (server.base_url, address))
            assert captured.bodies.pop() == asked
            assert captured.keys.pop() == f"Bearer {KEY}"
    assert asked["temperature"] == 0.5 and asked["top_k"] == 7 and asked["seed"] == 3
    assert asked["messages"][0]["content"][2]["text"] == NASTY


# --- what goes wrong ---


def test_keys_that_are_missing_wrong_and_used_up(browser: Browser, server: RealServer) -> None:
    with visit(browser, server) as chat:
        chat.open(server.base_url)
        notice = chat.page.locator("#notice")
        expect(notice).to_contain_text("The server needs an API key")
        expect(notice).to_contain_text("code invalid_api_key")
        chat.page.get_by_text("Enter a key").click()
        expect(chat.page.locator("#key")).to_be_focused()
        chat.page.keyboard.type("sk-wrong")
        chat.page.keyboard.press("Tab")
        expect(notice).to_contain_text("the API key is not valid")
        chat.page.fill("#key", LIMITED_KEY)
        chat.page.keyboard.press("Tab")
        expect(chat.page.locator("#model")).to_have_value(MODEL_NAME)
        expect(notice).to_be_empty()
        chat.page.keyboard.press("Escape")
        chat.answer("Hello!")
        refused = chat.ask("Hello!").locator(".error")
        expect(refused).to_contain_text("Too much for this key, for now")
        expect(refused).to_contain_text("code rate_limit_exceeded")
        expect(refused).to_contain_text(re.compile(r"try again in \d+ second"))


def test_a_busy_server_is_told_and_asked_again(chat: ChatPage) -> None:
    error = {"error": {"message": "as many as allowed", "code": "overloaded"}}
    chat.page.route(
        "**/chat/completions",
        lambda route: route.fulfill(status=503, json=error, headers={"retry-after": "7"}),
    )
    turn = chat.ask("Hello!")
    failure = turn.locator(".error")
    expect(failure).to_contain_text("The server is busy or not ready")
    expect(failure).to_contain_text("as many as allowed")
    expect(failure).to_contain_text("Status 503, code overloaded, try again in 7 seconds")
    chat.page.unroute("**/chat/completions")
    turn.get_by_role("button", name="Try again").click()
    turn.locator(".panel:not([hidden])").wait_for()
    expect(failure).to_have_count(0)
    assert (turn.locator(".content").text_content() or "").strip()


def test_a_model_that_is_loading_is_waited_for(browser: Browser, server: RealServer) -> None:
    with visit(browser, server) as chat:
        error = {"error": {"message": "the model is loading", "code": "loading"}}
        refusals = [error]
        chat.page.route(
            "**/v1/models",
            lambda route: (
                route.fulfill(status=503, json=refusals.pop(), headers={"retry-after": "1"})
                if refusals
                else route.fulfill(json={"data": [{"id": "m", "kind": "instruct"}]})
            ),
        )
        chat.open(server.base_url)
        expect(chat.page.locator("#served")).to_have_text("m")
        assert refusals == []
        expect(chat.page.locator("#notice")).to_be_empty()
        expect(chat.page.get_by_label("Thinking")).to_be_disabled()


def test_errors_within_a_stream_and_behind_its_break_are_shown(chat: ChatPage) -> None:
    turn = chat.ask_scripted("Hello!")
    chat.say(content="Hel")
    chat.page.evaluate("sendEvent", {"error": {"message": "it failed", "code": "engine_failed"}})
    expect(turn.locator(".error")).to_contain_text("The answer broke off")
    expect(turn.locator(".error")).to_contain_text("it failed")
    expect(turn.locator(".content")).to_have_text("Hel")
    chat.page.route("**/chat/completions", lambda route: route.abort())
    chat.page.reload()  # without the script
    chat.enter_key(KEY)
    expect(chat.page.locator("#served")).to_have_text(MODEL_NAME)
    lost = chat.ask("Hello!")
    expect(lost.locator(".error")).to_contain_text("The server cannot be reached.")
    assert chat.page.locator("#key").input_value() == KEY


def test_a_key_does_not_outlive_the_page(chat: ChatPage) -> None:
    assert chat.page.locator("#key").input_value() == KEY
    chat.page.reload()
    expect(chat.page.locator("#notice")).to_contain_text("needs an API key")
    assert chat.page.locator("#key").input_value() == ""


# --- for everybody ---


def test_the_keyboard_is_enough(browser: Browser, server: RealServer) -> None:
    with visit(browser, server) as chat:
        chat.open(server.base_url)
        expect(chat.page.locator("#question")).to_be_focused()
        press_until_focused(chat.page, "Shift+Tab", "#open-settings")
        chat.page.keyboard.press("Enter")
        press_until_focused(chat.page, "Tab", "#key")
        chat.page.keyboard.type(KEY)
        chat.page.keyboard.press("Escape")
        expect(chat.page.locator("#served")).to_have_text(MODEL_NAME)
        ask_by_keyboard(chat)


def ask_by_keyboard(chat: ChatPage) -> None:
    page = chat.page
    with page.expect_file_chooser() as chooser:
        press_until_focused(page, "Tab", "#attach")
        page.keyboard.press("Enter")
    chooser.value.set_files([PICTURE, CLIP])
    expect(page.locator("#question")).to_be_focused()
    press_until_focused(page, "Shift+Tab", "#tray .attached:last-child .remove")
    page.keyboard.press("Enter")
    expect(page.locator("#tray .name")).to_have_text(["shapes.png"])
    expect(page.locator("#question")).to_be_focused()
    page.keyboard.type("How many stars are there?")
    page.keyboard.press("Enter")
    turn = chat.turns.first
    turn.locator(".panel:not([hidden])").wait_for()
    for details in (".panel", ".thinking"):
        press_until_focused(page, "Shift+Tab", f"{details} > summary")
        page.keyboard.press("Enter")
        expect(turn.locator(details)).to_have_attribute("open", "")
    press_until_focused(page, "Shift+Tab", "#open-settings")
    page.keyboard.press("Enter")
    expect(page.locator("#settings")).to_be_visible()
    press_until_focused(page, "Tab", "[name=temperature]")
    page.keyboard.press("Escape")
    expect(page.locator("#settings")).to_be_hidden()
    press_until_focused(page, "Shift+Tab", "#new-chat")
    page.keyboard.press("Enter")
    expect(chat.turns).to_have_count(0)


def press_until_focused(page: Page, key: str, selector: str) -> None:
    """Every stop on the way shows where it is."""
    for _ in range(40):
        page.keyboard.press(key)
        shown = page.evaluate(
            "() => { const node = document.activeElement;"
            " const style = getComputedStyle(node.id === 'question' ? node.parentElement : node);"
            " return node === document.body || style.outlineStyle !== 'none'; }"
        )
        assert shown, page.evaluate("document.activeElement.outerHTML.slice(0, 200)")
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            return
    raise AssertionError(f"{selector} is not reached")


def test_nothing_is_wider_than_a_phone(browser: Browser, server: RealServer) -> None:
    with visit(browser, server, viewport={"width": 360, "height": 640}) as chat:
        chat.open(server.base_url)
        assert_fits(chat.page)
        chat.enter_key(KEY)
        expect(chat.page.locator("#served")).to_have_text(MODEL_NAME)
        chat.attach(PICTURE, CLIP, PICTURE, PICTURE, PICTURE)
        assert_fits(chat.page)
        show_everything(chat)
        assert_fits(chat.page)
        chat.page.click("#open-settings")
        assert_fits(chat.page)
        box = chat.page.locator("#settings").bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 360


def assert_fits(page: Page) -> None:
    root = "document.scrollingElement"
    assert page.evaluate(f"{root}.scrollWidth") <= page.evaluate(f"{root}.clientWidth") == 360
    controls = "#composer button, #composer label.switch, header button"
    for box in [node.bounding_box() for node in page.locator(controls).all()]:
        assert box is None or (box["x"] >= 0 and box["x"] + box["width"] <= 360)


def show_everything(chat: ChatPage) -> None:
    """An answer with all parts that one can have, unfolded, then one that failed."""
    marks = [{"bbox_2d": [700, 5, 900, 900], "label": "x" * 60}, {"point_2d": [990, 990]}]
    text = (
        f"# {'Long' * 30}\n{'word' * 60} `{'code' * 40}` at 00:02\n- item\n\n1. one\n\n"
        f"```\n{'line ' * 60}\n```\n{json.dumps(marks)}"
    )
    turn = chat.ask_scripted("question" * 30)
    chat.say(reasoning_content="thought" * 40)
    chat.say(content=text)
    chat.end({"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16})
    for summary in turn.locator("summary").all():
        summary.click()
    failed = chat.ask_scripted("Again?")
    error = {"message": "m" * 200, "code": "c" * 80}
    chat.page.evaluate("sendEvent", {"error": error})
    failed.locator(".error").wait_for()
    chat.attach(PICTURE)
    chat.send_files("drop", ("notes.txt", "text/plain", b"no"))


# Of every visible text against what is painted behind it, in the browser.
_LOW_CONTRAST = """
() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const read = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], back) => [r, g, b].map((value, i) => value * a + back[i] * (1 - a));
  const luminance = (rgb) => rgb.map((value) => value / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const backOf = (node) => {
    if (!node) return [255, 255, 255];
    const color = read(getComputedStyle(node).backgroundColor);
    return color[3] === 1 ? color.slice(0, 3) : over(color, backOf(node.parentElement));
  };
  const hasText = (node) => node.placeholder || node.value ||
    [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
  const texts = [...document.querySelectorAll("body *")].filter((node) => hasText(node) &&
    !node.closest(".visually-hidden, noscript, option, template") && node.checkVisibility());
  const found = texts.map((node) => {
    const pseudo = node.placeholder && !node.value ? "::placeholder" : null;
    const back = backOf(node);
    const front = over(read(getComputedStyle(node, pseudo).color), back);
    const [low, high] = [luminance(front), luminance(back)].sort((a, b) => a - b);
    return { name: `${node.tagName} ${node.className}`, ratio: (high + 0.05) / (low + 0.05) };
  });
  return { count: found.length, low: found.filter(({ ratio }) => ratio < 4.5) };
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_in_both_schemes(browser: Browser, server: RealServer, scheme: Any) -> None:
    with visit(browser, server, color_scheme=scheme) as chat:
        chat.open(server.base_url)
        expect(chat.page.locator("#notice .error")).to_be_visible()
        assert chat.page.evaluate(_LOW_CONTRAST)["low"] == []
        chat.enter_key(KEY)
        expect(chat.page.locator("#served")).to_have_text(MODEL_NAME)
        chat.attach(PICTURE, CLIP)
        show_everything(chat)
        chat.page.click("#open-settings")
        found = chat.page.evaluate(_LOW_CONTRAST)
        assert found["count"] > 40
        assert found["low"] == []
        back = chat.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", back))) > 382) == (scheme == "light")
