"""`python -m tests.e2e.ui_screenshots` makes the pictures of docs/ui.md anew."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

from playwright.sync_api import Browser

from tests.e2e.real_server import RealServer
from tests.e2e.ui_browser import CLIP, PICTURE, ChatPage, open_browser

_FOLDER = Path(__file__).parents[2] / "docs" / "images"
_VIEWS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "light": {"viewport": {"width": 1000, "height": 1160}, "color_scheme": "light"},
        "dark": {"viewport": {"width": 1000, "height": 860}, "color_scheme": "dark"},
        "phone": {
            "viewport": {"width": 360, "height": 740},
            "color_scheme": "light",
            "device_scale_factor": 2,
        },
    }
)

_SEEK_END = "video => !video.seeking || new Promise(done => (video.onseeked = () => done(true)))"


def main() -> None:
    _FOLDER.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder:
        server = RealServer("demo", Path(folder) / "log", served_model_name="demo", dtype="auto")
        with server, open_browser() as browser:
            for name in _VIEWS:
                _draw(browser, server.base_url, name)


def _draw(browser: Browser, base_url: str, name: str) -> None:
    chat = ChatPage(browser.new_page(**_VIEWS[name], reduced_motion="reduce"))
    chat.open(base_url)
    chat.page.locator("#served:not(:empty)").wait_for()
    if name == "dark":
        chat.attach(CLIP)
        turn = chat.answer("When does the purple star appear?")
        turn.locator("summary", has_text="TTFT").click()
        turn.locator("summary", has_text="Thought for").click()
        turn.locator(".time").click()
        chat.page.locator(".media video").evaluate(_SEEK_END)
    else:
        chat.attach(PICTURE)
        turn = chat.answer("Give the bounding box of the purple square.")
        turn.locator(".mark").wait_for()
    if name == "light":
        turn.locator("summary", has_text="TTFT").click()
    chat.page.screenshot(path=_FOLDER / f"ui-{name}.png")
    chat.page.close()


if __name__ == "__main__":
    main()
