"""JSON files, whole or not there at all, and a message for one that is damaged."""

import json
from pathlib import Path
from typing import Any

from crl_jax.errors import UserError
from crl_jax.whole_file import replacing


def write(path: Path, content: object, indent: int | None = 2) -> None:
    """Writes a file, see `replacing`."""
    # Names of files need not be UTF-8.
    with replacing(path, "surrogateescape") as file:
        json.dump(content, file, indent=indent, ensure_ascii=False)
        file.write("\n")


def read(path: Path) -> dict[str, Any]:
    """Returns the names and values that a file holds.

    Raises:
      UserError: it cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text("utf-8", "surrogateescape"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}). Restore it from a copy, or train in "
            "another --workdir."
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path} is damaged: it is not a JSON object. Restore it from a copy, or "
            "train in another --workdir."
        )
    return content
