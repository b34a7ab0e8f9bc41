"""The routes of the page: what they serve, to whom, and that they can be turned off."""

import re
from pathlib import Path

import httpx
import pytest

import server.ui
from server import cli
from server.access.operator_paths import is_open
from server.settings import AccessSettings, EngineSettings, ServerSettings, Settings
from tests.api_keys import write_key_file
from tests.fake_backend import Server, assert_error

FOLDER = Path(server.ui.__file__).parent
FILES = sorted(p.name for p in FOLDER.iterdir() if p.suffix in (".css", ".js", ".svg"))
PATHS = ["/", *(f"/ui/{name}" for name in FILES)]
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' blob: data:",
    "media-src": "blob:",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}


async def request(method: str, path: str, *, ui: bool = True, **options) -> httpx.Response:
    settings = Settings(server=ServerSettings(ui=ui))
    return await Server(settings=settings).request(method, path, **options)


def read_policy(response: httpx.Response) -> dict[str, str]:
    rules = response.headers["content-security-policy"].split(";")
    return dict(rule.strip().split(" ", 1) for rule in rules)


@pytest.mark.parametrize("path", PATHS)
async def test_every_file_is_served_as_what_it_is(path: str) -> None:
    response = await request("GET", path)
    name = path.rpartition("/")[2] or "index.html"
    assert response.status_code == 200
    assert response.content == (FOLDER / name).read_bytes()
    kinds = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
    kind = kinds.get(Path(name).suffix, "image/svg+xml")
    assert response.headers["content-type"].split(";")[0] == kind
    assert read_policy(response) == POLICY
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", PATHS[:2])
async def test_a_file_that_is_known_is_not_sent_again(path: str) -> None:
    first = await request("GET", path)
    etag = first.headers["etag"]
    assert first.headers["cache-control"] == "no-cache"
    for known in (etag, f'"other", W/{etag}', "*"):
        again = await request("GET", path, headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag and read_policy(again) == POLICY
    changed = await request("GET", path, headers={"if-none-match": '"other"'})
    assert (changed.status_code, changed.content) == (200, first.content)


async def test_etags_differ() -> None:
    etags = [(await request("GET", path)).headers["etag"] for path in PATHS]
    assert len(set(etags)) == len(PATHS)


@pytest.mark.parametrize("path", PATHS[:2])
async def test_head_tells_what_get_would(path: str) -> None:
    got, head = await request("GET", path), await request("HEAD", path)
    assert (head.status_code, head.content) == (200, b"")
    own = {"x-request-id", "request-id"}
    assert {k: v for k, v in head.headers.items() if k not in own} == {
        k: v for k, v in got.headers.items() if k not in own
    }


@pytest.mark.parametrize("path", PATHS[:2])
async def test_other_methods_are_refused(path: str) -> None:
    assert_error(await request("POST", path), 405, "method_not_allowed")


@pytest.mark.parametrize("path", ["/ui", "/ui/", "/ui/page.py", "/ui/index.html", "/ui/../app.py"])
async def test_nothing_else_is_served(path: str) -> None:
    assert (await request("GET", path)).status_code == 404


@pytest.mark.parametrize("path", PATHS[:2])
async def test_it_can_be_turned_off(path: str) -> None:
    assert (await request("GET", path, ui=False)).status_code == 404


@pytest.mark.parametrize(
    ("argv", "is_on"),
    [
        (["demo"], True),
        (["--no-ui", "demo"], False),
        (["demo", "--no-ui"], False),
        (["--ui", "false", "demo"], False),
        (["--ui", "demo"], True),
    ],
)
def test_the_flag_turns_it_off(monkeypatch: pytest.MonkeyPatch, argv, is_on) -> None:
    started: list[Settings] = []
    monkeypatch.setattr(cli, "_serve", lambda settings: started.append(settings) or 0)
    assert cli.main(["serve", *argv]) == 0
    assert started[0].server.ui is is_on and started[0].engine.model == "demo"


async def test_it_needs_no_key_and_what_it_asks_for_does(tmp_path: Path) -> None:
    keys = write_key_file(tmp_path / "keys.json", {"key": "sk-qwen3vl-user"})
    guarded = Server(settings=Settings(access=AccessSettings(api_keys_file=keys)))
    for path in PATHS:
        assert (await guarded.request("GET", path)).status_code == 200
    assert_error(await guarded.request("GET", "/v1/models"), 401, "invalid_api_key")


@pytest.mark.parametrize("path", ["//", "//ui/app.js", "/uix", "/ui", "/UI/app.js", "/v1/ui/", ""])
def test_no_other_path_is_open(path: str) -> None:
    assert not is_open(path, b"")


def test_no_file_names_another_origin_or_makes_markup_of_text() -> None:
    for name in ("index.html", *FILES):
        text = (FOLDER / name).read_text()
        addresses = set(re.findall(r"\b(?:https?|wss?):?//[\w.]+", text))
        assert addresses <= {"http://www.w3.org"}, name  # the namespace of the icon
        forbidden = (
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(|DOMParser"
        )
        assert not re.search(forbidden, text), name
        assert not re.search(r"localStorage|sessionStorage|indexedDB|document\.cookie", text), name
    page = (FOLDER / "index.html").read_text()
    assert not re.search(r"<script>|<style|\sstyle=|\son\w+=", page)


def test_every_file_goes_into_wheels() -> None:
    project = (FOLDER.parents[1] / "pyproject.toml").read_text()
    listed = re.search(r'^"server\.ui" = \[(.*)\]$', project, re.MULTILINE)
    assert listed is not None
    patterns = re.findall(r'"\*(\.\w+)"', listed[1])
    assert {p.suffix for p in FOLDER.iterdir() if p.is_file()} <= {*patterns, ".py"}


async def test_a_process_that_only_encodes_has_none() -> None:
    """It answers no questions."""
    settings = Settings(engine=EngineSettings(role="encoder"))
    assert not settings.has_page
    response = await Server(settings=settings).request("GET", "/")
    assert_error(response, 404, "not_found")
