"""A document of headings, paragraphs, tables and figures, as Markdown and HTML."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


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
    """A table whose first column is text and whose others are numbers."""

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
      folder: where it is going to lie; figures are linked from there.
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


def page(blocks: Sequence[Block]) -> str:
    """Returns the document as one HTML page, with the figures in it."""
    titles = [b.text for b in blocks if isinstance(b, Heading) and b.level == 1]
    body = "\n".join(_html(block) for block in blocks)
    return _PAGE.format(title=html.escape(titles[0]), body=body)


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{html.escape(text)}</p>"
        case Command(text):
            return f"<pre>{html.escape(text)}</pre>"
        case Table(columns, rows):
            head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
            lines = (
                "".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows
            )
            body = "".join(f"<tr>{line}</tr>\n" for line in lines)
            return (
                f"<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"
            )
        case Figure(file, caption):
            drawing = file.read_text("utf-8")
            drawing = drawing[drawing.index("<svg") :]  # without the XML's own header
            caption = html.escape(caption)
            return f"<figure>{drawing}<figcaption>{caption}</figcaption></figure>"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums;
  display: block; overflow-x: auto; }}
th, td {{ padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
td {{ white-space: nowrap; }}
thead th {{ border-bottom: 2px solid #888; }}
pre {{ background: #f4f4f4; padding: .8rem; white-space: pre-wrap; }}
figure {{ margin: 1rem 0; }} figure svg {{ max-width: 100%; height: auto; }}
figcaption {{ color: #555; font-size: .9rem; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""
