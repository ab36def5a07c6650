"""How adjective-noun pairs (ANPs) are spelled, and the files that list them."""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from crl_jax.data.pictures import SUFFIXES
from crl_jax.errors import UserError

_WORD = re.compile(r"[^\W_][\w'’&+-]*")
_PICTURE = re.compile(rf"/[^/]*({'|'.join(map(re.escape, SUFFIXES))})$", re.IGNORECASE)
_LABELS = re.compile(r"(\s+[-+]?[\d.]+)+$")
_SENTIMENT = re.compile(
    r"(?P<number>\d+\.\s+)?(?P<name>\S+)\s+\[sentiment:\s*(?P<value>[-+]?\d+\.?\d*)\]"
)
_MAX_SENTIMENT = 2.0


class Anp(NamedTuple):
    """An adjective-noun pair in lower case; a word may itself contain `_` and `-`."""

    adjective: str
    noun: str

    @property
    def name(self) -> str:
        """The pair as one word."""
        return f"{self.adjective}_{self.noun}"


def fold(text: str) -> str:
    """Returns what all spellings of a name have in common.

    Capitals, the encoding of an accent, and the choice between `_`, `-` and blanks make
    no difference.
    """
    return re.sub(r"[\s_-]+", "_", _small(text))


def _small(text: str) -> str:
    return unicodedata.normalize("NFC", text.casefold()).strip()


def parse_anp(text: str) -> Anp | None:
    """Returns the pair that `text` spells; None if it spells none.

    The adjective ends at the first blank, or at the first `_` if there is no blank:
    `ill_looking man` and `beautiful_night_sky` are (ill_looking, man) and (beautiful,
    night_sky).
    """
    words = _small(text).split()
    if len(words) > 1:
        adjective, noun = words[0], "_".join(words[1:])
    else:
        adjective, _, noun = _small(text).partition("_")
    both = _WORD.fullmatch(adjective) and _WORD.fullmatch(noun)
    return Anp(adjective, noun) if both else None


def spelled(names: Iterable[str], known: Mapping[str, Anp]) -> dict[str, Anp]:
    """Returns `{folded name: ANP}` of the names that spell one, and of `known`.

    If an ANP has several spellings, the one in `known` counts, otherwise the first in
    sorted order.
    """
    ordered = sorted(names, reverse=True)
    return {fold(n): anp for n in ordered if (anp := parse_anp(n))} | dict(known)


def read_anps(path: str | os.PathLike[str]) -> dict[str, Anp]:
    """Reads the file of --anps, one ANP per line.

    A line may also be the path of an ANP's folder or of a picture in it, with slashes
    or backslashes, and numbers may follow. Blank lines are skipped, and so are comments
    (`# ...`).

    Returns:
      `{folded name: ANP}` in the order of the lines.

    Raises:
      UserError: the file cannot be read or lists nothing, or a line is no ANP.
    """
    anps: dict[str, Anp] = {}
    for number, line in _lines("--anps", path):
        place = _LABELS.sub("", line).replace("\\", "/")
        folder = _PICTURE.sub("", place).rstrip("/")
        anp = parse_anp(folder.rpartition("/")[2])
        if anp is None:
            raise UserError(
                f"--anps={path}, line {number}: {line!r} is not an adjective-noun "
                "pair. Write one per line, such as beautiful_flower."
            )
        anps.setdefault(fold(anp.name), anp)
    if not anps:
        raise UserError(
            f"--anps={path} lists nothing. Write one ANP per line, such as "
            "beautiful_flower."
        )
    return anps


def read_nouns(path: str | os.PathLike[str]) -> dict[str, str]:
    """Reads the file of --nouns_to_exclude, one noun per line.

    Returns:
      `{folded noun: the noun as written}`.

    Raises:
      UserError: the file cannot be read, or a line is no noun.
    """
    nouns = {}
    for number, line in _lines("--nouns_to_exclude", path):
        if not all(map(_WORD.fullmatch, line.split())):
            raise UserError(
                f"--nouns_to_exclude={path}, line {number}: {line!r} is not a noun. "
                "Write one noun per line, such as flower."
            )
        nouns[fold(line)] = line
    return nouns


def read_sentiments(path: str | os.PathLike[str]) -> dict[Anp, float]:
    """Reads `3244ANPs.txt`: each adjective with its ANPs below it.

    Returns:
      `{ANP: sentiment}`, -2 (negative) to 2 (positive).

    Raises:
      UserError: the file cannot be read, or is not in that format.
    """
    sentiments: dict[Anp, float] = {}
    adjective = ""
    for number, line in _lines("--sentiment", path):
        match = _SENTIMENT.match(line)
        if match is None and not adjective:
            continue  # the prose at the beginning
        name = _small(match["name"]) if match else ""
        if match and match["number"]:
            adjective = name
        elif match and adjective and name.startswith(f"{adjective}_"):
            anp = Anp(adjective, name.removeprefix(f"{adjective}_"))
            sentiments[anp] = float(match["value"])
        else:
            raise _not_sentiment(f"{path}, line {number}: {line[:60]!r}")
        if abs(float(match["value"])) > _MAX_SENTIMENT:
            raise UserError(
                f"--sentiment={path}, line {number}: {match['value']} is not between "
                f"-{_MAX_SENTIMENT:g} and {_MAX_SENTIMENT:g}. Mend the line."
            )
    if not sentiments:
        raise _not_sentiment(str(path))
    return sentiments


def _not_sentiment(where: str) -> UserError:
    return UserError(
        f"--sentiment={where} is not in the format of 3244ANPs.txt: a line such as "
        "'1. beautiful [sentiment: 1.00] ...', and below it its ANPs, such as "
        "'beautiful_flower [sentiment: 1.77] ...'. Give the published file."
    )


def _lines(flag: str, path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """Yields the number and text of each line that holds more than a comment."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(
            f"{flag}={path}: {error.strerror}. Give a text file."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{flag}={path}: not UTF-8 text. Save it as UTF-8.") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line := re.sub(r"(^|\s)#.*", "", line).strip():
            yield number, line
