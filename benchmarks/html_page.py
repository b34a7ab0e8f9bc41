"""A page of HTML that needs nothing but itself: styles, tables and figures in one file.

Readable from 360 px on, light and dark. Nothing is loaded and no script runs: the page's content
security policy forbids both.
"""

import hashlib
import html
import io
import re
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure
from matplotlib.text import Text

# Of figures; the page replaces them with variables, which are other colours when it is dark.
# After Okabe and Ito, whose colours the colour-blind tell apart, with more contrast to white.
INK = "#1b1f24"
FAINT = "#d0d7de"
ALARM = "#c0001a"
COLORS = ("#0072b2", "#d55e00", "#008a65", "#b5548a", "#9a6a00", "#2f8fcb")
_DARK = {
    INK: "#e4e8ec",
    FAINT: "#3a424c",
    ALARM: "#ff7b84",
    **dict(
        zip(COLORS, ("#4fb0ec", "#ff8f4d", "#2cc79b", "#e594c4", "#e8b93c", "#a5d8ff"), strict=True)
    ),
}
_VARIABLES = {color: f"--figure-{index}" for index, color in enumerate(_DARK)}

# Inches: its 317 points are not more than the pixels of a phone, so 9 points stay 9 pixels.
FIGURE_WIDTH = 4.4
_FIGURE_STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "text.color": INK,
    # Names may have dollar signs. Axes need formatters that do not write mathematics.
    "text.parse_math": False,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": f"cycler(color={COLORS})",
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
}

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_REFERENCE = re.compile(r"url\(#([^)]*)\)|^#(.+)$")
# Control characters and halves of pairs, which neither HTML nor XML may have, and marks that turn
# the direction of what follows.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_NUMBER = re.compile(r"[-+]?\d[\d.,]*(?: ?[^\s\d]{1,12})?(?: \(.*\))?|–")

_MAX_WORD_CHARS = 8
# Longer cells are broken into lines.
_MAX_LINE_CHARS = 32

_CSS = """
:root { --ink: #1b1f24; --faint: #5a6572; --line: #d0d7de; --paper: #fff; --stripe: #f5f7f9;
  --alarm: #fff3d6; --alarm-line: #c98a00; LIGHT }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --faint: #a3adb8; --line: #3a424c; --paper: #14181d; --stripe: #1c2229;
    --alarm: #3a2e0c; --alarm-line: #d9a520; DARK }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 12px; max-width: 72rem; color: var(--ink);
  background: var(--paper); font: 16px/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; }
p { margin: .5rem 0; max-width: 46rem; }
.faint, figcaption, caption { color: var(--faint); font-size: .875rem; }
.warning { background: var(--alarm); border-left: 4px solid var(--alarm-line);
  padding: .5rem .75rem; margin: .75rem 0; }
.warning ul { margin: .25rem 0; padding-left: 1.25rem; }
summary { cursor: pointer; font-weight: bold; padding: .5rem 0; }
pre, .scroll { overflow-x: auto; max-width: 100%; margin: .5rem 0; }
pre { background: var(--stripe); padding: .5rem .75rem; white-space: pre-wrap; }
code, pre { font: .8125rem/1.5 ui-monospace, monospace; }
table { border-collapse: collapse; font-size: .875rem; overflow-wrap: normal; }
th, td { padding: .3rem .6rem; text-align: left; vertical-align: top; max-width: 32rem;
  border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
td.long { white-space: normal; overflow-wrap: anywhere; min-width: 13rem; }
thead th { border-bottom-width: 2px; vertical-align: bottom; }
tbody th { font-weight: normal; position: sticky; left: 0; background: var(--paper);
  min-width: 6.5rem; max-width: 42vw; overflow-wrap: break-word; }
tbody th[colspan] { font-weight: bold; max-width: none; padding-top: .75rem; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.figures { display: grid; gap: 1rem 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); }
figure { margin: .75rem 0; max-width: 36rem; min-width: 0; }
svg { display: block; width: 100%; height: auto; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
"""


def page(title: str, body: str) -> str:
    """A document.

    Args:
        title: plain text; also the heading.
        body: HTML, made with the functions here.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{_style()}</style>\n</head>\n"
        f"<body>\n<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def escape(text: str) -> str:
    """Plain text as HTML, for elements and quoted attributes."""
    return html.escape(_UNPRINTABLE.sub("\ufffd", text))


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def code_block(text: str) -> str:
    return f"<pre><code>{escape(text)}</code></pre>"


def warning(title: str, texts: Sequence[str]) -> str:
    """A box that is not overlooked; nothing without texts."""
    if not texts:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<div class="warning"><strong>{escape(title)}</strong><ul>{items}</ul></div>'


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Plain text in cells. The first of a row is its heading; columns of numbers are aligned right.

    A row of but one cell is a heading of those below. A table that is too wide scrolls for itself.
    """
    full = [row for row in rows if len(row) == len(headers)]
    columns = list(zip(*full, strict=True)) or [()] * len(headers)
    is_number = [bool(full) and _are_numbers(cells) for cells in columns]
    head = "".join(
        _cell("th", text, right, ' scope="col"')
        for text, right in zip(headers, is_number, strict=True)
    )
    body = "\n".join(f"<tr>{_row(row, is_number)}</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def figure_style() -> AbstractContextManager[None]:
    """For the time in which a figure is made."""
    return matplotlib.rc_context(_FIGURE_STYLE)


def figure(fig: Figure, caption: str) -> str:
    """A drawing that is as wide as its place, with its caption below.

    Drawn under `figure_style`, `FIGURE_WIDTH` wide and in the colours of this module, it suits
    light and dark pages, and phones. Text stays text.
    """
    content = io.StringIO()
    for text in fig.findobj(Text):
        assert isinstance(text, Text), "as asked for"
        text.set_text(_UNPRINTABLE.sub("\ufffd", text.get_text()))
    rc: Any = {"svg.fonttype": "none", "svg.hashsalt": "page"}
    with matplotlib.rc_context(rc), warnings.catch_warnings():
        # The reader's font may have it, and text stays text.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        fig.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    svg = _embeddable(content.getvalue(), _UNPRINTABLE.sub("\ufffd", caption))
    return f"<figure>\n{svg}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"


def section(title: str, body: str, is_open: bool) -> str:
    """What can be folded away."""
    state = " open" if is_open else ""
    return f"<details{state}><summary>{escape(title)}</summary>\n{body}\n</details>"


def figures(parts: Sequence[str]) -> str:
    """Beside each other where there is room."""
    return f'<div class="figures">\n{"".join(parts)}\n</div>'


def _style() -> str:
    light = " ".join(f"{name}: {color};" for color, name in _VARIABLES.items())
    dark = " ".join(f"{name}: {_DARK[color]};" for color, name in _VARIABLES.items())
    return _CSS.replace("LIGHT", light).replace("DARK", dark)


def _are_numbers(cells: Sequence[str]) -> bool:
    """At least half of them, and the others are short words such as `endless`."""
    words = [cell for cell in cells if not _NUMBER.fullmatch(cell)]
    return 2 * len(words) <= len(cells) and all(len(word) <= _MAX_WORD_CHARS for word in words)


def _row(cells: Sequence[str], is_number: Sequence[bool]) -> str:
    if len(cells) < len(is_number):
        return _cell("th", cells[0], False, f' scope="colgroup" colspan="{len(is_number)}"')
    first = _cell("th", cells[0], is_number[0], ' scope="row"')
    return first + "".join(
        _cell("td", *pair) for pair in zip(cells[1:], is_number[1:], strict=True)
    )


def _cell(tag: str, text: str, is_number: bool, attributes: str = "") -> str:
    name = "number" if is_number else "long" if len(text) > _MAX_LINE_CHARS else ""
    kind = f' class="{name}"' if name else ""
    return f"<{tag}{attributes}{kind}>{escape(text)}</{tag}>"


def _embeddable(svg: str, caption: str) -> str:
    """matplotlib's drawing without what only a file of its own needs, and with ids of its own."""
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(svg)
    prefix = f"f{hashlib.sha256((caption + svg).encode()).hexdigest()[:12]}-"
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}style", f"{{{_SVG}}}metadata"):
                parent.remove(child)
    used = {name for element in root.iter() for name in _references(element)}
    for element in root.iter():
        _rewrite(element, prefix, used)
    box = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib.update({"viewBox": box, "role": "img", "aria-label": caption})
    title = ElementTree.Element(f"{{{_SVG}}}title")
    title.text = caption
    root.insert(0, title)
    return ElementTree.tostring(root, encoding="unicode")


def _references(element: ElementTree.Element) -> Sequence[str]:
    found = (m for value in element.attrib.values() for m in _REFERENCE.finditer(value))
    return [match[1] or match[2] for match in found]


def _rewrite(element: ElementTree.Element, prefix: str, used: set[str]) -> None:
    """Ids that are referred to get the prefix, the others go; colours become variables."""
    for name, value in list(element.attrib.items()):
        if name == "id":
            if value in used:
                element.set(name, prefix + value)
            else:
                del element.attrib[name]
        elif name == "style":
            for color, variable in _VARIABLES.items():
                value = value.replace(color, f"var({variable})")
            element.set(name, _with_prefix(value, prefix))
        else:
            element.set(name, _with_prefix(value, prefix))


def _with_prefix(value: str, prefix: str) -> str:
    return _REFERENCE.sub(lambda m: f"url(#{prefix}{m[1]})" if m[1] else f"#{prefix}{m[2]}", value)
