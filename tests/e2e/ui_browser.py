"""The page at `/` in a headless Chromium of the system."""

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Locator, Page, sync_playwright

EXAMPLES = Path(__file__).parents[2] / "demo" / "examples"
PICTURE, CLIP = EXAMPLES / "shapes.png", EXAMPLES / "shapes.mp4"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
TIMEOUT_MS = 120_000
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# In the place of the chat endpoint: `sendDelta`, `sendEvent` and `endAnswer` write what the page
# then reads as the answer; what it asked is in `asked`.
_SCRIPTED_SERVER = """
(() => {
  const realFetch = window.fetch;
  window.violations = [];
  document.addEventListener("securitypolicyviolation", (event) =>
    window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
  window.script = () => {
    window.sendDelta = null;
    window.fetch = async (url, options) => {
      if (!String(url).endsWith("v1/chat/completions")) return realFetch(url, options);
      window.asked = options;
      let answer;
      const body = new ReadableStream({ start: (controller) => (answer = controller) });
      const write = (data) => answer.enqueue(new TextEncoder().encode(`data: ${data}\\n\\n`));
      options.signal.addEventListener("abort", () => answer.error(options.signal.reason));
      window.sendEvent = (event) => write(JSON.stringify(event));
      window.sendDelta = (delta) => window.sendEvent({ choices: [{ delta, finish_reason: null }] });
      window.endAnswer = () => { write("[DONE]"); answer.close(); };
      return new Response(body);
    };
  };
})();
"""
_FILE_EVENT = """
([kind, files]) => {
  const transfer = new DataTransfer();
  for (const [name, type, content] of files) {
    const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
    transfer.items.add(new File([bytes], name, { type }));
  }
  const options = { bubbles: true, cancelable: true };
  if (kind === "paste") {
    const event = new ClipboardEvent("paste", { ...options, clipboardData: transfer });
    return document.activeElement.dispatchEvent(event);
  }
  return document.body.dispatchEvent(new DragEvent(kind, { ...options, dataTransfer: transfer }));
}
"""


@contextmanager
def open_browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=list(FLAGS))
        yield browser
        browser.close()


class ChatPage:
    """The page as its reader has it."""

    def __init__(self, page: Page) -> None:
        page.set_default_timeout(TIMEOUT_MS)
        page.add_init_script(_SCRIPTED_SERVER)
        self.page = page

    def open(self, base_url: str, api_key: str | None = None) -> None:
        """With a model chosen, if a key is given."""
        self.page.goto(f"{base_url}/")
        if api_key is not None:
            self.enter_key(api_key)
            self.page.locator("#served:not(:empty)").wait_for()

    def enter_key(self, api_key: str) -> None:
        self.page.click("#open-settings")
        self.page.fill("#key", api_key)
        self.page.keyboard.press("Tab")
        self.page.keyboard.press("Escape")

    def send_files(self, kind: str, *files: tuple[str, str, bytes]) -> bool:
        """Drop or paste (name, media type, content); whether the browser would act, too."""
        given = [[name, type_, base64.b64encode(data).decode()] for name, type_, data in files]
        return bool(self.page.evaluate(_FILE_EVENT, [kind, given]))

    def attach(self, *paths: Path) -> None:
        self.page.set_input_files("#files", list(paths))

    def ask(self, question: str) -> Locator:
        """The turn, which may be under way."""
        count = self.turns.count()
        self.page.fill("#question", question)
        self.page.click("#send")
        turn = self.turns.nth(count)
        turn.wait_for()
        return turn

    def answer(self, question: str) -> Locator:
        """The turn, when its answer is whole."""
        turn = self.ask(question)
        turn.locator(".panel:not([hidden])").wait_for()
        return turn

    def ask_scripted(self, question: str) -> Locator:
        """What follows is written by `say` and `end`."""
        self.page.evaluate("script()")
        turn = self.ask(question)
        self.page.locator("#stop:visible").wait_for()
        while not self.page.evaluate("Boolean(window.sendDelta)"):
            self.page.evaluate("new Promise(requestAnimationFrame)")
        return turn

    def say(self, **delta: str) -> None:
        self.page.evaluate("sendDelta", delta)

    def end(self, usage: dict[str, Any] | None = None) -> None:
        if usage is not None:
            self.page.evaluate("sendEvent", {"choices": [], "usage": usage})
        self.page.evaluate("endAnswer()")
        self.page.locator("#send:visible").wait_for()

    def answer_scripted(self, question: str, content: str) -> Locator:
        turn = self.ask_scripted(question)
        self.say(content=content)
        self.end()
        return turn

    def figures(self, turn: Locator) -> dict[str, str]:
        panel = turn.locator(".panel")
        names = panel.locator("dt").all_text_contents()
        return dict(zip(names, panel.locator("dd").all_text_contents(), strict=True))

    @property
    def turns(self) -> Locator:
        return self.page.locator(".turn")
