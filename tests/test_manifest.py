"""The manifest reader: what it reads, and what it says about every mistake."""

import csv
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from crl_jax.data.manifest import Manifest, read_manifest
from crl_jax.errors import UserError
from crl_jax.kinds import Categorical

GOOD = [
    "file,split,noun,adjective",
    "a.jpg,train,cat,happy",
    "b.jpg,train,dog,sad",
    "sub/c.jpg,val,cat,",
    "sub/d.jpg,test,,sad",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for name in ("a.jpg", "b.jpg", "sub/c.jpg", "sub/d.jpg"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def write(folder: Path, lines: list[str] | str | bytes) -> Path:
    path = folder / "pictures.csv"
    if isinstance(lines, list):
        lines = "\n".join(lines) + "\n"
    path.write_bytes(lines if isinstance(lines, bytes) else lines.encode())
    return path


def replaced(line: int, text: str) -> list[str]:
    """Returns the good manifest with one line, from 1, as another text."""
    return [text if i == line else old for i, old in enumerate(GOOD, start=1)]


def message(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_manifest(path)
    text = str(caught.value)
    assert path.name in text
    assert "Traceback" not in text
    return text


def as_naive_reader_does(path: Path) -> tuple[list[dict], dict[str, list[str]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [{k: v.strip() for k, v in row.items()} for row in csv.DictReader(file)]
    tasks = [k for k in rows[0] if k not in ("file", "split")]
    return rows, {t: sorted({row[t] for row in rows} - {""}) for t in tasks}


def check_against_naive_reader(path: Path) -> Manifest:
    manifest = read_manifest(path)
    rows, classes = as_naive_reader_does(path)
    assert manifest.files == [row["file"] for row in rows]
    assert manifest.splits == [row["split"] for row in rows]
    assert list(manifest.tasks) == list(classes)
    for task, names in classes.items():
        assert list(manifest.tasks[task]) == names
        expected = [names.index(row[task]) if row[task] else -1 for row in rows]
        np.testing.assert_array_equal(manifest.labels[task], expected)
        assert manifest.labels[task].dtype == np.int32
    return manifest


def test_reads_rows_labels_and_missing_labels(folder):
    manifest = check_against_naive_reader(write(folder, GOOD))
    assert manifest.tasks == {"noun": ("cat", "dog"), "adjective": ("happy", "sad")}
    assert manifest.labels["adjective"].tolist() == [0, 1, -1, 1]
    assert manifest.root == folder


def test_reads_real_photographs_as_a_naive_reader_does(shared_data):
    manifest = check_against_naive_reader(shared_data / "grocery_store" / "labels.csv")
    assert [len(names) for names in manifest.tasks.values()] == [3, 43, 81]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_reads_any_line_end_byte_order_mark_blank_lines_and_spaces(folder, start, end):
    lines = [line.replace(",", " , ") for line in GOOD]
    text = end.join([lines[0], "", *lines[1:], "", ""])
    manifest = read_manifest(write(folder, start + text.encode()))
    assert manifest.files == ["a.jpg", "b.jpg", "sub/c.jpg", "sub/d.jpg"]
    assert manifest.tasks["noun"] == ("cat", "dog")


def test_reads_quotes_commas_line_breaks_and_letters_of_any_script(folder):
    names = ['say "hi".jpg', "one, two.jpg", "line\nbreak.jpg", "été 图.JPG"]
    classes = ['a "quoted" cat', "cat, black", "猫", "cat"]
    for name in names:
        (folder / name).write_bytes(b"x")
    path = folder / "pictures.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "split", "noun"])
        writer.writerows(zip(names, ["train"] * 4, classes, strict=True))
    manifest = check_against_naive_reader(path)
    assert manifest.files == names
    assert set(manifest.tasks["noun"]) == set(classes)


def test_quotes_may_follow_a_space(folder):
    path = write(folder, replaced(3, 'b.jpg, train, "dog, black", sad'))
    assert "dog, black" in read_manifest(path).tasks["noun"]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_columns_may_have_what_excel_writes_between_them(folder, delimiter):
    """Quotes then keep the semicolons between several labels together."""
    lines = replaced(3, 'b.jpg,train,"dog;big, black",sad')
    between = [delimiter.join(next(csv.reader([line]))) for line in lines]
    between[2] = between[2].replace("dog;big, black", '"dog;big, black"')
    blank = 3 * delimiter
    tasks = read_manifest(write(folder, [blank, *between, blank])).tasks
    assert tasks["noun"] == ("cat", "dog;big, black")
    assert tasks["adjective"] == ("happy", "sad")


NOTES = ["weight,file,split,noun,foto id", *(f'"1\n2",{row},9' for row in GOOD[1:3])]
NOTES[1:] = [line.replace(",happy", "").replace(",sad", "") for line in NOTES[1:]]


def test_columns_are_ignored(folder):
    path = write(folder, NOTES)
    manifest = read_manifest(path, ignore=" foto id,weight ")
    assert manifest.tasks == {"noun": ("cat", "dog")}
    # In another order the data is the same; with other columns it is not.
    fingerprint = manifest.fingerprint
    assert read_manifest(path, ignore="weight,foto id,").fingerprint == fingerprint
    path.write_text(path.read_text("utf-8").replace("foto id", "foto_id"), "utf-8")
    fingerprint = read_manifest(path, ignore="weight,foto_id").fingerprint
    path.write_text(path.read_text("utf-8").replace("1\n2", "1"), "utf-8")
    assert read_manifest(path, ignore="foto_id,weight").fingerprint != fingerprint


def test_other_ignored_columns_make_other_data(folder):
    path = write(folder, GOOD)
    noun, adjective, none = (
        read_manifest(path, ignore=of).fingerprint for of in ("noun", "adjective", "")
    )
    assert len({noun, adjective, none}) == 3


@pytest.mark.parametrize(
    ("ignore", "message"),
    [
        ("weihgt,foto id", r"no column 'weihgt', .*ignore names \(did you mean 'weigh"),
        ("split", "config.data.ignore names 'split', which every list needs"),
        ("foto id", r"remove the line break.* set --config.data.ignore='foto id,weig"),
        ("weight", r"named 'foto id'.* set --config.data.ignore='weight,foto id'"),
        ("weight,foto id,noun", "there is no task"),
    ],
)
def test_a_mistake_in_what_is_ignored_is_named(folder, ignore, message):
    with pytest.raises(UserError, match=message):
        read_manifest(write(folder, NOTES), ignore=ignore)


def test_columns_without_name_and_cells_are_ignored(folder):
    lines = [f"{line},, " for line in GOOD]
    assert list(read_manifest(write(folder, lines)).tasks) == ["noun", "adjective"]


def test_no_other_column_counts_for_a_trained_network(folder):
    trained = {"noun": Categorical(("cat", "dog"))}
    lines = [f"{i},{line}" for i, line in enumerate(GOOD)]
    lines[0] = ",file,split,noun,foto id"
    manifest = read_manifest(write(folder, lines), trained=trained, ignore="weight")
    assert manifest.kinds == trained


def test_paths_are_in_their_plainest_form(folder):
    manifest = read_manifest(
        write(folder, replaced(2, "./sub/..//a.jpg,train,cat,happy"))
    )
    assert manifest.files[0] == "a.jpg"


def test_fingerprint_follows_the_list_and_the_pictures_but_not_the_folder(folder):
    path = write(folder, GOOD)
    first = read_manifest(path).fingerprint
    moved = folder.rename(folder.with_name("moved"))
    assert read_manifest(moved / path.name).fingerprint == first
    (moved / "a.jpg").write_bytes(b"another resolution")
    assert read_manifest(moved / path.name).fingerprint != first
    (moved / "a.jpg").write_bytes(b"x")
    write(moved, replaced(3, "b.jpg,train,cow,sad"))
    assert read_manifest(moved / path.name).fingerprint != first


def test_needs_no_tensorflow():
    code = (
        "import sys, crl_jax.data.manifest, crl_jax.data.pictures;"
        "sys.exit('tensorflow' in sys.modules)"
    )
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


MISTAKES = {
    "a folder": (None, ["is a directory", "Give a CSV file"]),
    "empty": ("", ["is empty", "file,split,<task>"]),
    "blank": ("\n\n", ["is empty", "file,split,<task>"]),
    "only a header": (GOOD[:1], ["lists no pictures", "Add a row"]),
    "no column file": (replaced(1, "path,split,noun,adjective"), ["row 1", "'file'"]),
    "no column split": (replaced(1, "file,part,noun,adjective"), ["row 1", "'split'"]),
    "semicolons only in the rows": (
        [GOOD[0], *(line.replace(",", ";") for line in GOOD[1:])],
        ["every row needs 4 cells", "row 2 has 1", "with a comma"],
    ),
    "too few cells between semicolons": (
        [line.replace(",", ";") for line in replaced(3, "b.jpg,train,dog")],
        ["row 3 has 3", "keeps its semicolon"],
    ),
    "columns in capitals": (
        replaced(1, "File,Split,noun,adjective"),
        ["row 1", "no column 'file' (did you mean 'File'?)"],
    ),
    "columns in capitals between semicolons": (
        [line.replace(",", ";") for line in replaced(1, "file,SPLIT,noun,adjective")],
        ["no column 'split' (did you mean 'SPLIT'?), only 'file', 'SPLIT', 'noun'"],
    ),
    "another name between semicolons": (
        [line.replace(",", ";") for line in replaced(1, "path,split,noun,adjective")],
        ["no column 'file', only 'path', 'split', 'noun'"],
    ),
    "a long name that a Mac would write in more letters": (
        replaced(3, f"{'ü' * 100}.png,train,dog,sad"),
        ["row 3 has 'ü", "mend the path"],
    ),
    "no task": (
        [",".join(line.split(",")[:2]) for line in GOOD],
        ["row 1", "no task", "Add a column"],
    ),
    "column twice": (
        replaced(1, "file,split,noun,noun"),
        ["row 1", "two columns", "'noun'", "Rename"],
    ),
    "column without a name": (
        replaced(1, "file,split,noun,"),
        ["row 1, column 4 has no name", "Delete it", "or give it one"],
    ),
    "task not an identifier": (
        replaced(1, "file,split,noun,two words"),
        [
            *("column 4", "'two words'", "letters, digits and underscores"),
            "If it is no task, set --config.data.ignore='two words'.",
        ],
    ),
    "task not ASCII": (replaced(1, "file,split,noun,näme"), ["column 4", "'näme'"]),
    "task named image": (replaced(1, "file,split,image,noun"), ["column 3", "'image'"]),
    "too few cells": (
        replaced(3, "b.jpg,train,dog"),
        ["row 3 has 3", "needs 4 cells", "keeps its comma"],
    ),
    "too many cells": (
        replaced(4, "sub/c.jpg,val,cat,black,"),
        ["row 4 has 5", "needs 4 cells", "double quotes"],
    ),
    "unknown split": (
        replaced(2, "a.jpg,trian,cat,happy"),
        ["column 'split'", "row 2", "'trian'", "train?", "train, val, test"],
    ),
    "long name of a split": (
        replaced(4, "sub/c.jpg,Validation,cat,"),
        ["row 4", "'Validation'", "val?"],
    ),
    "nothing in train": (
        [line.replace("train", "val") for line in GOOD],
        ["'split'", "never says train", "Write it"],
    ),
    "no label": (
        ["file,split,noun", "a.jpg,train,", "b.jpg,train,"],
        ["column 'noun'", "no label", "Fill the column, delete it, or set --config"],
    ),
    "one class": (
        ["file,split,noun", "a.jpg,train,cat", "b.jpg,train,cat"],
        ["'noun' has only the class 'cat'", "set --config.data.ignore=noun."],
    ),
    "file twice": (
        replaced(5, "./a.jpg,test,cat,sad"),
        ["column 'file'", "row 5 (test)", "'a.jpg'", "row 2 (train)", "keep one row"],
    ),
    "file missing": (
        replaced(3, "sub/b.jpg,train,dog,sad"),
        ["column 'file'", "row 3", "'sub/b.jpg'", "mend the path"],
    ),
    "folder missing": (
        replaced(3, "gone/b.jpg,train,dog,sad"),
        ["row 3", "'gone/b.jpg'", "mend the path"],
    ),
    "file is a folder": (replaced(3, "sub,train,dog,sad"), ["row 3", "'sub'"]),
    "null character": (replaced(3, "s\0/b.jpg,train,dog,sad"), ["row 3", "'s\\x00/b"]),
    "backslashes": (
        replaced(4, r"sub\c.jpg,val,cat,"),
        ["row 4", r"(write / instead of \)"],
    ),
    "no file": (
        replaced(3, ",train,dog,sad"),
        ["column 'file'", "row 3", "fill the cell or delete the row"],
    ),
    "absolute path": (
        replaced(3, "/data/b.jpg,train,dog,sad"),
        ["column 'file'", "row 3", "'/data/b.jpg'", "relative"],
    ),
    "absolute path of Windows": (replaced(3, r"C:\b.jpg,train,dog,sad"), ["relative"]),
    "outside": (
        replaced(3, "sub/../../b.jpg,train,dog,sad"),
        ["column 'file'", "row 3", "'sub/../../b.jpg'", "relative"],
    ),
    "class never in train": (
        replaced(4, "sub/c.jpg,val,cow,"),
        ["column 'noun'", "row 4 (val)", "'cow'", "move one", "or take the class out"],
    ),
    "numbers without their kind": (
        ["file,split,weight", "a.jpg,train,69.81", "b.jpg,train,70", "sub/c.jpg,val,9"],
        [
            "row 4 (val) has '9': move one of the class's pictures to train, or take "
            "the class out of the cells; if these are numbers to predict, set "
            "--config.tasks.weight.kind=regression; if the column is no task, set "
            "--config.data.ignore=weight."
        ],
    ),
    "several labels without their kind": (
        ["file,split,tags", "a.jpg,train,x", "b.jpg,train,x;y", "sub/c.jpg,val,y;z"],
        ["has 'y;z'", "several labels per picture, set --config.tasks.tags.kind=multi"],
    ),
    "names of persons": (
        ["file,split,by", "a.jpg,train,Ann", "b.jpg,train,Bob", "sub/c.jpg,val,Cem"],
        ["has 'Cem'", "cells; if the column is no task, set --config.data.ignore=by."],
    ),
    "line break in a class": (
        replaced(3, 'b.jpg,train,"dog\nbig",sad'),
        ["column 'noun'", "row 3", "one line", "double quote", "ignore=noun"],
    ),
    "carriage return in a class": (
        replaced(3, 'b.jpg,train,"dog\rbig",sad'),
        ["column 'noun'", "row 3", "one line"],
    ),
    "row after a line break in a cell": (
        [*replaced(2, '"a\n.jpg",train,cat,happy')[:2], ",train,dog,sad"],
        ["row 4 has none"],
    ),
    "quote never closed": (
        replaced(3, 'b.jpg,train,"' + "dog,sad\n" * 20000),
        ["row 3", "double quote that is not closed"],
    ),
    "not UTF-8": (
        "\n".join(replaced(3, "b.jpg,train,hündchen,sad")).encode("latin-1"),
        ["row 3", "not UTF-8", "CSV UTF-8"],
    ),
    "UTF-16": ("\n".join(GOOD).encode("utf-16"), ["row 1", "not UTF-8"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_place_and_mend(folder, mistake):
    content, parts = MISTAKES[mistake]
    if content is None:
        path = folder / "pictures.csv"
        path.mkdir()
    else:
        path = write(folder, content)
    text = message(path)
    for part in parts:
        assert part.lower() in text.lower()
    assert len(text) < 500


def test_a_manifest_that_is_not_there_is_named(tmp_path):
    text = message(tmp_path / "gone.csv")
    assert "no such file" in text.lower()


@pytest.mark.parametrize(("there", "listed"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_with_accents_of_another_encoding_is_told(folder, there, listed):
    (folder / unicodedata.normalize(there, "Grün")).mkdir()
    (folder / unicodedata.normalize(there, "Grün/é.jpg")).write_bytes(b"x")
    file = unicodedata.normalize(listed, "Grün/é.jpg")
    text = message(write(folder, replaced(3, f"{file},train,dog,sad")))
    assert "the file's name differs only in how its accents are encoded" in text
    assert "instead of" not in text


def test_of_a_repeated_mistake_the_first_are_named_and_the_rest_counted(folder):
    rows = [f"{i}.jpg,train,c{i % 2}" for i in range(40)]
    text = message(write(folder, ["file,split,noun", *rows]))
    assert "row 2 has '0.jpg', row 3 has '1.jpg', row 4 has '2.jpg' and 37 more" in text


def test_only_splits_that_are_there_are_needed(folder):
    assert read_manifest(write(folder, GOOD[:3])).splits == ["train", "train"]
