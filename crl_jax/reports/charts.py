"""Charts as SVG elements; their colours are those of the page that they are on."""

import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from crl_jax.reports.page import Element, element

# All lengths are in units of the drawing, about a pixel each.
_WIDTH, _HEIGHT = 340, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 8, 26
_TICKS = 5
_CELLS = (4, 26)  # smallest and largest side of a heat map's cell
_MAX_SIDE = 520  # of a heat map, if the smallest cells allow it
# Widths of letters of 11 px: wide ones may fill their square, the others are at most as
# wide as in DejaVu, one of the widest fonts that a page is commonly shown in.
_WIDE, _NARROW = 11, 7
_ALSO_WIDE = "mw…@%&æœжмфшщыю"  # beside capitals and East Asian letters
_LONGEST = 24  # letters of a name
DOTS = 3000  # at most, in a figure


@dataclass(frozen=True)
class Curve:
    """Points to be joined by a line.

    Attributes:
      name: in the key.
      x, y: of the points.
      style: "accent" or "second".
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "accent"


def line_chart(
    title: str, curves: Sequence[Curve], percent: bool = False, x_name: str = "step"
) -> Element:
    """Returns a figure with curves over steps; y begins at 0 if it is a share.

    A curve of a single point is a dot.

    Args:
      title: above it.
      curves: points that are NaN or infinite are left out.
      percent: whether y is a share, 0 to 1.
      x_name: what x is.
    """
    points = [_finite(curve) for curve in curves]
    x = np.concatenate([p[:, 0] for p in points])
    y = np.concatenate([p[:, 1] for p in points])
    if not x.size:
        return element("figure", element("figcaption", title), "No numbers.")
    x_ticks = ticks(0, float(x.max()) or 1)
    y_ticks = (
        ticks(0, 1) if percent else ticks(min(0.0, float(y.min())), float(y.max()))
    )
    frame = _Frame((0, float(x.max()) or 1), (y_ticks[0], y_ticks[-1]))
    drawing = frame.axes(x_ticks, y_ticks, percent, x_name, f"{title}, over {x_name}")
    for curve, of_curve in zip(curves, points, strict=True):
        drawing.append(_line_or_dot(frame, of_curve, curve.style))
    key = element("div", class_="key")
    for curve in curves:
        colour = f"background:var(--{curve.style})"
        key.append(element("span", element("i", style=colour), f"{curve.name}  "))
    return element("figure", element("figcaption", title), drawing, key)


def scatter_chart(title: str, labels: np.ndarray, predicted: np.ndarray) -> Element:
    """Returns a figure with one dot per example, and the diagonal.

    Args:
      title: above it.
      labels: `[N]`, across.
      predicted: `[N]`, upwards; those that are NaN or infinite are left out, as are
        some of the rest if there are very many.
    """
    labels, predicted = labels.astype(float), predicted.astype(float)
    known = np.flatnonzero(np.isfinite(predicted))
    known = known[:: -(-len(known) // DOTS) or 1]
    x, y = labels[known], predicted[known]
    both = np.concatenate([x, y, labels])
    marks = ticks(float(both.min()), float(both.max()))
    low, high = marks[0], marks[-1]
    frame = _Frame((low, high), (low, high))
    drawing = frame.axes(marks, marks, False, "label", title)
    for a, b in zip(x, y, strict=True):
        place = {"cx": f"{frame.x(a):.1f}", "cy": f"{frame.y(b):.1f}"}
        drawing.append(element("circle", r=2, class_="dot", **place))
    corners = f"{frame.x(low)},{frame.y(low)} {frame.x(high)},{frame.y(high)}"
    drawing.append(element("polyline", points=corners, class_="curve second"))
    return element("figure", element("figcaption", title), drawing)


def reliability_diagram(
    title: str,
    note: str,
    confidence: np.ndarray,
    accuracy: np.ndarray,
    counts: np.ndarray,
) -> Element:
    """Returns a figure with one bar per bin, as high as its accuracy, and the diagonal.

    Args:
      title: above it.
      note: beneath it.
      confidence: mean of each bin, `[N]`; NaN where it is empty.
      accuracy: of each bin, `[N]`.
      counts: of examples, `[N]`.
    """
    frame = _Frame((0, 1), (0, 1))
    share = ticks(0, 1)
    drawing = frame.axes(
        share, share, True, "confidence in percent", title, x_percent=True
    )
    width = 1 / len(counts)
    for k in np.flatnonzero(counts):
        text = (
            f"{counts[k]:,} examples: confidence {100 * confidence[k]:.1f}%, "
            f"accuracy {100 * accuracy[k]:.1f}%"
        )
        drawing.append(
            element(
                "rect",
                element("title", text),
                x=f"{frame.x(k * width) + 1:.1f}",
                y=f"{frame.y(accuracy[k]):.1f}",
                width=f"{frame.x(width) - frame.x(0) - 2:.1f}",
                height=f"{frame.y(0) - frame.y(accuracy[k]):.1f}",
                class_="bar",
                fill_opacity=f"{0.3 + 0.7 * counts[k] / counts.max():.2f}",
            )
        )
    diagonal = f"{frame.x(0)},{frame.y(0)} {frame.x(1)},{frame.y(1)}"
    drawing.append(element("polyline", points=diagonal, class_="curve second"))
    key = element("div", note, class_="key")
    return element("figure", element("figcaption", title), drawing, key)


def heat_map(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    say: Callable[[int, int], str],
    description: str,
) -> Element:
    """Returns cells whose colour is fuller the closer they are to 1; NaN is left empty.

    Args:
      values: `[rows, columns]`, 0 to 1.
      rows: names.
      columns: names.
      say: returns what a cell says, after its names, when it is pointed at.
      description: for those who cannot see it.
    """
    side = float(np.clip(_MAX_SIDE / max(values.shape), *_CELLS))
    row_names, column_names = ([_short(n) for n in names] for names in (rows, columns))
    left, top = (max(map(_length, of)) + 8 for of in (row_names, column_names))
    width, height = left + side * len(columns) + 2, top + side * len(rows) + 2
    drawing = _svg(width, height, description)
    step = math.ceil(11 / side)  # of names, if there is no room for all
    for i in range(0, len(rows), step):
        y = top + (i + 0.5) * side + 4
        drawing.append(
            element("text", row_names[i], x=left - 5, y=f"{y:.1f}", text_anchor="end")
        )
    for j in range(0, len(columns), step):
        x = left + (j + 0.5) * side + 4
        turned = f"rotate(-90 {x:.1f} {top - 5:.1f})"
        drawing.append(
            element(
                "text",
                column_names[j],
                x=f"{x:.1f}",
                y=f"{top - 5:.1f}",
                transform=turned,
            )
        )
    drawing.append(
        element(
            "rect",
            x=f"{left:.1f}",
            y=f"{top:.1f}",
            width=f"{side * len(columns):.1f}",
            height=f"{side * len(rows):.1f}",
            class_="empty",
        )
    )
    for i, j in np.argwhere(~np.isnan(values)):
        drawing.append(
            element(
                "rect",
                element("title", f"{rows[i]}, {columns[j]}: {say(i, j)}"),
                x=f"{left + j * side:.1f}",
                y=f"{top + i * side:.1f}",
                width=f"{side - 0.8:.1f}",
                height=f"{side - 0.8:.1f}",
                class_="bar",
                fill_opacity=f"{0.06 + 0.94 * float(values[i, j]):.2f}",
            )
        )
    return element("div", drawing, class_="scroll")


def ticks(low: float, high: float) -> list[float]:
    """Returns about five round numbers that enclose `low` to `high`."""
    if not high > low:
        high = low + max(1.0, abs(low))  # 1e17 + 1 is the same number
    step = 10 ** math.floor(math.log10((high - low) / _TICKS))
    step = next(s for s in (step, 2 * step, 5 * step, 10 * step) if high - low <= 5 * s)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * n for n in range(first, last + 1)]


def tick_labels(values: Sequence[float]) -> list[str]:
    """Returns ticks as text, with as many digits as tell them apart."""
    step, largest = values[1] - values[0], max(abs(values[0]), abs(values[-1]))
    if step < 1e-4 or largest >= 1e7:
        digits = math.ceil(math.log10(largest / step)) + 1
        return [f"{value:.{digits}g}" for value in values]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{value:,.{decimals}f}" for value in values]


class _Frame:
    """The axes of a chart, and where a value lies between them."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self._x, self._y = x, y

    def x(self, value: float) -> float:
        low, high = self._x
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self._y
        share = (value - low) / (high - low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def axes(
        self,
        x_ticks: Sequence[float],
        y_ticks: Sequence[float],
        percent: bool,
        x_name: str,
        description: str,
        x_percent: bool = False,
    ) -> Element:
        drawing = _svg(_WIDTH, _HEIGHT, description)
        right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        texts = [f"{100 * tick:.0f}%" for tick in y_ticks]
        for tick, text in zip(
            y_ticks, texts if percent else tick_labels(y_ticks), strict=True
        ):
            y = f"{self.y(tick):.1f}"
            drawing.append(element("path", d=f"M{_LEFT} {y}H{right}", class_="axis"))
            drawing.append(
                element("text", text, x=_LEFT - 6, y=y, dy="4", text_anchor="end")
            )
        texts = [f"{100 * tick:.0f}" for tick in x_ticks]
        for tick, text in zip(
            x_ticks, texts if x_percent else tick_labels(x_ticks), strict=True
        ):
            if tick <= self._x[1]:
                x = f"{self.x(tick):.1f}"
                drawing.append(
                    element("text", text, x=x, y=bottom + 13, text_anchor="middle")
                )
        drawing.append(
            element("text", x_name, x=right, y=_HEIGHT - 2, text_anchor="end")
        )
        return drawing


def _line_or_dot(frame: _Frame, points: np.ndarray, style: str) -> Element:
    places = [(f"{frame.x(a):.1f}", f"{frame.y(b):.1f}") for a, b in points]
    if len(places) == 1:
        [(x, y)] = places
        return element("circle", cx=x, cy=y, r=3, style=f"fill:var(--{style})")
    line = " ".join(map(",".join, places))
    return element("polyline", points=line, class_=f"curve {style}")


def _svg(width: float, height: float, description: str) -> Element:
    return element(
        "svg",
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        width=f"{width:.0f}",
        height=f"{height:.0f}",
        role="img",
        aria_label=description,
    )


def _finite(curve: Curve) -> np.ndarray:
    points = np.array([curve.x, curve.y], np.float64).T.reshape(-1, 2)
    return points[np.isfinite(points).all(axis=1)]


def _short(name: str) -> str:
    """Returns a name, a long one without its middle: many differ at the end only."""
    if len(name) <= _LONGEST:
        return name
    half = _LONGEST // 2
    return f"{name[: half - 1]}…{name[-half:]}"


def _length(text: str) -> int:
    """Returns about how long a text is, rather too long than too short."""
    return sum(_WIDE if _is_wide(letter) else _NARROW for letter in text)


def _is_wide(letter: str) -> bool:
    wide = unicodedata.east_asian_width(letter) in "WF"
    return wide or letter.isupper() or letter in _ALSO_WIDE
