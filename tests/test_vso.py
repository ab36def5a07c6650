"""From the release's folders to a manifest: names, rules, what is dropped, splits."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from made_vso import PLACEHOLDER, Release, anps, jpeg, printed, rows
from PIL import Image

from crl_jax.config import default_task
from crl_jax.data import vso, vso_names, vso_rules
from crl_jax.data.manifest import read_manifest
from crl_jax.data.vso_names import Anp
from crl_jax.data.vso_pictures import Picture


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """Two adjectives with two nouns each, three pictures an ANP."""
    return Release.of_four_anps(tmp_path)


# Names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("beautiful_flower", ("beautiful", "flower")),
        ("Beautiful_FLOWER", ("beautiful", "flower")),
        (" beautiful  flower\t", ("beautiful", "flower")),
        ("beautiful_night_sky", ("beautiful", "night_sky")),
        ("ill-looking_man", ("ill-looking", "man")),
        ("ill_looking man", ("ill_looking", "man")),
        ("big night sky", ("big", "night_sky")),
        ("schöne_Blüme", ("schöne", "blüme")),
        ("grand_cafe\u0301", ("grand", "café")),
    ],
)
def test_anp(text: str, expected: tuple[str, str]):
    assert vso_names.parse_anp(text) == expected


@pytest.mark.parametrize("text", ["", "cat", "__MACOSX", "cat_", "_cat", "a.b_cat"])
def test_no_anp(text: str):
    assert vso_names.parse_anp(text) is None


def test_list_of_anps(release: Release):
    path = release.listing(
        "# a comment",
        "",
        "happy_cat  # another",
        "Happy Cat",
        r"D:\VSO\bi_concepts1553\sad_dog\12_ab.JPG",
        r"images\\Sad_Cat\\x.jpg 17 1.5",
        "images/happy_dog/",
        "misty_woods 3",
        "ill-looking_man",
    )
    names = " ".join(anp.name for anp in vso_names.read_anps(path).values())
    assert names == "happy_cat sad_dog sad_cat happy_dog misty_woods ill-looking_man"


def test_spellings_of_one_anp_are_one(release: Release):
    release.add("Happy-Cat")
    release.add("ill_looking_man")
    release.add("nice_night_sky")
    release.add("new-born_child")
    listed = release.listing(
        "HAPPY CAT", "ill-looking_man", "nice_night-sky", "sad_cat"
    )
    table = release.make(anps=listed)
    assert {(row["adjective"], row["noun"]) for row in table} == {
        ("happy", "cat"),
        ("ill-looking", "man"),
        ("nice", "night-sky"),
        ("sad", "cat"),
    }
    assert Counter(row["anp"] for row in table)["happy_cat"] == 5
    assert release.dropped["images/new-born_child/"] == "not in --anps"


def test_folders_of_one_anp_are_one_without_a_list(release: Release):
    release.add("Happy-Cat")
    release.add("new-born")
    table = release.make()
    assert Counter(row["anp"] for row in table)["happy_cat"] == 5
    assert release.dropped == {"images/new-born/": "folder of no ANP"}


def test_sentiment_file_tells_where_an_adjective_ends(release: Release):
    release.add("ill_looking_man")
    path = release.listing("prose", "1. Ill_Looking [sentiment: -1] [#images: 3]")
    with path.open("a") as file:
        file.write("\tIll_Looking_Man [sentiment: -1.50] [#imgs: 1,200]\n")
    table = release.make(sentiment=path)
    assert ("ill_looking", "man") in {(row["adjective"], row["noun"]) for row in table}
    assert rows(release.root / "vso.sentiment.csv") == [
        {"anp": "ill_looking_man", "sentiment": "-1.5"}
    ]


def test_sentiment_as_a_column_is_a_task_of_numbers(release: Release):
    release.add("sad_dog")
    path = release.listing("1. sad [sentiment: -1] ", "\tsad_dog [sentiment: -1.5] ")
    given = {"min_images": 2, "min_nouns": 1, "sentiment": path}
    vso.make_manifest(release.images, release.out, **given, sentiment_column=True)
    tasks = {"sentiment": default_task()}
    tasks["sentiment"].kind = "regression"
    manifest = read_manifest(release.out, tasks)
    assert list(manifest.tasks) == ["noun", "adjective", "anp", "sentiment"]
    sad = ["sad_dog" in file for file in manifest.files]
    assert 0 < sum(sad) < len(sad)
    expected = np.where(sad, np.float32(-1.5), np.nan)
    np.testing.assert_array_equal(manifest.labels["sentiment"], expected)
    assert "needs --sentiment" in release.refusal(sentiment_column=True)


def test_published_sentiments(shared_data: Path):
    sentiments = vso_names.read_sentiments(shared_data / "vso_labels" / "3244ANPs.txt")
    assert len(sentiments) == 3244
    assert sentiments[Anp("beautiful", "flower")] == 1.77
    assert sentiments[Anp("embarrassed", "smile")] == 0.38
    assert sentiments[Anp("brave", "9/11")] == 1.43
    assert (min(sentiments.values()), max(sentiments.values())) == (-2.0, 2.0)


def test_published_vocabulary(tmp_path: Path, shared_data: Path, capsys):
    labels = shared_data / "vso_labels"
    release = Release(tmp_path)
    for anp in (labels / "anps_1200.txt").read_text().split():
        release.add(anp, 1)
    table = release.make(
        anps=labels / "anps_553.txt",
        min_images=1,
        sentiment=labels / "3244ANPs.txt",
    )
    tasks = read_manifest(release.out).tasks
    assert {task: len(names) for task, names in tasks.items()} == {
        "noun": 167,
        "adjective": 117,
        "anp": 553,
    }
    for task, file in (
        ("noun", "nouns_167"),
        ("adjective", "adjectives_117"),
        ("anp", "anps_553"),
    ):
        assert tasks[task] == tuple(
            sorted((labels / f"{file}.txt").read_text().split())
        )
    assert len(rows(release.root / "vso.sentiment.csv")) == len(table) == 553
    assert printed(capsys.readouterr().out)["kept"] == ["553", "117", "167", "553"]


# Rules


def test_rules_are_applied_until_nothing_changes(release: Release, capsys):
    release.add("happy_baby", 3)
    release.add("sad_baby", 1)  # too few: sad has two nouns left
    for noun in ("cat", "dog", "baby", "sky"):
        release.add(f"odd_{noun}", 3)
    table = release.make(min_images=3, min_nouns=3)
    assert {row["adjective"] for row in table} == {"happy", "odd"}
    assert release.dropped == {
        "images/sad_baby/": "ANP with fewer than 3 images: 1",
        "images/sad_cat/": "adjective with fewer than 3 nouns: 2",
        "images/sad_dog/": "adjective with fewer than 3 nouns: 2",
    }
    table = printed(capsys.readouterr().out)
    assert table["found"] == ["10", "3", "4", "28"]
    assert table["- ANP with fewer than 3 images"] == ["1", "", "", "1"]
    assert table["- adjective with fewer than 3 nouns"] == ["2", "", "", "6"]
    assert table["kept"] == ["7", "2", "4", "21"]


def test_the_papers_numbers_are_the_defaults():
    noun = {Anp("happy", n): 500 for n in ("cat", "dog", "man")}
    few = {Anp("sad", n): 500 for n in ("cat", "dog")} | {Anp("sad", "man"): 499}
    dropped = vso_rules.apply_rules(
        noun | few, [], vso_rules.MIN_IMAGES, vso_rules.MIN_NOUNS
    )
    assert dropped == {
        Anp("sad", "man"): ("ANP with fewer than 500 images", "499"),
        Anp("sad", "cat"): ("adjective with fewer than 3 nouns", "2"),
        Anp("sad", "dog"): ("adjective with fewer than 3 nouns", "2"),
    }


def test_excluded_nouns(release: Release, capsys):
    release.add("happy_night_sky")
    release.add("sad_baby")
    table = release.make(
        nouns_to_exclude=release.listing("# abstract", "DOG", "night sky", "love")
    )
    assert anps(table) == {"happy_cat", "sad_cat", "sad_baby"}
    assert release.dropped["images/happy_dog/"] == "noun excluded"
    output = capsys.readouterr().out
    assert "No folder for 1 of the excluded nouns: love" in output
    assert printed(output)["- noun excluded"] == ["3", "", "", ""]


def test_rules_do_not_hold_for_a_list_unless_they_are_given(release: Release, capsys):
    release.add("odd_bird", 1)
    listed = release.listing("odd_bird", "sad_cat", "sad_dog", "happy_cat", "sad_woods")
    table = release.make(anps=listed, min_images=None, min_nouns=None)
    assert anps(table) == {"odd_bird", "sad_cat", "sad_dog", "happy_cat"}
    assert "No folder for 1 of the ANPs of --anps: sad_woods" in capsys.readouterr().out
    table = release.make(anps=listed, min_images=2)
    assert anps(table) == {"sad_cat", "sad_dog", "happy_cat"}
    release.add("happy_bird")
    listed = release.listing(
        "odd_bird", "sad_cat", "sad_dog", "happy_cat", "happy_bird"
    )
    table = release.make(anps=listed, min_images=1, min_nouns=2)
    assert {row["adjective"] for row in table} == {"sad", "happy"}


# What is dropped


def test_every_reason(release: Release, capsys):
    release.add("happy_cat", 0, _hidden=b"x", Thumbs_db=b"x", empty_jpg=b"")
    release.add("happy_cat", 0, text_jpg=b"not a picture", cut_jpg=jpeg(1)[:20])
    release.add("happy_cat", 0, upper_JPG=jpeg(500), grey_png=encoded("L", "PNG"))
    release.add("happy_cat", 0, huge_gif=huge_gif())
    (release.images / "happy_cat" / "folder.jpg").mkdir()
    (release.images / "__MACOSX").mkdir()
    (release.images / ".DS_Store").write_bytes(b"x")
    (release.images / "readme.txt").write_bytes(b"x")
    table = release.make()
    files = {row["file"] for row in table}
    assert {"images/happy_cat/upper.JPG", "images/happy_cat/grey.png"} <= files
    assert len(files) == 14
    reasons = release.dropped
    assert "JPEG, PNG" in reasons.pop("images/happy_cat/text.jpg")
    assert reasons.pop("images/happy_cat/cut.jpg").startswith("unreadable: ")
    assert reasons == {
        "images/happy_cat/.hidden": "dot-file",
        "images/happy_cat/Thumbs.db": "not a picture",
        "images/happy_cat/empty.jpg": "empty",
        "images/happy_cat/huge.gif": "unreadable: 9,000 x 9,000 pixels",
        "images/happy_cat/folder.jpg": "not a picture",
        "images/__MACOSX/": "folder of no ANP",
        "images/.DS_Store": "dot-file",
        "images/readme.txt": "not in a folder",
    }
    counts = printed(capsys.readouterr().out)
    assert counts["- dot-file"][-1] == "2"
    assert counts["- unreadable"][-1] == "3"
    assert counts["found"][-1] == "24"
    number = {name: int(cells[-1] or 0) for name, cells in counts.items()}
    assert number["found"] == number["kept"] + sum(
        files for name, files in number.items() if name.startswith("-")
    )
    assert number["kept"] == number["train"] + number["test"] == 14


def encoded(mode: str, image_format: str) -> bytes:
    result = io.BytesIO()
    Image.new(mode, (3, 3)).save(result, image_format)
    return result.getvalue()


def huge_gif() -> bytes:
    """Returns a GIF whose header promises 81 million pixels."""
    gif = encoded("L", "GIF")
    return gif[:6] + 2 * (9000).to_bytes(2, "little") + gif[10:]


def test_placeholder_lies_under_three_anps(release: Release):
    for anp in ("happy_cat", "happy_dog", "sad_cat"):
        release.add(anp, 0, a_jpg=PLACEHOLDER, b_jpg=PLACEHOLDER)
    table = release.make()
    assert len(table) == 12
    assert set(release.dropped.values()) == {"placeholder: one of 6 copies"}
    assert len(release.dropped) == 6


def test_one_of_each_copies_stays(release: Release):
    long = PLACEHOLDER + bytes(10_000)
    almost = PLACEHOLDER + b"\1" + bytes(9_999)  # same size, same last bytes
    release.add("happy_cat", 0, a_jpg=jpeg(800), b_jpg=jpeg(800), c_jpg=long)
    release.add("sad_dog", 0, d_jpg=jpeg(800), e_jpg=almost)
    table = release.make()
    files = {Path(row["file"]).name for row in table}
    assert {"c.jpg", "e.jpg"} <= files
    assert len(table) == 12 + 3
    (original,) = {"a.jpg", "b.jpg", "d.jpg"} & files
    assert len(release.dropped) == 2
    for file, reason in release.dropped.items():
        assert Path(file).name in {"a.jpg", "b.jpg", "d.jpg"} - {original}
        assert reason.startswith("duplicate: of images/")
        assert reason.endswith(f"/{original}")


def test_copies_do_not_count_as_images(release: Release):
    release.add("sad_bird", 1, a_jpg=jpeg(900), b_jpg=jpeg(900))
    assert "sad_bird" not in anps(release.make(min_images=3))
    assert release.dropped["images/sad_bird/"] == "ANP with fewer than 3 images: 2"


def test_a_dropped_anp_takes_no_copy_from_others(release: Release):
    shared = {f"p{i}_jpg": jpeg(900 + i) for i in range(8)}
    release.add("aaa_bird", 0, **shared)
    release.add("zzz_bird", 0, **shared)
    release.add("happy_bird", 1, **shared)
    release.add("odd_fish", 9)
    listed = release.listing("aaa_bird", "happy_bird", "odd_fish")
    table = release.make(anps=listed, min_images=9)
    assert anps(table) == {"happy_bird", "odd_fish"}
    assert list(release.dropped.values()).count("not in --anps") == 5
    assert "images/aaa_bird/" in release.dropped
    assert not any("duplicate" in reason for reason in release.dropped.values())


def test_a_copy_under_two_anps_is_drawn_by_lot(release: Release):
    for i in range(40):
        for anp in ("aaa_bird", "zzz_fish"):
            release.add(anp, 0, **{f"p{i}_jpg": jpeg(1000 + i)})
    counts = Counter(row["anp"] for row in release.make())
    assert counts["aaa_bird"] + counts["zzz_fish"] == 40
    assert 8 <= counts["aaa_bird"] <= 32


# Splits


def picture(anp: str, name: str, folder: str = "images") -> Picture:
    adjective, noun = anp.split("_")
    return Picture(Anp(adjective, noun), f"{folder}/{name}", b"")


def test_split_is_the_same_on_every_machine():
    """A change here would move pictures between train and test."""
    names = ["1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg", "é, ü.jpg", "雪.jpg"]
    expected = ["train", "train", "train", "test", "train", "test", "train"]
    assert [vso_rules.split(picture("sad_dog", name)) for name in names] == expected
    assert vso_rules.split(picture("sad_dog", "1.jpg", "else/where")) == expected[0]
    decomposed = "e\u0301, u\u0308.jpg"  # as macOS may store it
    assert vso_rules.split(picture("sad_dog", decomposed)) == expected[5]
    for name in names:  # the same however the pair is spelled
        a, b = (
            Picture(Anp(adjective, "man"), name, b"")
            for adjective in ("ill-looking", "ill_looking")
        )
        assert vso_rules.split(a) == vso_rules.split(b)


def test_split_is_stratified():
    for anp in ("sad_dog", "happy_cat", "misty_woods"):
        pictures = [picture(anp, f"{i}.jpg") for i in range(5000)]
        share = vso_rules.splits(pictures).count("train") / len(pictures)
        assert share == pytest.approx(0.8, abs=0.02)


def test_split_of_a_picture_does_not_change_when_others_come(release: Release):
    before = {row["file"]: row["split"] for row in release.make()}
    moved = {"happy_cat": 1, "happy_dog": 1, "sad_cat": 1, "sad_dog": 1}  # few pictures
    for anp in moved:
        release.add(anp, 50)
    after = {row["file"]: row["split"] for row in release.make()}
    release.add("happy_cat", 50)
    release.add("odd_bird", 50)
    last = {row["file"]: row["split"] for row in release.make()}
    assert len(last) == 312
    assert {file: last[file] for file in after} == after
    assert sum(after[file] != split for file, split in before.items()) <= len(moved)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_small_anps_have_train_and_test(count: int):
    for i in range(100):
        pictures = [picture("sad_dog", f"{i}-{j}.jpg") for j in range(count)]
        splits = vso_rules.splits(pictures)
        natural = [vso_rules.split(picture) for picture in pictures]
        assert set(splits) == ({"train"} if count == 1 else {"train", "test"})
        assert sum(a != b for a, b in zip(splits, natural, strict=True)) <= 1
