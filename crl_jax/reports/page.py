"""HTML and SVG as trees of elements, so that all text in them is escaped."""

import base64
import io
from collections.abc import Iterable
from xml.etree import ElementTree

import numpy as np
from PIL import Image

Element = ElementTree.Element
Child = Element | str | None
Section = tuple[str, list[Child]]  # its title, and what is in it

# Both themes; charts take their colours from here. On paper it is always the light one.
_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2430; --pale: #5d6776;
  --line: #dfe3e8; --fill: #f4f6f8; --accent: #1f6feb; --second: #c2410c; }
@media (prefers-color-scheme: dark) { :root { --paper: #12161c; --ink: #e4e8ee;
  --pale: #98a2b0; --line: #2b333d; --fill: #1b2129; --accent: #64a6ff;
  --second: #ff9a5c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1rem 4rem;
  background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  overflow-wrap: break-word; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.25rem; margin: 2.6rem 0 .3rem; }
h3 { font-size: 1rem; margin: 1.1rem 0 .3rem; }
p { margin: .2rem 0 .8rem; max-width: 46rem; } .pale { color: var(--pale); }
nav { margin: 1rem 0; display: flex; flex-wrap: wrap; gap: .2rem 1rem; }
a { color: var(--accent); }
.grid { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
.beside { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; }
.beside > div { min-width: 0; } .beside > div:first-child { flex: 0 1 26rem; }
.cards { display: grid; gap: .7rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); }
.card { background: var(--fill); border: 1px solid var(--line); border-radius: 8px;
  padding: .6rem .8rem; }
.card b { display: block; font-size: 1.45rem; font-variant-numeric: tabular-nums; }
figure { margin: 0; min-width: 0; } figcaption { font-weight: 600; }
.scroll { overflow-x: auto; }
.scroll svg { max-width: none; } .grid svg { width: 100%; max-width: 30rem; }
svg { display: block; height: auto; font: 11px system-ui, sans-serif;
  overflow: visible; }
svg text { fill: var(--pale); } svg .axis { stroke: var(--line); fill: none; }
svg .accent { stroke: var(--accent); } svg .second { stroke: var(--second); }
svg .curve { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
svg .bar { fill: var(--accent); } svg .dot { fill: var(--accent); opacity: .5; }
 svg .empty { fill: var(--fill); }
.key { font-size: .85rem; color: var(--pale); } .key i { display: inline-block;
  width: 1.1em; height: 3px; margin: 0 .35em .25em 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .18rem .7rem .18rem 0;
  border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child { text-align: left; }
td:first-child { white-space: nowrap; }
.names td:first-child { white-space: normal; overflow-wrap: anywhere; }
@media (max-width: 40rem) { .names td:first-child { min-width: 6rem; }
  .names .share { width: 4rem; } }
th { font-weight: 600; white-space: nowrap; }
.scroll + .scroll, details + .scroll { margin-top: .8rem; }
.share { display: inline-block; width: 7rem; height: .6rem; background: var(--fill);
  border-radius: 3px; overflow: hidden; } .share i { display: block; height: 100%;
  background: var(--accent); }
.pictures { display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); }
.pictures img { width: 100%; border-radius: 6px; display: block; }
.pictures img.small { image-rendering: pixelated; }
.pictures p { font-size: .8rem; margin: .25rem 0 0; line-height: 1.35; }
.wrong { color: var(--second); } details summary { cursor: pointer; margin: .4rem 0; }
@page { margin: 1.5cm; }
@media print { :root { color-scheme: light; --paper: #fff; --ink: #000; --pale: #444;
  --line: #ccc; --fill: #f2f2f2; --accent: #1f6feb; --second: #c2410c; }
  nav { display: none; } .scroll { overflow: visible; } .scroll svg { max-width: 100%; }
  pre { white-space: pre-wrap; } figure, tr, .card { break-inside: avoid; }
  h2, h3, .pale { break-after: avoid; } body { padding: 0; max-width: none; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def element(tag: str, *children: Child, **attributes: object) -> Element:
    """Returns an element; `class_` is the attribute `class`, `_` in names means `-`.

    Args:
      tag: its name.
      children: elements and texts; None is left out.
      attributes: one whose value is None is left out.
    """
    made = Element(tag)
    for name, value in attributes.items():
        if value is not None:
            made.set(name.rstrip("_").replace("_", "-"), str(value))
    last: Element | None = None
    for child in children:
        if isinstance(child, str):
            if last is None:
                made.text = (made.text or "") + child
            else:
                last.tail = (last.tail or "") + child
        elif child is not None:
            made.append(child)
            last = child
    return made


def page(title: str, *body: Child) -> str:
    """Returns a page that needs no other file and no network."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", _STYLE),
    )
    html = element("html", head, element("body", *body), lang="en")
    return f"<!doctype html>\n{to_text(html)}\n"


def to_text(html: Element) -> str:
    """Returns an element as HTML."""
    return ElementTree.tostring(html, encoding="unicode", method="html")


def with_sections(
    title: str, heading: Iterable[Child], sections: Iterable[tuple[str, list[Child]]]
) -> str:
    """Returns a page of titled sections, with links to them beneath the heading."""
    links = element("nav")
    body: list[Child] = []
    for number, (name, inside) in enumerate(sections, start=1):
        links.append(element("a", name, href=f"#section-{number}"))
        body.append(element("h2", name, id=f"section-{number}"))
        body += inside
    return page(title, *heading, links, *body)


def table(columns: list[str], rows: list[list[Child]]) -> Element:
    """Returns a table with text in its first column and numbers in the others."""
    head = element("tr", *(element("th", name) for name in columns))
    body = (element("tr", *(element("td", cell) for cell in row)) for row in rows)
    inside = element("table", element("thead", head), element("tbody", *body))
    return element("div", inside, class_="scroll")


def share_bar(share: float) -> Element:
    """Returns a bar that is filled to a share, 0 to 1."""
    filled = element("i", style=f"width:{100 * share:.1f}%")
    return element("span", filled, class_="share")


def picture(image: np.ndarray, description: str) -> Element:
    """Returns an image that is embedded in the page itself.

    Args:
      image: `[H, W, 3]` uint8; a small one is kept as it is, a large one as JPEG.
      description: for those who cannot see it.
    """
    small = image.shape[0] <= 64
    encoded, kind = io.BytesIO(), "png" if small else "jpeg"
    Image.fromarray(image).save(encoded, kind, **({} if small else {"quality": 85}))
    data = base64.b64encode(encoded.getvalue()).decode("ascii")
    return element(
        "img",
        src=f"data:image/{kind};base64,{data}",
        alt=description,
        class_="small" if small else None,
    )
