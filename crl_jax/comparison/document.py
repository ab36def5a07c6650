"""A document of headings, paragraphs, tables and figures, as Markdown and HTML."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crl_jax.reports import page


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Plain text."""

    text: str


@dataclass(frozen=True)
class Command:
    """A command as it is typed."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table with text in its first column and numbers in the others."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A drawing.

    Attributes:
      file: an SVG file.
      caption: what it shows.
    """

    file: Path
    caption: str


Block = Heading | Paragraph | Command | Table | Figure


def markdown(blocks: Sequence[Block], folder: Path) -> str:
    """Returns the document as Markdown.

    Args:
      blocks: its parts, in order.
      folder: where it will be written; links to figures are relative to it.
    """
    return "\n\n".join(_markdown(block, folder) for block in blocks) + "\n"


def _markdown(block: Block, folder: Path) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Paragraph(text):
            return text
        case Command(text):
            return f"```bash\n{text}\n```"
        case Table(columns, rows):
            rule = ["---", *("---:" for _ in columns[1:])]
            lines = [columns, rule, *rows]
            cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
            return "\n".join(f"| {' | '.join(line)} |" for line in cells)
        case Figure(file, caption):
            return f"![{caption}]({file.relative_to(folder).as_posix()})\n\n{caption}"


def as_page(blocks: Sequence[Block]) -> str:
    """Returns the document as one HTML page, with the figures in it."""
    titles = [b.text for b in blocks if isinstance(b, Heading) and b.level == 1]
    return page.page(titles[0], *(_html(block) for block in blocks))


def _html(block: Block) -> page.Element:
    match block:
        case Heading(text, level):
            return page.element(f"h{level}", text)
        case Paragraph(text):
            return page.element("p", text)
        case Command(text):
            return page.element("div", page.element("pre", text), class_="scroll")
        case Table(columns, rows):
            return page.table(
                list(columns), [list(map(_unbroken, row)) for row in rows]
            )
        case Figure(file, caption):
            data = base64.b64encode(file.read_bytes()).decode("ascii")
            source = f"data:image/svg+xml;base64,{data}"
            image = page.element("img", src=source, alt=caption, style="max-width:100%")
            return page.element("figure", image, page.element("p", caption))


def _unbroken(cell: str) -> str:
    """Returns a cell without line breaks in a mean ± deviation or in an interval."""
    return re.sub(r" (?=±)|(?<=±) |(?<=,) (?=[^,]*\])", "\N{NO-BREAK SPACE}", cell)
