"""Inspecting data: counts against the CSV, pictures by their pixels, each warning."""

import csv
import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from crl_jax import config_check
from crl_jax.data import inspect as verb
from crl_jax.data import inspect_pictures, inspection, source, stream
from crl_jax.data.inspect_labels import find_problems
from crl_jax.data.labels import SplitLabels, read_labels, read_split
from crl_jax.errors import UserError
from crl_jax.kinds import Categorical

KINDS = {
    "kind": Categorical(("cat", "dog", "owl")),
    "hue": Categorical(("red", "blue")),
}


def inspect(config, out, few=1, seconds=0.01):
    inspection.inspect(config_check.check(config), out, few, seconds)


def read_rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def open_data(config):
    return source.open_source(config_check.check(config))


# The whole verb.


def test_command_writes_and_prints_everything(
    solid_pictures, shards, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "a" / "b"
    arguments = [
        "--config=configs/manifest.py",
        f"--config.data.manifest={solid_pictures}",
        f"--config.data.dir={shards}",
        "--config.data.batch_size=8",
        "--seconds=0.01",
        "--few=2",
        f"--out={out}",
    ]
    monkeypatch.setattr("sys.argv", ["inspect", *arguments])
    verb.main()
    printed = capsys.readouterr().out
    names = {path.name for path in out.iterdir()}
    assert names == {"counts.csv", "grid-hue-number.png", "examples.png"}
    assert "Pictures: train 14, val 5, test 7." in printed
    assert "Smallest in train: n1 1, n0 2, n2 2, n3 2, n4 2." in printed
    assert "images/s" in printed
    warnings = [line for line in printed.splitlines() if line.startswith("warning")]
    assert len(warnings) == 2
    # The second training picture, dark, would be the other n1; its label is missing.
    assert "number: classes with fewer than 2 training pictures: 1 of 7" in warnings[0]
    assert "never meet in train: 1 (dark + n1), pictures with them: 1." in warnings[1]
    table = [line for line in printed.splitlines() if line[:1] in "┏┃┡│└"]
    assert max(map(len, table)) <= 80


def test_counts_are_those_of_the_csv(small_config, solid_pictures, tmp_path, capsys):
    inspect(small_config, tmp_path)
    expected = Counter(
        (task, row[task], row["split"])
        for row in read_rows(solid_pictures)
        for task in ("hue", "number")
    )
    rows = read_rows(tmp_path / "counts.csv")
    assert [(row["task"], row["class"]) for row in rows] == [
        ("hue", "dark"),
        ("hue", "light"),
        *(("number", f"n{i}") for i in range(7)),
    ]
    for row in rows:
        for split in ("train", "val", "test"):
            assert int(row[split]) == expected[row["task"], row["class"], split]
    assert "│ missing labels    │     1 │   0 │    0 │" in capsys.readouterr().out


def test_splits_are_those_of_the_config(small_config, tmp_path, capsys):
    small_config.data.train_split = "train[:4]"
    small_config.data.val_split = ""
    inspect(small_config, tmp_path)
    rows = read_rows(tmp_path / "counts.csv")
    assert sum(int(row["train"]) for row in rows if row["task"] == "hue") == 4
    assert {row["val"] for row in rows} == {""}
    printed = capsys.readouterr().out
    assert "Pictures: train (train[:4]) 4, test 7." in printed
    assert "number: classes without training pictures" in printed


def test_names_are_printed_as_they_are(small_config, tmp_path, capsys):
    names = ("[bold]", ":smile:")
    rows = [("train", names[0], "a"), ("train", names[1], "b")]
    make_pictures(tmp_path, [*rows, ("val", *rows[0][1:]), ("test", *rows[0][1:])])
    small_config.data.manifest = str(tmp_path / "labels.csv")
    inspect(small_config, tmp_path / "out")
    assert "Smallest in train: :smile: 1, [bold] 1" in capsys.readouterr().out


def test_large_tasks_get_no_grid(small_config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(inspection, "MAX_GRID", 6)
    inspect(small_config, tmp_path)
    assert not list(tmp_path.glob("grid*"))
    assert "No grid of number: more than 6 classes." in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [{"few": -1}, {"seconds": 0.0}])
def test_wrong_numbers(small_config, tmp_path, wrong):
    with pytest.raises(UserError, match=r"--few=.* --seconds="):
        inspect(small_config, tmp_path, **wrong)


def test_a_folder_that_cannot_be_written(small_config, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file: File exists"):
        inspect(small_config, tmp_path / "file")


def test_speed_leaves_out_the_warm_up():
    given = []

    def batches():
        for i in itertools.count():
            given.append(i)
            yield {"image": np.zeros((4, 1, 1, 3))}

    speed = inspection.images_per_second(batches(), 0.05)
    # The last batch may end after 0.05 s, so the speed cannot be above this.
    assert 0 < speed <= 4 * (len(given) - inspection._WARM_UP) / 0.05


# Labels and what is wrong with them.


def make_pictures(folder, rows):
    """Writes a manifest of `(split, kind, hue)`, a colour each, or `(…, copy of)`."""
    lines = ["file,split,kind,hue"]
    for i, (split, kind, hue, *copy_of) in enumerate(rows):
        value = copy_of[0] if copy_of else i
        color = np.full((8, 8, 3), (10 * value, 0, 0), np.uint8)
        Image.fromarray(color).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{split},{kind},{hue}")
    (folder / "labels.csv").write_text("\n".join(lines))


CLEAN = [
    ("train", "cat", "red"),
    ("train", "dog", "blue"),
    ("train", "dog", ""),
    ("val", "cat", "red"),
    ("val", "dog", ""),
    ("test", "dog", "blue"),
]


@pytest.mark.parametrize(
    ("more", "few", "warning"),
    [
        ([], 1, None),
        # Two copies in one split with the same labels, or with one of them missing.
        ([("train", "cat", "red", 0), ("train", "cat", "", 0)], 1, None),
        (
            [],
            3,
            "kind: classes with fewer than 3 training pictures: 2 of 2 (cat 1, dog 2).",
        ),
        (
            [("test", "cat", "red", 0), ("test", "dog", "", 1)],
            1,
            "train and test share identical pictures: 2 (0.png = 6.png, 1.png = "
            "7.png).",
        ),
        (
            [("test", "cat", "red", 3)],
            1,
            "val and test share identical pictures: 1 (3.png = 6.png).",
        ),
        (
            [("train", "dog", "red", 0)],
            1,
            "kind: identical training pictures with different labels: 1 (0.png cat = "
            "6.png dog).",
        ),
        (
            [("test", "cat", "blue"), ("val", "cat", "blue")],
            1,
            "kind and hue: pairs of labels in val or test that never meet in train: 1 "
            "(cat + blue), pictures with them: 2.",
        ),
    ],
)
def test_warnings_of_made_pictures(small_config, tmp_path, more, few, warning):
    make_pictures(tmp_path, CLEAN + more)
    small_config.data.manifest = str(tmp_path / "labels.csv")
    data = open_data(small_config)
    splits = {name: read_split(data, name) for name in ("train", "val", "test")}
    problems = find_problems(splits, data.kinds, few)
    if warning is None:
        assert problems == []
    elif few == 1:
        (problem,) = problems
        assert problem.startswith(warning)
        assert problem.endswith(".")
        assert "\n" not in problem
    else:
        assert problems[0].startswith(warning)


def test_warnings_of_names_that_may_not_be_meant_as_classes(
    small_config, tmp_path, capsys
):
    rows = [("train", kind, "red") for kind in ("NA", "Gemüse", "gemüse ", "NA")]
    rows += [("train", "NA", hue) for hue in ("dark red", "dark-red")]
    make_pictures(tmp_path, [*CLEAN, *rows, ("train", "None so far", "dark  red")])
    small_config.data.manifest = str(tmp_path / "labels.csv")
    inspect(small_config, tmp_path / "out")
    printed = capsys.readouterr().out
    assert (
        "warning: kind: 'NA' is read as a class, with 4 pictures. If it stands for a "
        "missing label, leave these cells empty.\n"
        "warning: kind: classes whose names differ only in capitals, spaces or the "
        "encoding of accents: 'Gemüse' = 'gemüse'. If they are the same, write them "
        "alike.\n"
        "warning: hue: classes whose names differ only in capitals, spaces or the "
        "encoding of accents: 'dark  red' = 'dark red'. If" in printed
    )


def made_split(kinds, first_picture):
    """Examples with these kinds, all red, whose pictures are numbered from there."""
    pictures = np.arange(first_picture, first_picture + len(kinds), dtype=np.uint64)
    labels = {"kind": np.array(kinds), "hue": np.zeros(len(kinds), np.int64)}
    return SplitLabels(labels, pictures, list(map(str, pictures)))


def test_classes_that_never_occur_or_not_in_train():
    """The owl has no picture at all, the dog none in train; hue is never blue."""
    splits = {"train": made_split([0, 0, 0], 0), "test": made_split([0, 1], 10)}
    starts = [problem.partition(". ")[0] for problem in find_problems(splits, KINDS, 1)]
    assert starts == [
        "kind: classes that never occur: 1 of 3 (owl)",
        "kind: classes without training pictures: 1 of 3 (dog)",
        "hue: classes that never occur: 1 of 2 (blue)",
        "kind and hue: pairs of labels in test that never meet in train: 1 (dog + "
        "red), pictures with them: 1",
    ]


def test_train_alone_can_be_checked():
    assert (
        find_problems(
            {"train": made_split([0, 1, 2], 0)}, {"kind": Categorical(tuple("abc"))}, 1
        )
        == []
    )


def test_labels_of_a_part_of_a_split_in_order(small_config):
    data = open_data(small_config)
    whole, part = read_split(data, "train"), read_split(data, "train[3:9]")
    assert part.files == whole.files[3:9]
    assert len(set(whole.pictures.tolist())) == 14
    np.testing.assert_array_equal(part.pictures, whole.pictures[3:9])
    for task in ("hue", "number"):
        np.testing.assert_array_equal(part.labels[task], whole.labels[task][3:9])


def test_pictures_without_a_file_name_are_numbered(small_config):
    data = open_data(small_config)
    labels = read_split(dataclasses.replace(data, file=None), "val")
    assert labels.files == ["0", "1", "2", "3", "4"]
    expected = read_labels(data, "val")["hue"]
    np.testing.assert_array_equal(labels.labels["hue"], expected)


# Pictures.


def test_cells_of_a_grid_show_zero_apart_from_every_count():
    counts = np.array([[0, 1, 2, 5], [10, 100, 1000, 0]])
    side = inspect_pictures.cell_side(counts.shape)
    cells = np.asarray(inspect_pictures.draw_cells(counts))
    assert cells.shape == (2 * side, 4 * side, 3)
    corners = cells[2::side, 2::side].astype(int)  # the middle may hold a number
    is_zero = (corners == inspect_pictures.ZERO).all(axis=-1)
    np.testing.assert_array_equal(is_zero, counts == 0)
    distances = np.abs(corners - inspect_pictures.ZERO).max(axis=-1)
    assert distances[counts > 0].min() > 100
    lightness = corners.mean(axis=-1)[counts > 0]
    assert (np.diff(lightness[np.argsort(counts[counts > 0])]) < 0).all()


@pytest.mark.parametrize("shape", [(2, 3), (3, 2), (40, 3), (200, 150)])
def test_grid_has_the_longer_list_downwards(shape):
    counts = np.random.default_rng(0).integers(0, 3, shape)
    names = [[f"name {i}" * 9 for i in range(n)] for n in shape]
    classes = {"a": names[0], "b": names[1]}
    picture = np.asarray(inspect_pictures.draw_grid(counts, classes))
    cells = counts if shape[0] >= shape[1] else counts.T
    cells = np.asarray(inspect_pictures.draw_cells(cells))
    height, width = cells.shape[:2]
    rows = picture[-inspect_pictures.MARGIN - height : -inspect_pictures.MARGIN]
    places = [
        x
        for x in range(rows.shape[1] - width + 1)
        if np.array_equal(rows[:, x : x + width], cells)
    ]
    assert len(places) == 1
    assert (picture[0] == 255).all()  # a light background
    assert max(picture.shape) < 2400


@pytest.mark.parametrize("top", [0, 1, 9, 10, 12, 1000, 123_456])
def test_a_scale_goes_from_none_to_any_count(top):
    counts = np.array([[0, top], [0, 0]])
    picture = np.asarray(inspect_pictures.draw_grid(counts, {"a": "xy", "b": "xy"}))
    margin, line = inspect_pictures.MARGIN, inspect_pictures.LINE
    scale = picture[margin + 2 * line].astype(int)
    coloured = np.flatnonzero((scale != 255).any(axis=-1))
    zero, bar = np.split(coloured, [line + 1])
    assert (scale[zero] == inspect_pictures.ZERO).all()
    if top == 0:
        assert bar.size == 0
        return
    cells = np.asarray(inspect_pictures.draw_cells(counts))
    most = cells[2, inspect_pictures.cell_side(counts.shape) + 2]
    np.testing.assert_array_equal(scale[bar[-1]], most)
    lightness = scale[bar].mean(axis=-1)
    assert (np.diff(lightness) < 1).all()
    assert (lightness[0] > lightness[-1]) == (top > 1)
    beneath = picture[margin + 3 * line : margin + 4 * line]
    named = beneath[:, bar[-1 if top > 1 else 0] - 4 :][:, :8]
    assert named.min() < 150  # the count that the colour is of


def test_page_shows_what_the_stream_gives(small_config, tmp_path):
    inspect(small_config, tmp_path)
    page = np.asarray(Image.open(tmp_path / "examples.png"))
    batches = stream.train_batches(open_data(small_config), small_config, 0)
    images = np.concatenate([next(batches)["image"] for _ in range(5)])[:36]
    scale = 10  # 16 px are too small to look at
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    margin, line, gap = (
        inspect_pictures.MARGIN,
        inspect_pictures.LINE,
        inspect_pictures.GAP,
    )
    row = 160 + 6 + 2 * line + gap  # two tasks
    assert page.shape[1] == 2 * margin + 6 * 160 + 5 * gap
    assert page.shape[0] == 2 * margin + 2 * line + 6 * row - gap
    for i, image in enumerate(images):
        y, x = margin + 2 * line + i // 6 * row, margin + i % 6 * (160 + gap)
        np.testing.assert_array_equal(page[y : y + 160, x : x + 160], image)
        beneath = page[y + 160 : y + row - gap, x : x + 160]
        assert beneath.min() < 150  # its labels


def test_long_and_missing_labels_stay_beneath_their_picture():
    images = np.zeros((2, 200, 200, 3), np.uint8)
    kinds = {"kind": Categorical(("W" * 100, "i"))}
    labels = {"kind": np.array([0, -1])}
    page = inspect_pictures.draw_page(images, labels, kinds, "title " * 100)
    text = np.asarray(page)[-inspect_pictures.MARGIN - inspect_pictures.LINE :]
    dark = np.flatnonzero((text < 200).any(axis=(0, 2)))
    margin, gap = inspect_pictures.MARGIN, inspect_pictures.GAP
    assert margin <= dark.min()
    between = (dark > margin + 200) & (dark < margin + 200 + gap)
    assert not between.any()
    assert dark.max() > margin + 200 + gap + 20  # "no kind", not "i"
