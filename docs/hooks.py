"""MkDocs hooks: pages of the repository outside docs/ join the site, links follow them, and the
built pages load nothing from elsewhere.

The links in the sources are those that work where the repository is read.
"""

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
logger = logging.getLogger("mkdocs.plugins.hooks")  # strict mode counts its warnings

# path in the repository: path in the site
OUTSIDE = {
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/results/README.md": "results.md",
    "demo/README.md": "demo.md",
    "demo/accuracy.png": "demo/accuracy.png",
    "demo/loss.png": "demo/loss.png",
    "demo/examples/shapes.png": "demo/shapes.png",
    "docker/README.md": "docker.md",
}
_INSIDE = {site: repository for repository, site in OUTSIDE.items()}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s:]*?)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^(```.*?^```|    .*?$)", re.MULTILINE | re.DOTALL)
LOADED_FROM_ELSEWHERE = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*?\b(?:src|data)=[\"']?(?:https?:)?//"
    r"|<link\b(?=[^>]*rel=[\"']?(?:stylesheet|preload|preconnect|icon))[^>]*?href=[\"']?(?:https?:)?//"
    r"|@import|url\([\"']?(?:https?:)?//",
    re.IGNORECASE,
)


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File  # the tests have no mkdocs

    for repository, site in OUTSIDE.items():
        files.append(File.generated(config, site, abs_src_path=str(ROOT / repository)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    source = page.file.src_uri
    return rewrite_links(markdown, source)


def on_post_build(config: Any) -> None:
    for path in Path(config["site_dir"]).rglob("*.html"):
        for found in LOADED_FROM_ELSEWHERE.findall(path.read_text(encoding="utf-8")):
            logger.warning("%s loads something from elsewhere: %s", path.name, found)


def rewrite_links(markdown: str, site: str) -> str:
    """Links as the site has them; text only where it has no such page.

    Args:
        site: path of the page in the site.
    """
    parts = _FENCE.split(markdown)
    parts[::2] = (_LINK.sub(lambda link: _rewrite(link, site), part) for part in parts[::2])
    return "".join(parts)


def _rewrite(link: re.Match[str], site: str) -> str:
    mark, text, target, anchor = link[1], link[2], link[3], link[4] or ""
    if not target:
        return link[0]
    repository = _INSIDE.get(site, f"docs/{site}")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(repository), target))
    if path.startswith("docs/"):
        wanted = path.removeprefix("docs/")
    elif path in OUTSIDE:
        wanted = OUTSIDE[path]
    elif (ROOT / path).exists():
        return text
    else:
        return link[0]  # MkDocs complains
    return f"{mark}[{text}]({posixpath.relpath(wanted, posixpath.dirname(site) or '.')}{anchor})"
