"""Which pictures and adjective-noun pairs (ANPs) stay, and in which split."""

import collections
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from crl_jax.data.vso_names import Anp, fold
from crl_jax.data.vso_pictures import Dropped, Picture

MIN_IMAGES = 500  # per ANP
MIN_NOUNS = 3  # per adjective

_PLACEHOLDER_ANPS = 3
_TEST_ONE_IN = 5


def choose_folders(
    folders: Mapping[str, Anp], listed: Collection[str], excluded: Collection[str]
) -> tuple[dict[str, Anp], list[Dropped]]:
    """Drops folders by the names of their ANPs.

    Args:
      folders: `{place: ANP}`, from `vso_pictures` or `vso_urls`.
      listed: folded names of the ANPs to keep; empty: all.
      excluded: folded nouns to drop.

    Returns:
      What stays, and what does not.
    """
    kept, dropped = {}, []
    for folder, anp in folders.items():
        if listed and fold(anp.name) not in listed:
            reason = "not in --anps"
        elif fold(anp.noun) in excluded:
            reason = "noun excluded"
        else:
            kept[folder] = anp
            continue
        dropped.append(Dropped(folder, reason, anp=anp, files=0))
    return kept, dropped


def choose_pictures(
    found: Iterable[Picture],
    groups: Iterable[Sequence[Picture]],
    folders: Mapping[str, Anp],
    min_images: int,
    min_nouns: int,
) -> tuple[dict[Anp, list[Picture]], list[Dropped]]:
    """Drops placeholders, ANPs by the rules, and copies.

    Args:
      found: pictures, sorted by path.
      groups: of copies among them, from `vso_pictures.copies`.
      folders: `{place: ANP}` of all places.
      min_images: see `apply_rules`.
      min_nouns: see `apply_rules`.

    Returns:
      What stays, sorted, and what does not.
    """
    left = {picture.file: picture for picture in found}
    dropped, copies = [], []
    for group in groups:
        if len({picture.anp for picture in group}) < _PLACEHOLDER_ANPS:
            copies.append(group)
            continue
        for picture in group:
            detail = f"one of {len(group):,} copies"
            dropped.append(Dropped(picture.file, "placeholder", detail))
            del left[picture.file]

    sizes = dict.fromkeys(folders.values(), 0)
    sizes |= collections.Counter(picture.anp for picture in left.values())
    failed = apply_rules(sizes, copies, min_images, min_nouns)
    for copy, original in surplus(copies, sizes.keys() - failed.keys()):
        dropped.append(Dropped(copy.file, "duplicate", f"of {original.file}"))
        del left[copy.file]

    kept: dict[Anp, list[Picture]] = {
        anp: [] for anp in sorted(sizes) if anp not in failed
    }
    rest: collections.Counter[str] = collections.Counter()
    for picture in left.values():
        if picture.anp in failed:
            rest[picture.folder] += 1
        else:
            kept[picture.anp].append(picture)
    dropped += (
        Dropped(folder, *failed[anp], anp=anp, files=rest[folder])
        for folder, anp in folders.items()
        if anp in failed
    )
    return kept, dropped


def apply_rules(
    sizes: Mapping[Anp, int],
    groups: Iterable[Sequence[Picture]],
    min_images: int,
    min_nouns: int,
) -> dict[Anp, tuple[str, str]]:
    """Applies the rules to the ANPs until nothing changes.

    A picture whose copies lie under two ANPs counts for one of them, and for the other
    as soon as the first is dropped.

    Args:
      sizes: number of pictures of each ANP, copies included.
      groups: of copies, from `vso_pictures.copies`.
      min_images: an ANP with fewer is dropped.
      min_nouns: an adjective with fewer is dropped, once all ANPs are large enough.

    Returns:
      `{dropped ANP: (reason, how many it had)}`.
    """
    small = f"ANP with fewer than {min_images:,} images"
    lonely = f"adjective with fewer than {min_nouns:,} nouns"
    groups = list(groups)
    dropped: dict[Anp, tuple[str, str]] = {}
    kept = set(sizes)
    while True:
        lost = collections.Counter(p.anp for p, _ in surplus(groups, kept))
        nouns = collections.Counter(anp.adjective for anp in kept)
        distinct = {anp: sizes[anp] - lost[anp] for anp in kept}
        variety = {anp: nouns[anp.adjective] for anp in kept}
        for reason, least, count in (
            # An ANP that is too small even with its copies takes none from the others.
            (small, min_images, sizes),
            (small, min_images, distinct),
            (lonely, min_nouns, variety),
        ):
            if few := {anp: count[anp] for anp in kept if count[anp] < least}:
                dropped |= {anp: (reason, f"{n:,}") for anp, n in few.items()}
                kept -= few.keys()
                break
        else:
            return dropped


def surplus(
    groups: Iterable[Sequence[Picture]], kept: Collection[Anp]
) -> Iterator[tuple[Picture, Picture]]:
    """Yields each surplus copy among `kept`, and the one that stays.

    The one that stays is drawn by lot: keeping the first by name would take pictures
    only from ANPs late in the alphabet.
    """
    for group in groups:
        present = [picture for picture in group if picture.anp in kept]
        # Not the first bytes of the lot, which decide the split.
        present.sort(key=lambda picture: (picture.lot[8:], picture.file))
        yield from ((picture, present[0]) for picture in present[1:])


def split(picture: Picture) -> str:
    """Returns train or test, which depends only on `picture.lot`."""
    lot = int.from_bytes(picture.lot[:8], "big")
    return "train" if lot % _TEST_ONE_IN else "test"


def splits(pictures: Sequence[Picture]) -> list[str]:
    """Returns the splits of all pictures of one ANP, each split used if possible."""
    result = [split(picture) for picture in pictures]
    for needed in ("test", "train"):  # a single picture goes to train
        if needed not in result:
            first = min(range(len(result)), key=lambda i: pictures[i].lot)
            result[first] = needed
    return result
