"""Prediction: the numbers of evaluation, for any picture, whatever is asked for."""

import contextlib
import csv
import dataclasses
import gc
import io
import json
import math
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import weakref
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import crl_jax
from crl_jax import evaluation, predict, workdir
from crl_jax.data import labels, pictures, preprocess, source, unlabelled
from crl_jax.errors import UserError
from crl_jax.inference.prediction import Prediction
from crl_jax.inference.prediction_formats import FORMATS
from crl_jax.kinds import Categorical

PROJECT = Path(__file__).parents[1]
HUES = Categorical(("dark as night", "light"))


@pytest.fixture(scope="module")
def predictor(trained):
    return crl_jax.load(trained[0])


@pytest.fixture(scope="module")
def folder(trained):
    return Path(workdir.read(trained[0]).config.data.manifest).parent


def run_predict(monkeypatch, capsys, *arguments):
    """Returns the exit status and what is printed."""
    monkeypatch.setattr("sys.argv", ["predict", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        predict.main()
    return end.value.code, capsys.readouterr().out


def test_probabilities_are_those_of_evaluate(predictor, trained, folder, tmp_path):
    evaluation.evaluate(trained[0], "test", predictions=tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    predictions = predictor([folder / row["file"] for row in rows], batch_size=3)
    assert [p.file for p in predictions] == [str(folder / r["file"]) for r in rows]
    for prediction, row in zip(predictions, rows, strict=True):
        for task in predictor.classes:
            (label, probability), *_ = prediction.top(task)
            assert label == row[f"{task}_predicted"]
            assert f"{probability:.4f}" == row[f"{task}_probability"]


def test_loading_a_network_logs_nothing(trained, caplog):
    crl_jax.load(trained[0])
    assert caplog.records == []


def test_a_picture_is_a_path_bytes_or_an_array_alone_or_in_a_list(predictor, folder):
    path = folder / "20.png"
    with Image.open(path) as image:
        image.load()
    pixels = np.asarray(image)
    (expected,) = predictor(path)
    for images in (
        str(path),
        path.read_bytes(),
        pixels,
        image,
        [path],
        (pixels,),
        np.stack([pixels] * 9),
        [image, np.pad(pixels, ((0, 0), (0, 0), (0, 0)))],
    ):
        for prediction in predictor(images):
            for task, probabilities in expected.probabilities.items():
                np.testing.assert_allclose(
                    prediction.probabilities[task], probabilities, atol=1e-6
                )
    assert predictor([]) == []
    with path.open("rb") as file, pytest.raises(UserError, match="the bytes of a file"):
        predictor(file)


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((28, 28), np.uint8),
        Image.new("L", (28, 28)),
        Image.new("RGBA", (28, 28)),
        3,
    ],
)
def test_what_is_no_picture_is_answered(predictor, picture):
    shape = re.escape(str(list(np.shape(picture))))
    for images in (picture, [picture]):
        with pytest.raises(UserError, match=rf"A picture (is \w+ {shape}|has no)"):
            predictor(images)


def test_a_broken_picture_is_refused_while_the_rest_goes_on(predictor, folder):
    items = [folder / "20.png", b"broken", folder / "gone.png", folder / "21.png", b""]
    predictions = predictor(items, batch_size=2)
    assert [p.error is None for p in predictions] == [True, False, False, True, False]
    assert "is not a whole JPEG" in predictions[1].error
    assert "No such file" in predictions[2].error
    assert predictions[2].probabilities == {}
    with pytest.raises(UserError, match="The picture was refused: .*No such file"):
        predictions[2].top("hue")
    (alone,) = predictor(folder / "21.png")
    np.testing.assert_allclose(
        predictions[3].probabilities["hue"], alone.probabilities["hue"], atol=1e-6
    )


def test_a_picture_that_only_pillow_can_read_is_refused(predictor, folder):
    def chunk(content):
        checksum = zlib.crc32(content)
        return (
            struct.pack(">I", len(content) - 4) + content + struct.pack(">I", checksum)
        )

    pixels = zlib.compress(bytes(8 * 25))[:-4]  # without the checksum at its end
    header = b"IHDR" + struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    chunks = b"".join(map(chunk, (header, b"IDAT" + pixels, b"IEND")))
    png = b"\x89PNG\r\n\x1a\n" + chunks
    assert Image.open(io.BytesIO(png)).convert("RGB").getpixel((7, 7)) == (0, 0, 0)
    refused, whole = predictor([png, folder / "20.png"])
    assert refused.error == "cannot be decoded"
    assert whole.error is None


def test_pictures_are_cut_as_in_evaluation_and_in_their_order(folder, new_config):
    data = new_config().data
    with Image.open(folder / "20.png") as image:
        pixels = np.asarray(image.resize((90, 70)))
        image.save(as_bitmap := io.BytesIO(), "BMP")
    items = [*sorted(folder.glob("*.png")), as_bitmap.getvalue(), pixels, b"broken"]
    found = list(unlabelled.batches(items, data, 8))
    assert [len(batch["image"]) for batch in found] == [8, 8, 8, 5]
    images = np.concatenate([batch["image"] for batch in found])
    as_files = [path.read_bytes() for path in items[:-3]]
    as_files += [items[-3], unlabelled.tf.io.encode_png(pixels)]
    for cut, content in zip(images, as_files, strict=False):
        np.testing.assert_array_equal(cut, preprocess.eval_image(content, data))
    errors = [error for batch in found for error in batch["error"]]
    assert [bool(error) for error in errors] == [False] * 28 + [True]


@pytest.mark.parametrize("shape", [(90, 70), (30, 400), (29, 40)])
def test_an_array_is_scaled_as_its_file_is(new_config, shape):
    """To the size of the pictures in the shards, before the network's own crop."""
    data = new_config().data
    data.resize = 30
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
    (batch,) = unlabelled.batches([file.getvalue(), pixels], data, 2)
    np.testing.assert_array_equal(*batch["image"])


def test_pictures_are_read_only_a_few_batches_ahead(folder, new_config, monkeypatch):
    encode, begun = pictures.encode, []

    def noted(picture, *others):
        begun.append(picture)
        return encode(picture, *others)

    monkeypatch.setattr(pictures, "encode", noted)
    found = unlabelled.batches([folder / "20.png"] * 100, new_config().data, 2)
    for taken in range(1, 4):
        next(found)
        assert len(begun) <= 2 * taken + 6
    found.close()
    assert len(begun) <= 12


def test_a_picture_does_not_outlive_its_prediction(predictor):
    picture = np.zeros((20, 24, 3), np.uint8)
    gone = weakref.ref(picture)
    predictor(picture)
    del picture
    gc.collect()
    assert gone() is None


def test_real_photographs_are_answered_or_refused(predictor, shared_data):
    paths = unlabelled.find([shared_data / "bad_images"])
    predictions = predictor(paths)
    refused = {p.file for p in predictions if p.error}
    assert str(shared_data / "bad_images" / "empty.jpg") in refused
    assert len(refused) < len(paths) / 2
    for prediction in predictions:
        for probabilities in prediction.probabilities.values():
            assert math.isclose(probabilities.sum(), 1, rel_tol=1e-5)


def test_the_joint_answer_is_the_best_combination_of_a_plain_loop(predictor, folder):
    seen = set()
    with (folder / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["split"] == "train" and row["hue"] and row["number"]:
                seen.add((row["hue"], row["number"]))
    names = predictor.classes
    for prediction in predictor(unlabelled.find([folder])):
        hue, number = (prediction.probabilities[task] for task in ("hue", "number"))
        products = {
            (h, n): hue[names["hue"].index(h)] * number[names["number"].index(n)]
            for h, n in seen
        }
        best = max(products, key=products.__getitem__)
        assert tuple(prediction.joint.labels.values()) == best
        expected = products[best] / sum(products.values())
        assert prediction.joint.probability == pytest.approx(expected, rel=1e-4)


def test_a_run_without_combinations_has_no_joint_answer(trained, folder, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    (tmp_path / "run" / "combinations.json").unlink()
    (prediction,) = crl_jax.load(tmp_path / "run")(folder / "20.png")
    assert prediction.joint is None


def test_combinations_of_a_manifest_are_those_of_its_shards(new_config):
    config = new_config()
    data = source.open_source(config)
    found = labels.combinations(data, "train")
    columns = labels.read_labels(data, "train")
    rows = zip(*(columns[task].tolist() for task in data.classes), strict=True)
    assert set(map(tuple, found.tolist())) == {r for r in rows if min(r) >= 0}
    np.testing.assert_array_equal(found, labels.combinations(data, "train[:50%]"))
    everywhere = {tuple(row) for row in labels.combinations(data, "all").tolist()}
    rows = zip(*data.manifest.labels.values(), strict=True)
    assert everywhere == {r for r in rows if min(r) >= 0}


def test_folders_are_searched_and_files_are_tried(tmp_path):
    for name in ("b/2.JPG", "a.png", "b/.hidden.png", ".c/3.png", "notes.txt"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    inside = tmp_path / "in"
    found = unlabelled.find([inside, inside / "notes.txt"])
    assert found == [inside / "a.png", inside / "b" / "2.JPG", inside / "notes.txt"]
    with pytest.raises(UserError, match="empty has no pictures"):
        unlabelled.find([tmp_path / "empty"])


def test_a_name_that_cannot_be_looked_up_is_refused_while_the_rest_goes_on(
    predictor, folder
):
    long = folder / (300 * "a")
    first, second = predictor(unlabelled.find([long, folder / "20.png"]))
    assert "too long" in first.error
    assert second.error is None


def test_links_to_folders_are_followed_and_each_is_searched_once(tmp_path):
    inside, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    for path in (inside / "b" / "1.png", elsewhere / "deep" / "2.png"):
        path.parent.mkdir(parents=True)
        path.touch()
    (inside / "a").symlink_to("b")
    (inside / "b" / "back").symlink_to(inside)
    (inside / "b" / "out").symlink_to(elsewhere)
    (inside / "c").symlink_to(elsewhere / "deep")
    (inside / "gone").symlink_to(tmp_path / "nowhere")
    found = unlabelled.find([inside])
    assert found == [inside / "b" / "1.png", inside / "c" / "2.png"]


def test_json_and_jsonl_say_the_same(trained, folder, monkeypatch, capsys, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"broken")
    pictures = (folder / "20.png", tmp_path / "broken.png")
    flags = (f"--workdir={trained[0]}", "--top=2", *pictures)
    status, text = run_predict(monkeypatch, capsys, *flags, "--format=json")
    assert status == 1
    good, bad = json.loads(text)
    assert list(good["tasks"]) == list(crl_jax.load(trained[0]).classes)
    assert [len(ranked) for ranked in good["tasks"].values()] == [2, 2]
    first, second = good["tasks"]["number"]
    assert first["probability"] >= second["probability"]
    assert set(good["joint"]["labels"]) == {"hue", "number"}
    assert bad["file"].endswith("broken.png")
    assert "not a whole" in bad["error"]
    _, text = run_predict(monkeypatch, capsys, *flags, "--format=jsonl")
    assert [json.loads(line) for line in text.splitlines()] == [good, bad]


def test_a_file_name_that_is_no_text_is_printed(
    trained, folder, monkeypatch, capsys, tmp_path
):
    odd = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(odd, "wb") as file:
        file.write((folder / "20.png").read_bytes())
    flags = (f"--workdir={trained[0]}", "--format=jsonl", tmp_path)
    status, text = run_predict(monkeypatch, capsys, *flags)
    assert status == 0
    assert json.loads(text)["file"] == f"{tmp_path}/caf\ufffd.png"


def test_csv_has_a_row_a_picture(predictor, folder):
    out = io.StringIO()
    predictions = predictor([folder / "20.png", b"broken"])
    FORMATS["csv"](predictions, predictor.kinds, 3, out)
    good, bad = csv.DictReader(io.StringIO(out.getvalue()))
    assert {"hue_1", "hue_2", "number_3", "joint_hue"} <= set(good)
    assert "hue_3" not in good  # which has two classes
    assert good["number_2"] == predictions[0].top("number")[1][0]
    assert bad["error"].startswith("is not a whole")
    assert bad["hue_1"] == bad["joint_probability"] == ""


def test_table_names_pictures_labels_and_refusals(trained, folder, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    arguments = (f"--workdir={trained[0]}", folder / "20.png", "gone[1].png")
    status, text = run_predict(monkeypatch, capsys, *arguments)
    assert status == 1
    assert max(map(len, text.splitlines())) <= 80
    for words in ("20.png", "dark", "light", "all tasks", "gone[1].png", "refused:"):
        assert words in text


@pytest.mark.parametrize(("width", "beside"), [(61, True), (60, False)])
def test_tasks_stand_below_one_another_if_they_do_not_fit_beside(
    monkeypatch, width, beside
):
    """Nothing is folded or cut, at any width."""
    monkeypatch.setenv("COLUMNS", str(width))
    kinds = {
        "a_long_name": Categorical(("a label of thirty-two characters", "b")),
        "hue": HUES,
    }
    answers = {task: np.float32([0.75, 0.25]) for task in kinds}
    table = io.StringIO()
    FORMATS["table"]([Prediction("1.png", kinds, answers)], kinds, 2, table)
    _, _, file, *lines = map(str.rstrip, table.getvalue().splitlines())
    assert file == "1.png"
    if beside:
        assert lines == [
            "  a_long_name                             hue",
            "   75.0 a label of thirty-two characters   75.0 dark as night",
            "   25.0 b                                  25.0 light",
        ]
    else:
        assert lines == [
            "  a_long_name",
            "     75.0 a label of thirty-two characters",
            "     25.0 b",
            "  hue",
            "     75.0 dark as night",
            "     25.0 light",
        ]


def test_what_a_file_is_called_does_not_steer_the_terminal(predictor):
    name, table, rows = "a\x1b[2J\r.png", io.StringIO(), io.StringIO()
    (prediction,) = predictor(b"broken")
    refused = dataclasses.replace(prediction, file=name)
    FORMATS["table"]([refused], predictor.kinds, 1, table)
    assert "a\ufffd[2J\ufffd.png" in table.getvalue()
    assert "\x1b" not in table.getvalue()
    FORMATS["jsonl"]([refused], predictor.kinds, 1, rows)
    assert json.loads(rows.getvalue())["file"] == name


def test_a_picture_comes_from_the_standard_input(trained, folder):
    command = [sys.executable, "-m", "crl_jax.predict", f"--workdir={trained[0]}"]
    done = subprocess.run(
        [*command, "-", "--format=jsonl"],
        input=(folder / "20.png").read_bytes(),
        capture_output=True,
        cwd=Path(__file__).parents[1],
        check=True,
    )
    (prediction,) = crl_jax.load(trained[0])(folder / "20.png")
    answer = json.loads(done.stdout)
    assert answer["file"] == "-"
    label, probability = prediction.top("hue")[0]
    assert answer["tasks"]["hue"][0]["label"] == label
    assert answer["tasks"]["hue"][0]["probability"] == pytest.approx(probability, 1e-5)
    assert done.stderr == b""


def test_mistakes_are_answered(trained, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="holds no run"):
        crl_jax.load(tmp_path)
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(UserError, match="predicted by one process"):
        crl_jax.load(trained[0])


def test_a_name_that_begins_with_a_tilde_need_not_be_of_a_user(
    trained, folder, monkeypatch, capsys, tmp_path
):
    shutil.copy(folder / "20.png", tmp_path / "~nobody's.png")
    run = tmp_path / "~nobody's run"
    run.symlink_to(trained[0])
    monkeypatch.chdir(tmp_path)
    flags = (f"--workdir={run.name}", "--format=jsonl", "~nobody's.png")
    status, text = run_predict(monkeypatch, capsys, *flags)
    assert (status, json.loads(text)["file"]) == (0, "~nobody's.png")


def test_importing_the_package_does_not_import_jax():
    code = "import sys, crl_jax; assert not {'jax', 'tensorflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_compilation_serves_a_whole_folder(predictor, folder):
    paths = unlabelled.find([folder])
    predictor(paths, batch_size=8)
    before = predictor.trained.eval_step._cache_size()
    predictor(paths, batch_size=8)
    predictor(paths[:11], batch_size=8)
    assert predictor.trained.eval_step._cache_size() == before


def test_few_sizes_are_compiled_for_few_pictures(predictor, folder, monkeypatch):
    paths = unlabelled.find([folder])
    whole = predictor(paths, batch_size=26)
    sizes = set()
    probabilities = predictor.probabilities

    def noted(images, size):
        sizes.add(size)
        return probabilities(images, size)

    monkeypatch.setattr(predictor, "probabilities", noted)
    for count in range(1, len(paths) + 1):
        found = predictor(paths[:count], batch_size=26)
        assert [prediction.file for prediction in found] == list(
            map(str, paths[:count])
        )
        for prediction, expected in zip(found, whole, strict=False):
            for task, answer in prediction.probabilities.items():
                np.testing.assert_allclose(
                    answer, expected.probabilities[task], atol=1e-6
                )
    assert sizes == {1, 2, 4, 8, 16, 26}


def on_a_terminal(trained, folder, tmp_path, stdout=None):
    """Predicts 26 pictures and a broken one; returns what a terminal was sent."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"broken")
    code = "from crl_jax import cli, predict; cli.run(predict.main)"
    flags = [f"--workdir={trained[0]}", "--format=csv", "--batch_size=8"]
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", code, *flags, str(folder), str(broken)],
        env=os.environ | {"COLUMNS": "80", "TERM": "xterm", "PYTHONPATH": str(PROJECT)},
        stdout=theirs if stdout is None else stdout,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # which says that the other end is closed
            while part := os.read(ours, 4096):
                shown += part
    os.close(ours)
    assert process.returncode == 1
    return shown.decode("utf-8")


def check_rows(text):
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [Path(row["file"]).suffix for row in rows] == [".png"] * 27
    assert [bool(row["error"]) for row in rows] == [False] * 26 + [True]
    assert "\x1b" not in text


def test_no_bar_is_drawn_over_what_a_terminal_shows(trained, folder, tmp_path):
    check_rows(on_a_terminal(trained, folder, tmp_path))


def test_a_bar_goes_on_by_whole_batches_while_a_file_is_written(
    trained, folder, tmp_path
):
    with (tmp_path / "rows.csv").open("w") as file:
        bar = on_a_terminal(trained, folder, tmp_path, file)
    check_rows((tmp_path / "rows.csv").read_text())
    counts = re.findall(r"(\d+)/27", bar)  # as often as it was drawn
    assert set(counts) <= {"0", "8", "16", "24"}
    assert counts[-1] == "24"
