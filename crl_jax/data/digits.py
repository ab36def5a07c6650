"""The data set that comes with the package: real digits, each with one adjective.

Each of scikit-learn's 1,797 handwritten digits is pictured once. The noun is the
digit; the adjective is how it looks: its ink, its paper or its stroke. As in the
Visual Sentiment Ontology, only part of the adjective-noun grid exists.

`Digits(data_dir=...).download_and_prepare()` writes the shards, without going online.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import ndimage

from crl_jax.data.builder import LocalBuilder
from crl_jax.data.quiet import tfds
from crl_jax.errors import UserError

_SIDE = 32  # rows and columns of a picture
_GLYPH_SIDE = 24  # of a digit in it, before its adjective
_MAX_SHIFT = 3  # less than the margin of 4
_SEED = 0


@dataclass(frozen=True, eq=False)
class Look:
    """A picture before the ink is laid on the paper; all values on a 0-1 scale.

    Attributes:
      stroke: `[H, W]`, the share of each pixel that ink covers.
      ink: `[3]`, red, green and blue of the ink.
      paper: `[3]` or `[H, W, 3]`, red, green and blue of the paper.
    """

    stroke: np.ndarray
    ink: np.ndarray
    paper: np.ndarray


Adjective = Callable[[Look, np.random.Generator], Look]


def _ink(red: float, green: float, blue: float) -> Adjective:
    """Returns an adjective that multiplies the colour of the ink."""
    return lambda look, _: replace(look, ink=look.ink * (red, green, blue))


def _bright(look: Look, _: np.random.Generator) -> Look:
    """Draws with dark ink on light paper."""
    return replace(look, ink=look.paper, paper=look.ink)


def _striped(look: Look, rng: np.random.Generator) -> Look:
    """Stripes the paper diagonally, four pixels dark and four light along a row."""
    diagonal = np.indices(look.stroke.shape).sum(axis=0)
    stripes = (diagonal + rng.integers(8)) // 4 % 2
    return replace(look, paper=look.paper + 0.18 * stripes[..., None])


def _framed(look: Look, _: np.random.Generator) -> Look:
    """Frames the paper with ink, one pixel wide."""
    stroke = np.ones_like(look.stroke)
    stroke[1:-1, 1:-1] = look.stroke[1:-1, 1:-1]
    return replace(look, stroke=stroke)


def _bold(look: Look, _: np.random.Generator) -> Look:
    """Widens the stroke by a pixel on each side."""
    return replace(look, stroke=ndimage.grey_dilation(look.stroke, size=(3, 3)))


def _outlined(look: Look, _: np.random.Generator) -> Look:
    """Leaves ink only along the edge of the stroke, on its outer side."""
    wider = ndimage.grey_dilation(look.stroke, size=(3, 3))
    return replace(look, stroke=wider - look.stroke)


def _slanted(look: Look, _: np.random.Generator) -> Look:
    """Leans the digit to the right, by one column every two rows."""
    return replace(look, stroke=_resample(look.stroke, [[1, 0], [0.5, 1]]))


def _small(look: Look, _: np.random.Generator) -> Look:
    """Shrinks the digit to five eighths of its height and width."""
    return replace(look, stroke=_resample(look.stroke, [[1.6, 0], [0, 1.6]]))


def _blurry(look: Look, _: np.random.Generator) -> Look:
    """Takes the stroke out of focus."""
    return replace(look, stroke=ndimage.gaussian_filter(look.stroke, sigma=1.6))


def _speckled(look: Look, rng: np.random.Generator) -> Look:
    """Swaps ink and paper in one pixel out of sixteen."""
    swapped = rng.random(look.stroke.shape) < 1 / 16
    return replace(look, stroke=np.where(swapped, 1 - look.stroke, look.stroke))


def _resample(stroke: np.ndarray, matrix: list[list[float]]) -> np.ndarray:
    """Returns `stroke`, each pixel taken from `matrix` times its place.

    Places are (row, column), counted from the centre.
    """
    centre = (np.array(stroke.shape) - 1) / 2
    offset = centre - np.array(matrix) @ centre
    return ndimage.affine_transform(stroke, np.array(matrix), offset, order=1)


ADJECTIVES: dict[str, Adjective] = {
    "red": _ink(1.0, 0.45, 0.45),
    "green": _ink(0.45, 1.0, 0.45),
    "blue": _ink(0.4, 0.55, 1.0),  # pure blue is too dark to read
    "bright": _bright,
    "striped": _striped,
    "framed": _framed,
    "bold": _bold,
    "outlined": _outlined,
    "slanted": _slanted,
    "small": _small,
    "blurry": _blurry,
    "speckled": _speckled,
}
NOUNS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
)  # fmt: skip


def adjectives_of(digit: int) -> list[str]:
    """Returns the four adjectives that occur with a digit, 0 to 9.

    Digit n goes with adjectives n, n + 2, n + 5 and n + 9, counted cyclically. This
    way two digits share at most two adjectives, and an adjective has three or four
    digits.
    """
    names = list(ADJECTIVES)
    return [names[(digit + step) % len(names)] for step in (0, 2, 5, 9)]


ANPS = tuple(
    f"{adjective}_{noun}"
    for adjective in ADJECTIVES
    for digit, noun in enumerate(NOUNS)
    if adjective in adjectives_of(digit)
)
# Of 20 pictures of a pair, 12 are for training, 3 for validation and 5 for testing.
_SPLITS = (
    *(3 * ("train", "train", "test", "train", "val")),
    *("train", "train", "test", "train", "test"),
)


def draw(glyph: np.ndarray, adjective: str, rng: np.random.Generator) -> np.ndarray:
    """Returns the picture of a digit, drawn as an adjective says.

    Place, brightness and tint vary and there is some noise, whatever the adjective.

    Args:
      glyph: `[8, 8]`, 0 (paper) to 16 (ink), as scikit-learn has it.
      adjective: one of `ADJECTIVES`.
      rng: source of all that varies.

    Returns:
      uint8 `[32, 32, 3]`, the channels red, green, blue.

    Raises:
      KeyError: `adjective` is not one of `ADJECTIVES`.
    """
    enlarged = ndimage.zoom(
        glyph / 16, _GLYPH_SIDE / len(glyph), mode="grid-constant", grid_mode=True
    )
    crisp = np.clip((enlarged - 0.35) / 0.4, 0, 1)
    stroke = np.pad(crisp, (_SIDE - _GLYPH_SIDE) // 2)
    shift = rng.integers(-_MAX_SHIFT, _MAX_SHIFT, 2, endpoint=True)
    look = Look(
        stroke=np.roll(stroke, shift, axis=(0, 1)),
        ink=rng.uniform(0.7, 0.95) + rng.uniform(-0.1, 0.1, 3),
        paper=rng.uniform(0.12, 0.3) + rng.uniform(-0.1, 0.1, 3),
    )
    look = ADJECTIVES[adjective](look, rng)
    share = look.stroke[..., None]
    picture = share * look.ink + (1 - share) * look.paper
    picture += rng.normal(0, 0.05, picture.shape)
    return np.round(255 * np.clip(picture, 0, 1)).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class Example:
    """A picture, uint8 `[32, 32, 3]`, with its split and labels."""

    file: str
    split: str
    image: np.ndarray
    noun: str
    adjective: str
    anp: str


def examples() -> list[Example]:
    """Returns all 1,797 pictures in scikit-learn's order, always the same.

    The pictures of a digit take its adjectives in turn, and the pictures of a pair take
    the splits in turn, so that every pair is in every split.

    Raises:
      UserError: scikit-learn, which holds the digits, is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(
            "the digits data set needs scikit-learn, which holds the handwritten "
            "digits: pip install scikit-learn"
        ) from error
    source = load_digits()
    seen = dict.fromkeys(NOUNS, 0)
    result = []
    for index, (glyph, digit) in enumerate(
        zip(source.images, source.target, strict=True)
    ):
        noun = NOUNS[digit]
        adjectives = adjectives_of(digit)
        nth_of_pair, which = divmod(seen[noun], len(adjectives))
        seen[noun] += 1
        adjective = adjectives[which]
        result.append(
            Example(
                file=f"digit-{index:04d}.png",
                split=_SPLITS[nth_of_pair % len(_SPLITS)],
                image=draw(glyph, adjective, np.random.default_rng([_SEED, index])),
                noun=noun,
                adjective=adjective,
                anp=f"{adjective}_{noun}",
            )
        )
    return result


class Digits(LocalBuilder, skip_registration=True):  # type: ignore[call-arg]
    """TFDS builder of `examples`; raises `UserError` without scikit-learn."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="scikit-learn's handwritten digits, each under one adjective.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(_SIDE, _SIDE, 3), encoding_format="png"
                    ),
                    "file": tfds.features.Text(),
                    "noun": tfds.features.ClassLabel(names=NOUNS),
                    "adjective": tfds.features.ClassLabel(names=ADJECTIVES),
                    "anp": tfds.features.ClassLabel(names=ANPS),
                }
            ),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        everything = examples()
        return {
            split: self._generate_examples(
                [example for example in everything if example.split == split]
            )
            for split in ("train", "val", "test")
        }

    def _generate_examples(
        self, of_split: list[Example]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for example in of_split:
            yield example.file, {n: getattr(example, n) for n in self.info.features}
