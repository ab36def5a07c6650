"""Whole runs: training, resuming, evaluating, and what a workdir refuses."""

import csv
import json
import re
from pathlib import Path

import jax
import launched
import numpy as np
import pytest

from crl_jax import config as config_lib
from crl_jax import config_check, devices, optim, run_files, step, stopping, workdir
from crl_jax.checkpoints import Checkpoints
from crl_jax.data.quiet import tfds
from crl_jax.errors import Stopped, UserError
from crl_jax.schedule import Schedule
from crl_jax.train import train


class TwoLevels(tfds.core.GeneratorBasedBuilder):
    """Random pictures with the features of CIFAR-100."""

    name = "two_levels"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(32, 32, 3)),
                    "label": tfds.features.ClassLabel(num_classes=100),
                    "coarse_label": tfds.features.ClassLabel(num_classes=20),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(40),
            "test": self._generate_examples(9),
        }

    def _generate_examples(self, count):
        rng = np.random.default_rng(count)
        for i in range(count):
            yield (
                i,
                {
                    "id": str(i),
                    "image": rng.integers(0, 256, (32, 32, 3), np.uint8),
                    "label": i % 100,
                    "coarse_label": i % 20,
                },
            )


def test_two_steps_on_a_tfds_data_set(new_config, tmp_path):
    config = new_config()
    config.data.manifest = ""
    config.data.tfds = "two_levels"
    config.data.tasks.fine = "label"
    config.data.tasks.coarse = "coarse_label"
    config.data.dir = str(tmp_path / "shards")
    config.data.train_split = "train[:90%]"
    config.data.val_split = "train[90%:]"
    config.data.augment = "pad_and_crop"
    config.train.steps = 2
    result = train(config, tmp_path / "run")
    assert result["fine"]["count"] == result["coarse"]["count"] == 9
    assert (tmp_path / "run" / "result.json").exists()
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_a_stopped_run_ends_as_an_undisturbed_one(small_config, tmp_path, monkeypatch):
    """Bit for bit: the state, the metrics and the result."""
    small_config.optim.ema = 0.9
    expected = train(small_config, tmp_path / "whole")

    prefetch = devices.prefetch

    def stops_after_three_batches(batches, mesh):
        for i, batch in enumerate(prefetch(batches, mesh)):
            if i == 3:
                raise KeyboardInterrupt
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(devices, "prefetch", stops_after_three_batches)
        with pytest.raises(KeyboardInterrupt):
            train(small_config, tmp_path / "stopped")
    assert Checkpoints(tmp_path / "stopped", read_only=True).latest == 2
    resumed = train(small_config, tmp_path / "stopped")

    np.testing.assert_equal(resumed, expected)
    a, b = (launched.saved_state(tmp_path / d) for d in ("whole", "stopped"))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    metrics = [(tmp_path / d / "metrics.csv").read_text() for d in ("whole", "stopped")]
    assert metrics[0] == metrics[1]


def test_metrics_file_has_a_row_a_step_and_split(trained):
    directory, _ = trained
    with (directory / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["split"]) for row in rows] == [
        ("3", "train"),
        ("3", "val"),
        ("6", "train"),
        ("6", "val"),
    ]
    for row in rows:
        assert float(row["hue_loss"]) > 0
        assert 0 <= float(row["joint_top1"]) <= 1
        assert row["hue_top5"] == ""  # two classes have no top-5


def test_best_checkpoint_is_the_one_with_the_highest_validation_score(trained):
    directory, _ = trained
    with (directory / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "val"]
    scores = {
        int(row["step"]): (float(row["hue_top1"]) + float(row["number_top1"])) / 2
        for row in rows
    }
    best = max(scores, key=lambda s: (scores[s], s))
    assert json.loads((directory / "result.json").read_text())["step"] == best


def test_a_finished_run_prints_its_result_again(trained, capsys):
    directory, expected = trained
    config = workdir.read(directory).config
    before = (directory / "metrics.csv").read_text()
    np.testing.assert_equal(train(config, directory), expected)
    assert (directory / "metrics.csv").read_text() == before


def test_workdir_of_another_config_is_refused_and_left_alone(trained):
    directory, _ = trained
    config = workdir.read(directory).config
    before = (directory / "config.json").read_text()
    other = config.copy_and_resolve_references().unlock()
    other.model.width = 0.25
    other.train.log_every = 7  # free to change
    with pytest.raises(
        UserError, match=r"another config:\n  config.model.width: 0.125 t"
    ):
        train(other, directory)
    assert (directory / "config.json").read_text() == before


def test_a_run_does_not_go_on_with_its_tasks_in_another_order(trained):
    """The branches in its checkpoints are stacked in theirs."""
    directory, _ = trained
    run = workdir.read(directory)
    turned = dict(reversed(run.kinds.items()))
    with pytest.raises(UserError, match="order hue, number; now .* number, hue"):
        workdir.check_free(directory, workdir.Run(run.config, turned, run.data))


def test_a_run_does_not_go_on_with_an_edited_manifest(trained, tmp_path):
    directory, _ = trained
    config = workdir.read(directory).config
    manifest = Path(config.data.manifest)
    rows = manifest.read_text().splitlines()
    for picture in manifest.parent.glob("*.png"):
        (tmp_path / picture.name).write_bytes(picture.read_bytes())
    (tmp_path / "labels.csv").write_text("\n".join(rows[:3] + rows[4:]))
    edited = config.copy_and_resolve_references().unlock()
    edited.data.manifest = str(tmp_path / "labels.csv")
    with pytest.raises(UserError, match="holds a run on different data"):
        train(edited, directory)


def test_a_result_is_json_whatever_its_numbers_are(tmp_path):
    numbers = {"count": 2, "loss": np.inf, "top1": 0.5, "top5": np.nan, "mae": -np.inf}
    run_files.write_result(tmp_path, "test", 3, {"a": numbers})
    text = (tmp_path / "result.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    none = dict.fromkeys(("loss", "top5", "mae"), np.nan)
    split, step, found = run_files.read_result(tmp_path)
    assert (split, step) == ("test", 3)
    np.testing.assert_equal(found, {"a": numbers | none})


def test_workdir_that_is_a_file_or_empty(small_config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; give a folder"):
        train(small_config, tmp_path / "file")
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        train(small_config, tmp_path / "file" / "run")
    (tmp_path / "odd" / "checkpoints" / "3").mkdir(parents=True)
    with pytest.raises(UserError, match="checkpoints of an unknown run"):
        train(small_config, tmp_path / "odd")


def test_a_workdir_without_a_checkpoint_can_be_taken(small_config, tmp_path):
    """What failed before its first checkpoint leaves nothing to go on with."""
    (tmp_path / "config.json").write_text('{"model": {"depth": 12}}')
    (tmp_path / "checkpoints").mkdir()
    small_config.train.steps = 1
    train(small_config, tmp_path)
    assert workdir.read(tmp_path).config.train.steps == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", '{"model": {"dep', r"config.json cannot be read .*copy"),
        ("config.json", "[1]", r"config.json is damaged: it is not a JSON"),
        ("classes.json", None, r"classes.json cannot be read .*No such file"),
        ("data.json", "", r"data.json cannot be read"),
    ],
)
def test_damaged_files_of_a_workdir_are_named(
    trained, tmp_path, name, content, message
):
    directory, _ = trained
    for file in directory.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        workdir.read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data.val_split": "dev"},
            r"no split 'dev'.*val_split to '' to go without one",
        ),
        ({"data.batch_size": 12}, r"batch_size=12 cannot be divided equally over"),
        ({"model.branch_from": "res9z"}, r"res9z.*is not a layer of ResNet-12"),
        ({"train.best_by": "colour"}, r"best_by is 'colour'; it can be: mean, hue"),
        ({"tasks.colour.weight": 1.0}, r"no such task; it has hue, number"),
        ({"tasks.hue.classes": 3}, r"classes is 3, but the data has 2 classes of hue"),
        ({"data.tfds": "digits"}, r"manifest and config.data.tfds are both set"),
        ({"data.tasks.hue": "hue"}, r"config.data.tasks.hue names a feature of a TFDS"),
        ({"data.manifest": ""}, r"which data to use: set config.data.manifest"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(
    small_config, tmp_path, changes, message
):
    small_config.data.dir = str(tmp_path / "shards")
    for name, value in changes.items():
        config_check.set_field(small_config, name, value)
    with pytest.raises(UserError, match=message):
        train(small_config, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_workdir_is_answered_before_shards_are_written(
    trained, small_config, tmp_path
):
    directory, _ = trained
    small_config.model.width = 0.25
    small_config.data.dir = str(tmp_path / "shards")
    with pytest.raises(UserError, match="holds a run with another config") as error:
        train(small_config, directory)
    assert f"its weights: --config.init.from={directory}." in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("steps", 0, r"no steps: set config.train.steps or config.train.epochs"),
        ("epochs", 0.01, r"epochs=0.01 of 14 examples are less than half a batch of 8"),
    ],
)
def test_a_run_without_a_step(small_config, tmp_path, field, value, message):
    small_config.train.steps = 0
    small_config.train[field] = value
    with pytest.raises(UserError, match=message):
        train(small_config, tmp_path / "run")


def test_a_task_without_validation_labels_cannot_choose(new_config, tmp_path):
    config = new_config()
    manifest = Path(config.data.manifest)
    rows = list(csv.reader(manifest.read_text().splitlines()))
    for row in rows:
        row[3] = "" if row[1] == "val" else row[3]
    for picture in manifest.parent.glob("*.png"):
        (tmp_path / picture.name).write_bytes(picture.read_bytes())
    (tmp_path / "labels.csv").write_text("\n".join(map(",".join, rows)))
    config.data.manifest = str(tmp_path / "labels.csv")
    config.train.best_by = "number"
    with pytest.raises(
        UserError, match=r"best_by=number: .* no label of number in val"
    ):
        train(config, tmp_path / "run")
    # The mean goes on without that task, and still chooses.
    config.train.best_by = "mean"
    config.train.steps = 1
    train(config, tmp_path / "run")
    score = tmp_path / "run" / "checkpoints" / "1" / "metrics" / "metrics"
    assert 0 <= json.loads(score.read_text())["score"] <= 1


def test_a_loss_that_is_no_number_stops_the_run_or_is_left_out(small_config, tmp_path):
    small_config.optim.learning_rate = 1e30
    small_config.optim.warmup = 0.0
    with pytest.raises(UserError, match=r"is NaN or infinite at step (\d)") as stop:
        train(small_config, tmp_path)
    number = int(re.search(r"at step (\d)", str(stop.value))[1])
    # The state before the step is there, and the names of the step's pictures.
    state = launched.saved_state(tmp_path)
    assert state.step == number - 1
    for leaf in jax.tree.leaves(state):
        assert np.isfinite(leaf).all()
    broken = json.loads((tmp_path / "broken_step.json").read_text())
    assert broken["step"] == number
    assert len(broken["files"]) == 8
    assert set(broken["files"]) <= {f"{i:02}.png" for i in range(14)}
    # As the message says, the same run can leave such steps out.
    small_config.train.skip_nonfinite = True
    train(small_config, tmp_path)
    state = launched.saved_state(tmp_path)
    assert state.step == 6
    for leaf in jax.tree.leaves(state):
        assert np.isfinite(leaf).all()
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    assert [row["step"] for row in rows] == list("123456")
    skipped = int(rows[-1]["skipped"])
    assert 0 < skipped < 6
    # The rate of a row is that of the step, which counts the updates that were made.
    expected = optim.learning_rate(small_config.optim, 6)(5 - skipped)
    assert float(rows[-1]["learning_rate"]) == pytest.approx(expected)


def test_steps_that_were_left_out_still_count_once_none_is_any_more(
    small_config, tmp_path, monkeypatch
):
    """Stopped after two such steps, and gone on with without leaving any out."""
    small_config.train.skip_nonfinite = True
    small_config.train.checkpoint_every = 2
    broken = jax.numpy.float32("nan")
    monkeypatch.setattr(step, "gradient_norm", lambda _: lambda _: broken)
    monkeypatch.setattr(stopping.StopRequest, "after", lambda _, number: number == 2)
    with pytest.raises(Stopped):
        train(small_config, tmp_path)
    monkeypatch.undo()
    small_config.train.skip_nonfinite = False
    train(small_config, tmp_path)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    assert [row["skipped"] for row in rows] == ["1", *"22222"]
    rate = optim.learning_rate(small_config.optim, 6)
    rates = [float(row["learning_rate"]) for row in rows]
    expected = [float(rate(updates)) for updates in (0, 0, 0, 1, 2, 3)]
    assert rates == pytest.approx(expected)
    state = launched.saved_state(tmp_path)
    assert (state.step, state.skipped) == (6, 2)


def test_each_process_names_its_share_of_a_broken_step(tmp_path, monkeypatch):
    report = {"losses": {"hue": jax.numpy.float32("nan")}}
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for index in range(2):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        stopping.stop_at_broken_step(tmp_path, 3, report, [f"{index}.png"])
        content = json.loads((tmp_path / f"broken_step.{index}.json").read_text())
        assert content["files"] == [f"{index}.png"]


def test_digits_overfits_a_handful(tmp_path, shards, capsys):
    """24 pictures, no augmentation: every label of every task is learned.

    Without validation, the newest checkpoint is the one that is kept. That the same are
    tested is told once.
    """
    config = config_lib.default()
    config.model.depth = 12
    config.model.width = 0.25
    config.model.stem = "small"
    config.data.tfds = "digits"
    for task in ("noun", "adjective", "anp"):
        config.data.tasks[task] = task
    config.data.dir = str(shards)
    config.data.train_split = "train[:24]"
    config.data.val_split = ""
    config.data.test_split = "train[:24]"
    config.data.image_size = 32
    config.data.batch_size = 24
    config.data.augment = "none"
    config.data.flip = False
    config.data.eval_crop = 1.0
    config.train.steps = 60
    config.train.checkpoint_every = 30
    result = train(config, tmp_path)
    assert result["joint"] == {"count": 24, "top1": 1.0}
    assert json.loads((tmp_path / "result.json").read_text())["step"] == 60
    said = capsys.readouterr().out
    assert said.count("train_split=train[:24] shares pictures with ") == 1


def test_every_evaluation_can_give_the_best_checkpoint(new_config, tmp_path):
    """Checkpoints are due every 4th step, evaluations every 3rd."""
    config = new_config()
    config.train.eval_every, config.train.checkpoint_every = 3, 4
    train(config, tmp_path)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    scores = {
        int(row["step"]): (float(row["hue_top1"]) + float(row["number_top1"])) / 2
        for row in rows
        if row["split"] == "val"
    }
    best = max(scores, key=lambda step: (scores[step], step))
    assert set(scores) == {3, 6}
    assert json.loads((tmp_path / "result.json").read_text())["step"] == best


def test_schedule_by_hand():
    """10 examples in batches of 4: epochs end within steps 3, 5, 8, 10."""
    config = config_lib.default()
    config.train.epochs = 4.0
    config.data.batch_size = 4
    config.train.log_every = 100
    schedule = Schedule.of(config, examples=10)
    assert schedule.steps == 10
    assert [s for s in range(1, 11) if schedule.evaluates(s)] == [3, 5, 8, 10]
    assert [s for s in range(1, 11) if schedule.logs(s)] == [3, 5, 8, 10]
    config.train.eval_every, config.train.checkpoint_every = 4, 3
    schedule = Schedule.of(config, examples=10)
    assert [s for s in range(1, 11) if schedule.evaluates(s)] == [4, 8, 10]
    assert [s for s in range(1, 11) if schedule.saves(s)] == [3, 4, 6, 8, 9, 10]
    assert [s for s in range(1, 11) if schedule.logs(s)] == [4, 8, 10]
