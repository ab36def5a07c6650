"""Evaluation of a trained run: each example once, on the data it was trained on."""

import contextlib
import csv
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import crl_jax
from crl_jax import devices, evaluation, workdir
from crl_jax import trained as trained_lib
from crl_jax.data import preprocess
from crl_jax.data.quiet import tf
from crl_jax.errors import UserError
from crl_jax.reports import page
from crl_jax.reports.run_page import overview
from crl_jax.train import train


@pytest.mark.parametrize("batch_size", [None, 1, 3, 16, 48])
def test_evaluate_gives_the_same_numbers_whatever_the_batch(trained, batch_size):
    directory, expected = trained
    result = evaluation.evaluate(directory, "test", batch_size=batch_size)
    for task, values in expected.items():
        for name, value in values.items():
            np.testing.assert_allclose(result[task][name], value, rtol=1e-5)


@pytest.mark.parametrize("split", ["train", "test"])
def test_evaluate_equals_a_plain_loop_over_the_pictures(trained, split):
    """14 and 7 pictures: no batch of eight divides them, and one needs two batches."""
    directory, _ = trained
    result = evaluation.evaluate(directory, split, batch_size=8)
    network = trained_lib.load(directory, devices.make_mesh())
    apply, classes = jax.jit(network.network.apply), network.run.classes

    manifest = Path(network.run.config.data.manifest)
    with manifest.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    right: dict[str, list[bool | None]] = {task: [] for task in classes}
    for row in rows:
        encoded = tf.constant((manifest.parent / row["file"]).read_bytes())
        image = preprocess.eval_image(encoded, network.run.config.data)
        logits = apply(network.variables, image.numpy()[None])
        for task, names in classes.items():
            guess = names[int(np.argmax(logits[task]))]
            right[task].append(guess == row[task] if row[task] else None)
    for task in classes:
        known = [r for r in right[task] if r is not None]
        assert result[task]["count"] == len(known)
        assert result[task]["top1"] == pytest.approx(np.mean(known))
    both = [all(p) for p in zip(*right.values(), strict=True) if None not in p]
    assert result["joint"]["count"] == len(both)
    assert result["joint"]["top1"] == pytest.approx(np.mean(both))


def test_the_split_is_that_which_training_reported_unless_another_is_said(
    trained, tmp_path, capsys
):
    """Of data without a part of its own to test on, the rest was trained with."""
    directory = tmp_path / "run"
    shutil.copytree(trained[0], directory)
    path = directory / "config.json"
    config = json.loads(path.read_text())
    for test_split, expected, count in (
        ("test[50%:]", "test[50%:]", 3),
        ("", "val", 5),
    ):
        config["data"]["test_split"] = test_split
        path.write_text(json.dumps(config))
        result = evaluation.evaluate(str(directory))
        assert result["hue"]["count"] == count
        assert f"split {expected}," in capsys.readouterr().out


def test_it_is_shown_how_far_an_evaluation_is(trained, monkeypatch):
    told = []

    @contextlib.contextmanager
    def bar(what, count):
        told.append((what, count))
        yield told.append

    monkeypatch.setattr(evaluation, "progress_bar", bar)
    evaluation.evaluate(trained[0], "train", batch_size=8)
    assert told == [("pictures", 14), 8, 6]


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_predictions_file_has_a_row_a_picture(trained, tmp_path):
    directory, _ = trained
    evaluation.evaluate(directory, "train", predictions=tmp_path / "p.csv")
    rows = read_rows(tmp_path / "p.csv")
    assert sorted(row["file"] for row in rows) == [f"{i:02}.png" for i in range(14)]
    assert {row["file"]: row["number"] for row in rows}["01.png"] == ""
    for row in rows:
        assert row["hue"] in ("dark", "light")
        assert row["hue_predicted"] in ("dark", "light")
        assert 0.5 <= float(row["hue_probability"]) <= 1


def test_a_mistake_or_an_accident_leaves_earlier_predictions_alone(
    trained, tmp_path, monkeypatch
):
    directory, _ = trained
    file = tmp_path / "p.csv"
    file.write_text("earlier")
    with pytest.raises(UserError, match="no split 'dev'"):
        evaluation.evaluate(directory, "dev", predictions=file)
    monkeypatch.setattr(evaluation.PredictionRows, "write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluation.evaluate(directory, "test", predictions=file)
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]
    assert file.read_text() == "earlier"


def copy_data(directory, folder, name):
    """Copies the pictures of a run and its manifest, under another name."""
    manifest = Path(workdir.read(directory).config.data.manifest)
    folder.mkdir()
    for picture in manifest.parent.glob("*.png"):
        shutil.copy(picture, folder)
    shutil.copy(manifest, folder / name)
    return folder / name


def test_data_that_was_moved_or_renamed_is_the_same_data(trained, tmp_path):
    directory, expected = trained
    manifest = copy_data(directory, tmp_path / "moved", "renamed.csv")
    result = evaluation.evaluate(
        directory, "test", manifest=manifest, data_dir=tmp_path / "shards"
    )
    assert result["hue"]["top1"] == expected["hue"]["top1"]
    assert (tmp_path / "shards" / "manifest").is_dir()


def test_a_list_may_be_a_link(solid_pictures, new_config, tmp_path):
    """As of DVC or git-annex: the pictures lie beside the link, not beside its end."""
    (tmp_path / "store").mkdir()
    shutil.copytree(solid_pictures.parent, tmp_path / "pictures")
    manifest = tmp_path / "pictures" / "labels.csv"
    manifest.rename(tmp_path / "store" / "a1b2.csv")
    manifest.symlink_to(tmp_path / "store" / "a1b2.csv")
    config = new_config()
    config.data.manifest = str(manifest)
    config.data.dir = str(tmp_path / "shards")
    config.train.steps = 1
    expected = train(config, tmp_path / "run")
    assert evaluation.evaluate(tmp_path / "run", "test") == expected


def test_edited_data_is_not_what_was_trained_on(trained, tmp_path):
    directory, _ = trained
    manifest = copy_data(directory, tmp_path / "edited", "labels.csv")
    manifest.write_text(manifest.read_text().replace("20.png,test", "20.png,train"))
    with pytest.raises(UserError, match="holds a run on different data"):
        evaluation.evaluate(directory, "test", manifest=manifest)


def test_data_that_is_gone_is_named(trained, tmp_path):
    directory, _ = trained
    with pytest.raises(UserError, match=r"gone.csv is not there: say where it is"):
        evaluation.evaluate(directory, "test", manifest=tmp_path / "gone.csv")


def test_other_classes_than_were_trained_are_refused(trained, tmp_path):
    directory, _ = trained
    shutil.copytree(directory, tmp_path / "run")
    path = tmp_path / "run" / "classes.json"
    swapped = json.loads(path.read_text())
    swapped["hue"].reverse()
    path.write_text(json.dumps(swapped))
    with pytest.raises(UserError, match=r"run whose classes of task 'hue' differ"):
        evaluation.evaluate(tmp_path / "run", "test")


def other_list(directory, folder, rows):
    """Writes `other.csv` beside copies of the run's pictures."""
    path = copy_data(directory, folder, "other.csv")
    path.write_text("\n".join(["file,split,light,number", *rows]))
    return path


def test_another_list_is_judged_by_the_names_of_its_labels(trained, tmp_path, capsys):
    """It has fewer classes, in another order, and a task less, and one more."""
    directory, _ = trained
    labels = {
        "05.png": "n6",
        "03.png": "n2",
        "20.png": "n6",
        "21.png": "",
        "24.png": "n3",
    }
    rows = [f"{f},{'val' if f < '1' else 'test'},x,{n}" for f, n in labels.items()]
    path = other_list(directory, tmp_path / "other", rows)
    arguments = {"on": path, "data_dir": tmp_path / "shards"}
    predictions = tmp_path / "p.csv"
    result = evaluation.evaluate(directory, predictions=predictions, **arguments)
    assert "split val+test of other.csv" in capsys.readouterr().out

    known = [file for file, label in labels.items() if label]
    answers = crl_jax.load(directory)([path.parent / file for file in known])
    right = [
        a.top("number")[0][0] == labels[f] for a, f in zip(answers, known, strict=True)
    ]
    assert result["number"]["count"] == len(known)
    assert result["number"]["top1"] == np.mean(right)
    assert {row["file"]: row["number"] for row in read_rows(predictions)} == labels
    assert result["hue"]["count"] == result["joint"]["count"] == 0
    part = evaluation.evaluate(directory, "test", **arguments)
    assert part["number"]["count"] == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            ["01.png,test,x,n2", "02.png,test,x,N3"],
            r"row 3 has 'N3' \(did you mean 'n3'\?\): write",
        ),
        (
            ["01.png,test,x,n2", "02.png,tset,x,n3"],
            r"row 3 has 'tset' \(did you mean test\?\)",
        ),
        (["gone.png,test,x,n2"], r"row 2 has 'gone.png'"),
    ],
)
def test_a_mistake_in_another_list_is_named(trained, tmp_path, rows, message):
    path = other_list(trained[0], tmp_path / "other", rows)
    with pytest.raises(UserError, match=rf"other.csv: .*{message}"):
        evaluation.evaluate(trained[0], on=path)


def test_another_list_must_be_there_and_have_a_task_of_the_run(trained, tmp_path):
    path = other_list(trained[0], tmp_path / "other", ["01.png,test,x,n2"])
    path.write_text(path.read_text().replace("number", "Number"))
    with pytest.raises(UserError, match=r"no column is one of .*: hue, number. Use"):
        evaluation.evaluate(trained[0], on=path)
    with pytest.raises(UserError, match=r"gone.csv: No such file"):
        evaluation.evaluate(trained[0], on=tmp_path / "gone.csv")


def test_a_run_that_was_stopped_is_called_unfinished(trained, tmp_path, capsys):
    directory = tmp_path / "run"
    shutil.copytree(trained[0], directory)
    for title in ("checkpoint of step 6", "checkpoint of step 6 of an unfinished run"):
        result = evaluation.evaluate(directory)
        said, _, _ = capsys.readouterr().out.partition("┏")
        assert " ".join(said.split()) == f"Accuracy in percent, split test, {title}"
        _, text, _ = overview("run", evaluation.prepare(directory), result)
        assert page.to_text(text).endswith(f", {title}.</p>")
        (directory / "result.json").unlink(missing_ok=True)


def test_evaluate_answers_mistakes(trained, tmp_path, monkeypatch):
    directory, _ = trained
    with pytest.raises(UserError, match=r"no split 'dev'; it has train, .*90%:\]\.$"):
        evaluation.evaluate(directory, "dev")
    with pytest.raises(UserError, match=r"predictions=.*written: it is a folder"):
        evaluation.evaluate(directory, "test", predictions=tmp_path)
    with pytest.raises(UserError, match=r"holds no run.*train one with"):
        evaluation.evaluate(tmp_path, "test")
    shutil.copytree(directory, tmp_path / "r", ignore=lambda *_: ["checkpoints"])
    with pytest.raises(UserError, match=r"has no checkpoint yet"):
        evaluation.evaluate(tmp_path / "r", "test")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match=r"of predictions is written by one process"):
        evaluation.evaluate(directory, predictions=str(tmp_path / "p.csv"))


@pytest.mark.parametrize("size", ["-8", "0", "x", ""])
def test_a_batch_size_that_is_none_is_answered_by_its_flag(
    size, monkeypatch, capsys, tmp_path
):
    from crl_jax import evaluate

    arguments = [f"--workdir={tmp_path}", f"--batch_size={size}"]
    monkeypatch.setattr("sys.argv", ["evaluate", *arguments])
    with pytest.raises(SystemExit, match="2"):
        evaluate.main()
    assert "--batch_size" in capsys.readouterr().err
