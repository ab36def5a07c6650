"""What became of weights that a network was given."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Import:
    """What became of the tensors of a file, or the arrays of another run.

    Attributes:
      variables: of the network, complete.
      matched: paths of the arrays that were taken.
      new: paths of the arrays that start anew.
      left: `{name there: why it was left}`.
      notes: what else the user should know.
    """

    variables: Any
    matched: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def describe(result: Import, source: str) -> str:
    """Returns what matched, what was left and why, as a few lines."""
    lines = [f"From {source}: {len(result.matched)} arrays taken."]
    if result.new:
        lines.append(f"New: {_some(result.new)}.")
    reasons: dict[str, list[str]] = {}
    for name, why in result.left.items():
        reasons.setdefault(why, []).append(name)
    lines += [f"Left out ({why}): {_some(names)}." for why, names in reasons.items()]
    return "\n".join([*lines, *result.notes])


def _some(names: list[str]) -> str:
    more = len(names) - 4
    return ", ".join(names[:4]) + (f" and {more} more" if more > 0 else "")
