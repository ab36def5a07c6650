"""Which columns of a CSV are kept: `file`, `split` and the tasks."""

import difflib
import shlex
from collections.abc import Collection, Mapping, Sequence

from crl_jax import config_tasks
from crl_jax.errors import UserError

NO_TASKS = ("file", "split")  # columns of every list

FIRST_ROW = "The first row must be file,split,<task>,<task>,..."


def kept_columns(
    where: str,
    names: Mapping[int, str],
    ignore: Sequence[str],
    trained: Collection[str] | None,
) -> dict[str, int]:
    """Returns the position of each column that counts, in the order of the columns.

    Args:
      where: the header stands, for messages.
      names: of the columns, by their positions from 0.
      ignore: names of columns that are no tasks.
      trained: the only names that tasks can have, in place of `ignore`; None: any.

    Raises:
      UserError: a column is missing, is there twice, or cannot be a task.
    """
    for name in NO_TASKS:
        if name not in names.values():
            only = ", ".join(map(repr, names.values()))
            hint = _nearest(name, names.values())
            raise UserError(
                f"{where}: no column {name!r}{hint}, only {only}. {FIRST_ROW}"
            )
    if trained is None:
        _check_ignored(where, names, ignore)
    kept: dict[str, int] = {}
    for i, name in names.items():
        counts = name not in ignore if trained is None else name in trained
        if not counts and name not in NO_TASKS:
            continue
        if name in kept:
            raise UserError(f"{where}: two columns are named {name!r}. Rename one.")
        if name not in NO_TASKS:
            _check_task(f"{where}, column {i + 1}", name, ignore)
        kept[name] = i
    if trained is None and len(kept) == len(NO_TASKS):
        raise UserError(f"{where}: there is no task. Add a column of class names.")
    return kept


def ignore_flag(ignore: Sequence[str], name: str) -> str:
    """Returns what to add to a command so that one more column is ignored."""
    return f"--config.data.ignore={shlex.quote(','.join([*ignore, name]))}"


def _check_ignored(where: str, names: Mapping[int, str], ignore: Sequence[str]) -> None:
    for name in ignore:
        if name in NO_TASKS:
            raise UserError(
                f"config.data.ignore names {name!r}, which every list needs: take it "
                "out."
            )
        if name not in names.values():
            raise UserError(
                f"{where}: no column {name!r}, which config.data.ignore names"
                f"{_nearest(name, names.values())}. Take it out, or mend it."
            )


def _check_task(where: str, name: str, ignore: Sequence[str]) -> None:
    if not name:
        raise UserError(
            f"{where} has no name. Delete it (pandas writes no index with "
            "index=False), or give it one."
        )
    rename_only = "," in name  # which separates names
    mend = f"If it is no task, set {ignore_flag(ignore, name)}."
    config_tasks.check_name(name, where, "" if rename_only else mend)


def _nearest(name: str, names: Collection[str]) -> str:
    """Returns a hint with the name of a column that looks most like another."""
    lower = {other.lower(): other for other in names}
    close = difflib.get_close_matches(name.lower(), lower, 1)
    return f" (did you mean {lower[close[0]]!r}?)" if close else ""
