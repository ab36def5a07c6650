"""Folders like those of VSO's release, and what is read of what they become."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crl_jax.data import vso
from crl_jax.data.manifest import read_manifest
from crl_jax.errors import UserError


def jpeg(seed: int) -> bytes:
    """Returns a small picture unlike that of any other seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG")
    return encoded.getvalue()


PLACEHOLDER = jpeg(10**6)


class Release:
    """A folder tree like the release's."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images = root / "images"
        self.out = root / "vso.csv"
        self._seed = 0

    @classmethod
    def of_four_anps(cls, root: Path) -> "Release":
        """Makes two adjectives with two nouns each, three pictures an ANP."""
        release = cls(root)
        for anp in ("happy_cat", "happy_dog", "sad_cat", "sad_dog"):
            release.add(anp, 3)
        return release

    def add(self, anp: str, count: int = 2, **files: bytes) -> None:
        """Adds `count` pictures to a folder; and files, named `a_b` for `a.b`."""
        folder = self.images / anp
        folder.mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            self._seed += 1
            (folder / f"{self._seed}.jpg").write_bytes(jpeg(self._seed))
        for name, content in files.items():
            (folder / name.replace("_", ".")).write_bytes(content)

    def listing(self, *lines: str) -> Path:
        path = self.root / "list.txt"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def make(self, **arguments) -> list[dict[str, str]]:
        """Returns the rows of the manifest, which the reader accepts."""
        arguments = {"min_images": 2, "min_nouns": 1} | arguments
        read_manifest(vso.make_manifest(self.images, self.out, **arguments))
        return rows(self.out)

    def refusal(self, **arguments) -> str:
        """Returns why no manifest is made."""
        with pytest.raises(UserError) as caught:
            self.make(**arguments)
        return str(caught.value)

    @property
    def dropped(self) -> dict[str, str]:
        return {r["file"]: r["reason"] for r in rows(self.root / "vso.dropped.csv")}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def anps(table: list[dict[str, str]]) -> set[str]:
    return {row["anp"] for row in table}


def printed(output: str) -> dict[str, list[str]]:
    """Returns `{first cell: other cells}` of a printed table."""
    lines = [line.split("│")[1:-1] for line in output.splitlines() if "│" in line]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}
