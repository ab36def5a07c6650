"""Two pictures of a data set: a grid of label pairs, and a page of examples."""

import contextlib
import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from crl_jax.kinds import Kinds

# All lengths are in pixels.
MARGIN = 16
LINE = 17  # height of a line of text
GAP = 12  # between the pictures of a page
COLUMNS = 6  # of a page
ZERO = (240, 240, 240)  # colour of a pair without pictures

_TEXT_SIZE = 13
_INK, _PALE = (35, 35, 35), (140, 140, 140)
# From one picture to many: viridis, whose lightness falls evenly.
_SCALE = ((253, 231, 37), (94, 201, 98), (33, 145, 140), (59, 82, 139), (68, 1, 84))

_GRID_SIDE = 1600  # the longer side of a grid
_CELL_SIDES = (9, 44)  # smallest and largest
_LONGEST_NAME = 260
_SCALE_WIDTH = 260
_MIN_WIDTH = 560  # what the words above a grid need
_MIN_TILE = 160  # smaller pictures are enlarged on a page

# Pillow's own font has no accents; most machines have one of these.
_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "DejaVuSans.ttf",
    "LiberationSans-Regular.ttf",
    "Arial Unicode.ttf",
    "arial.ttf",
)


def draw_grid(counts: np.ndarray, classes: Mapping[str, Sequence[str]]) -> Image.Image:
    """Draws how many training pictures carry each pair of labels, as a heat map.

    Args:
      counts: `[K, K]` of the first and the second task.
      classes: `{task: class names}` of both.
    """
    (row_task, rows), (column_task, columns) = classes.items()
    if len(rows) < len(columns):  # long lists are easier to read downwards
        counts = counts.T
        row_task, rows, column_task, columns = column_task, columns, row_task, rows
    side = cell_side(counts.shape)
    row_names = [_fit(name, _LONGEST_NAME) for name in rows]
    column_names = [_fit(name, _LONGEST_NAME) for name in columns]
    longest_row, longest_column = (
        math.ceil(max(map(_width, names))) for names in (row_names, column_names)
    )
    upright = longest_column <= side - 4

    left = MARGIN + longest_row + 6
    top = MARGIN + 5 * LINE + (LINE if upright else longest_column) + 6
    width = max(left + len(columns) * side + MARGIN, _MIN_WIDTH)
    picture = Image.new("RGB", (width, top + len(rows) * side + MARGIN), "white")
    draw = ImageDraw.Draw(picture)
    _write(
        draw,
        (MARGIN, MARGIN),
        f"Training pictures by {row_task} (down) and {column_task} (across): "
        f"{np.count_nonzero(counts):,} of {counts.size:,} pairs",
    )
    _draw_scale(picture, (MARGIN, MARGIN + 2 * LINE), counts.max())

    picture.paste(draw_cells(counts), (left, top))
    step = math.ceil((LINE - 1) / side)  # between names, if there is no room for all
    for k in range(0, len(rows), step):
        _write(draw, (left - 6, top + (k + 0.5) * side), row_names[k], "rm")
    for k in range(0, len(columns), step):
        x = left + (k + 0.5) * side
        if upright:
            _write(draw, (x, top - 8), column_names[k], "ms")
        else:
            name = _sideways(column_names[k])
            picture.paste(name, (round(x - name.width / 2), top - 6 - name.height))
    return picture


def cell_side(shape: tuple[int, ...]) -> int:
    """Returns the side of a grid's square cells."""
    smallest, largest = _CELL_SIDES
    return min(max(_GRID_SIDE // max(shape), smallest), largest)


def draw_cells(counts: np.ndarray) -> Image.Image:
    """Draws the cells of a grid: a colour for each count, and its number if it fits.

    Args:
      counts: `[rows, columns]`.
    """
    side = cell_side(counts.shape)
    pixels = _colours(counts, counts.max()).repeat(side, axis=0).repeat(side, axis=1)
    pixels[side - 1 :: side] = pixels[:, side - 1 :: side] = 255
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    if _width(f"{counts.max():,}") <= side - 6:
        for k, j in np.argwhere(counts):
            is_dark = pixels[k * side, j * side].mean() < 128
            place = ((j + 0.5) * side, (k + 0.5) * side)
            _write(draw, place, f"{counts[k, j]:,}", "mm", "white" if is_dark else _INK)
    return picture


def draw_page(
    images: np.ndarray,
    labels: Mapping[str, np.ndarray],
    kinds: Kinds,
    title: str,
) -> Image.Image:
    """Draws examples in rows of `COLUMNS`, the labels of each beneath it.

    Small pictures are enlarged by a whole number, so that every pixel can be seen.

    Args:
      images: `[B, H, W, 3]` uint8.
      labels: `{task: labels of B examples}`.
      kinds: of the tasks.
      title: a line above the examples.
    """
    scale = math.ceil(_MIN_TILE / images.shape[2])
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = images.shape[1:3]
    line = height + 6 + len(kinds) * LINE + GAP
    columns, rows = min(COLUMNS, len(images)), math.ceil(len(images) / COLUMNS)
    size = (
        max(2 * MARGIN + columns * (width + GAP) - GAP, _MIN_WIDTH),
        2 * MARGIN + 2 * LINE + rows * line - GAP,
    )
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    _write(draw, (MARGIN, MARGIN), _fit(title, size[0] - 2 * MARGIN))
    for i, image in enumerate(images):
        x = MARGIN + i % COLUMNS * (width + GAP)
        y = MARGIN + 2 * LINE + i // COLUMNS * line
        page.paste(Image.fromarray(image), (x, y))
        for j, (task, kind) in enumerate(kinds.items()):
            label = kind.label_text(labels[task][i])
            text, colour = (label, _INK) if label else (f"no {task}", _PALE)
            place = (x, y + height + 4 + j * LINE)
            _write(draw, place, _fit(text, width), colour=colour)
    return page


def _colours(counts: np.ndarray, most: int) -> np.ndarray:
    """Returns a colour for each count, `[..., 3]` uint8, on a logarithmic scale."""
    share = np.log(np.maximum(counts, 1)) / max(math.log(max(most, 1)), 1e-9)
    anchors = np.linspace(0, 1, len(_SCALE))
    channels = [np.interp(share, anchors, channel) for channel in np.transpose(_SCALE)]
    colours = np.where((counts > 0)[..., None], np.stack(channels, -1), ZERO)
    return colours.round().astype(np.uint8)


def _draw_scale(picture: Image.Image, place: tuple[int, int], most: int) -> None:
    """Draws what the colours of a grid stand for: no pictures, and 1 to `most`."""
    draw = ImageDraw.Draw(picture)
    x, y = place
    draw.rectangle((x, y, x + LINE, y + LINE), ZERO)
    _write(draw, (x + LINE / 2, y + LINE + 3), "0", "mt")
    if not most:
        return
    x += 2 * LINE
    shares = np.linspace(0, 1, _SCALE_WIDTH)
    bar = _colours(most ** shares[None], most).repeat(LINE + 1, axis=0)
    picture.paste(Image.fromarray(bar), (x, y))
    _write(draw, (x + _SCALE_WIDTH + 8, y + LINE / 2), "pictures, log scale", "lm")
    ticks = [10**n for n in range(len(str(most)))]
    if most > ticks[-1]:
        ticks.append(most)
    for i, tick in enumerate(ticks):
        share = math.log(tick) / math.log(most) if most > 1 else 0
        next_share = (
            math.log(ticks[i + 1]) / math.log(most) if i + 1 < len(ticks) else 2
        )
        if (next_share - share) * _SCALE_WIDTH > 40:
            _write(draw, (x + share * _SCALE_WIDTH, y + LINE + 3), f"{tick:,}", "mt")


@functools.cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    for name in _FONTS:
        with contextlib.suppress(OSError):
            return ImageFont.truetype(name, _TEXT_SIZE)
    return ImageFont.load_default(_TEXT_SIZE)


def _width(text: str) -> float:
    return _font().getlength(text)


def _fit(text: str, width: float) -> str:
    """Returns the text, or its beginning and an ellipsis if it is too wide."""
    if _width(text) <= width:
        return text
    while text and _width(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    anchor: str = "la",
    colour: str | tuple[int, int, int] = _INK,
) -> None:
    draw.text(place, text, colour, _font(), anchor)


def _sideways(text: str) -> Image.Image:
    """Returns a picture of the text, to be read upwards."""
    picture = Image.new("RGB", (math.ceil(_width(text)), LINE), "white")
    _write(ImageDraw.Draw(picture), (0, LINE / 2), text, "lm")
    return picture.transpose(Image.Transpose.ROTATE_90)
