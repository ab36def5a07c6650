r"""Write the manifest of the Visual Sentiment Ontology (VSO) from its pictures.

  python -m crl_jax.data.vso --images=Images_with_CC/bi_concepts1553 \
      --out=vso.csv

An adjective-noun pair (ANP) is a folder <adjective>_<noun>; a further _ belongs to the
noun, unless --anps (written `ill-looking_man`) or --sentiment says where the adjective
ends. Neither capitals nor the choice between _, - and a blank changes which ANP is
meant.

--images may also be what img2dataset made of a URL list (docs/vso.md): the caption is
then the ANP, and the URLs that failed are dropped as well.

The paper's rules choose the ANPs: enough images per ANP, then enough nouns per
adjective, until nothing changes. --anps=FILE names the ANPs instead; then a rule
applies only if its flag is given. (The published 553 ANPs have adjectives with one
noun.)

vso.dropped.csv lists what is dropped, and why. Of files with the same content one
stays, drawn by a hash of its name, even if they lie under two ANPs. Content under three
ANPs or more, such as Flickr's placeholder, shows none of them and is dropped. Only
headers are read: pictures that are broken further on are found, and left out, when
shards are written.

A hash of <anp>/<file name> puts one picture in five into test and the others into
train, on every machine and whatever other pictures there are. For a downloaded picture
it is a hash of <anp>/<url>, whatever number img2dataset gives it, so a picture keeps
its split when the list grows. Only if an ANP has no picture in train or none in test
(a few pictures may all fall into one) is one of its pictures moved.

--sentiment=3244ANPs.txt also writes vso.sentiment.csv (anp,sentiment). With
--sentiment_column the manifest has the sentiment, too, as a task to be trained with
--config.tasks.sentiment.kind=regression.
"""

import collections
import csv
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from crl_jax import cli
from crl_jax.data import vso_names, vso_pictures, vso_rules, vso_urls
from crl_jax.data.table import first_few
from crl_jax.data.vso_names import Anp, fold
from crl_jax.data.vso_pictures import Dropped
from crl_jax.errors import UserError
from crl_jax.terminal import console, print_table
from crl_jax.whole_file import replacing


def make_manifest(
    images: Path,
    out: Path | None = None,
    *,
    anps: Path | None = None,
    min_images: int | None = None,
    min_nouns: int | None = None,
    nouns_to_exclude: Path | None = None,
    sentiment: Path | None = None,
    sentiment_column: bool = False,
) -> Path:
    """Writes the manifest and the files beside it, and prints what was kept.

    Args:
      images: folder that holds a folder for each ANP, or that img2dataset wrote.
      out: the manifest; None: beside `images`, with its name and `.csv`.
      anps: file that lists the ANPs to keep; None: the rules choose them.
      min_images: of an ANP; None: the paper's 500, or 1 with `anps`.
      min_nouns: of an adjective; None: the paper's 3, or 1 with `anps`.
      nouns_to_exclude: file of nouns.
      sentiment: `3244ANPs.txt`.
      sentiment_column: whether the manifest has a column for the sentiment.

    Returns:
      The path of the manifest.

    Raises:
      UserError: a mistake in an argument or a file, a folder that cannot be read or
        written, or too little left.
    """
    if min_images is None:
        min_images = 1 if anps else vso_rules.MIN_IMAGES
    if min_nouns is None:
        min_nouns = 1 if anps else vso_rules.MIN_NOUNS
    for flag, value in (("min_images", min_images), ("min_nouns", min_nouns)):
        if value < 1:
            raise UserError(f"--{flag}={value}: give a whole number above 0.")
    if sentiment_column and not sentiment:
        raise UserError("--sentiment_column needs --sentiment=3244ANPs.txt.")
    listed = vso_names.read_anps(anps) if anps else {}
    excluded = vso_names.read_nouns(nouns_to_exclude) if nouns_to_exclude else {}
    sentiments = vso_names.read_sentiments(sentiment) if sentiment else {}
    # What the sentiments say about where an adjective ends is certain.
    known = listed | {fold(anp.name): anp for anp in sentiments}
    out = out or _beside(images)
    prefix = _prefix(images, out)
    aside = {kind: out.with_suffix(f".{kind}.csv") for kind in ("dropped", "sentiment")}

    try:
        folders, listed_files, left_out = _find(images, prefix, known)
        # An earlier run's output is one of the entries if it lies among the folders.
        own = {path.name for path in (out, *aside.values())}
        dropped = [each for each in left_out if each.path not in own]
        _check_folders(folders, listed, excluded, images)
        chosen, left_out = vso_rules.choose_folders(
            folders, listed.keys(), excluded.keys()
        )
        dropped += left_out
        found, left_out = vso_pictures.read_folders(out.parent, chosen, listed_files)
        dropped += sorted(left_out, key=lambda file: file.reason)
        copies = vso_pictures.copies(out.parent, found)
        kept, left_out = vso_rules.choose_pictures(
            found, copies, chosen, min_images, min_nouns
        )
        dropped += left_out
        splits = {anp: vso_rules.splits(pictures) for anp, pictures in kept.items()}
        _print(set(folders.values()), dropped, splits)
        _write(aside["dropped"], ("file", "reason"), map(_reason, dropped))
        _check_enough(kept, images)
        rated = {anp: f"{sentiments[anp]:g}" for anp in kept if anp in sentiments}
        extra = ("sentiment",) if sentiment_column else ()
        rows = (
            (picture.file, split, anp.noun, anp.adjective, anp.name)
            + tuple(rated.get(anp, "") for _ in extra)
            for anp, pictures in kept.items()
            for picture, split in zip(pictures, splits[anp], strict=True)
        )
        _write(out, ("file", "split", "noun", "adjective", "anp", *extra), rows)
        if sentiment:
            pairs = ((anp.name, value) for anp, value in rated.items())
            _write(aside["sentiment"], ("anp", "sentiment"), pairs)
            _say(f"{len(rated):,} of {len(kept):,} ANPs have a sentiment.")
    except OSError as error:
        raise UserError(
            f"{error.filename or out}: {error.strerror}. Mend this, and run again."
        ) from error
    return out


def _find(
    images: Path, prefix: str, known: Mapping[str, Anp]
) -> tuple[dict[str, Anp], dict[str, list[tuple[str, str]]], list[Dropped]]:
    """Finds the ANPs' places, their files if a list has them, and other entries."""
    if vso_urls.is_download(images):
        return vso_urls.find_pictures(images, prefix, known)
    folders, left_out = vso_pictures.find_folders(images, prefix, known)
    return folders, {}, left_out


def _beside(images: Path) -> Path:
    return Path(f"{os.path.abspath(images)}.csv")


def _prefix(images: Path, out: Path) -> str:
    """Returns the path of `images` relative to the folder of the manifest."""
    if not images.is_dir():
        raise UserError(f"--images={images}: there is no such folder.")
    if out.is_dir():
        raise UserError(f"--out={out} is a folder. Add the name of the file to write.")
    for absolute in (os.path.abspath, os.path.realpath):
        folder, root = Path(absolute(images)), Path(absolute(out.parent))
        if folder.is_relative_to(root):
            return folder.relative_to(root).as_posix()
    raise UserError(
        f"--out={out} must lie in {images} or in a folder above it, since a manifest "
        f"names pictures inside its own folder. Write --out={_beside(images)}"
    )


def _check_folders(
    folders: Mapping[str, Anp],
    listed: Mapping[str, Anp],
    excluded: Mapping[str, str],
    images: Path,
) -> None:
    """Says which names in the user's lists have no folder."""
    if not folders:
        raise UserError(
            f"--images={images} holds no folder named <adjective>_<noun>. Give the "
            "folder that directly holds them, such as Images_with_CC/bi_concepts1553."
        )
    anps = {fold(anp.name) for anp in folders.values()}
    nouns = {fold(anp.noun) for anp in folders.values()}
    for what, absent in (
        ("ANPs of --anps", [a.name for key, a in listed.items() if key not in anps]),
        ("excluded nouns", [n for key, n in excluded.items() if key not in nouns]),
    ):
        if absent:
            few = first_few(absent, str)
            _say(f"No folder for {len(absent):,} of the {what}: {few}")


def _check_enough(kept: Collection[Anp], images: Path) -> None:
    """Checks that each task has two classes."""
    anps, adjectives, nouns = _vocabulary(kept)
    if min(adjectives, nouns) < 2:
        raise UserError(
            f"--images={images}: what is left is {anps:,} ANPs of {adjectives:,} "
            f"adjectives and {nouns:,} nouns, and a task needs two classes. The table "
            "says why the others were dropped: give a smaller --min_images or "
            "--min_nouns, or mend the lists."
        )


def _vocabulary(anps: Collection[Anp]) -> list[int]:
    """Returns the numbers of ANPs, adjectives and nouns."""
    words = anps, {anp.adjective for anp in anps}, {anp.noun for anp in anps}
    return [len(some) for some in words]


def _print(
    found: Collection[Anp],
    dropped: Iterable[Dropped],
    splits: Mapping[Anp, Sequence[str]],
) -> None:
    """Prints the table.

    Args:
      found: ANPs that have a folder.
      dropped: everything dropped, in the order of the table's rows.
      splits: `{kept ANP: splits of its pictures}`.
    """
    files: collections.Counter[str] = collections.Counter()
    anps: dict[str, set[Anp]] = collections.defaultdict(set)
    for each in dropped:
        files[each.reason] += each.files
        anps[each.reason] |= {each.anp} if each.anp else set()
    sizes = collections.Counter(s for of_anp in splits.values() for s in of_anp)
    rows = [("found", [*_vocabulary(found), files.total() + sizes.total()])]
    for reason, number in files.items():
        rows.append((f"- {reason}", [len(anps[reason]), 0, 0, number]))
    rows.append(("kept", [*_vocabulary(splits), sizes.total()]))
    for split, number in sorted(sizes.items(), reverse=True):
        within = [anp for anp in splits if split in splits[anp]]
        rows.append((f"  {split}", [*_vocabulary(within), number]))
    print_table(
        "Visual Sentiment Ontology, kept and dropped",
        ["", "ANPs", "adjectives", "nouns", "files"],
        [[name, *(f"{n:,}" if n else "" for n in row)] for name, row in rows],
        note="files in folders dropped for their names are not counted",
    )


def _reason(dropped: Dropped) -> tuple[str, str]:
    detail = f": {dropped.detail}" if dropped.detail else ""
    return dropped.path, dropped.reason + detail


def _write(path: Path, header: Sequence[str], rows: Iterable[tuple[str, ...]]) -> None:
    """Writes a CSV, sorted; the file at `path` is always complete."""
    # What cannot be listed because it is not Unicode is escaped.
    with replacing(path, "backslashreplace") as file:
        csv.writer(file).writerows([header, *sorted(rows)])
    _say(f"Wrote {path}")


def _say(text: str) -> None:
    console.print(text, soft_wrap=True)


def main() -> None:
    """Reads the arguments and writes the manifest."""
    verb = cli.parser("data.vso", __doc__)
    add = verb.add_argument
    add(
        "--images",
        type=cli.path,
        metavar="DIR",
        required=True,
        help="folder that holds a folder for each ANP, or that img2dataset wrote",
    )
    add(
        "--out",
        type=cli.path,
        metavar="FILE",
        help="the manifest; default: <images>.csv",
    )
    add("--anps", type=cli.path, metavar="FILE", help="keep only the ANPs it lists")
    for flag, default, of in (
        ("--min_images", vso_rules.MIN_IMAGES, "ANP"),
        ("--min_nouns", vso_rules.MIN_NOUNS, "adjective"),
    ):
        help_text = f"per {of}; default: {default}, or 1 with --anps"
        add(flag, type=int, metavar="N", help=help_text)
    help_text = "drop ANPs with these nouns, one per line"
    add("--nouns_to_exclude", type=cli.path, metavar="FILE", help=help_text)
    help_text = "the release's 3244ANPs.txt"
    add("--sentiment", type=cli.path, metavar="FILE", help=help_text)
    help_text = "write the sentiment into the manifest, too"
    add("--sentiment_column", action="store_true", help=help_text)
    make_manifest(**vars(cli.read(verb)))


if __name__ == "__main__":
    cli.run(main)
