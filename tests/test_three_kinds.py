"""A categorical, a multilabel and a regression task in one run, from list to page."""

import csv
import json
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score

import crl_jax
from crl_jax import config_check, evaluation, export, report, run_files, workdir
from crl_jax import train as train_lib
from crl_jax.data import inspection, source, stream
from crl_jax.data.labels import combinations, read_labels, read_split
from crl_jax.data.quiet import tfds
from crl_jax.errors import UserError
from crl_jax.inference.prediction_formats import FORMATS
from crl_jax.kinds import Categorical, Multilabel, Regression

TASKS = ["side", "colours", "brightness"]
SWEEP = ("model.cross.init", [0.2])


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """Pictures whose labels can be seen: a side, colours of bars, and brightness."""
    folder, rng = tmp_path_factory.mktemp("listed"), np.random.default_rng(0)
    rows = ["file,split,side,colours,brightness"]
    for i in range(100):
        level, side = int(rng.integers(20, 120)), ("left", "right")[i % 2]
        there = [name for name in ("red", "green", "blue") if rng.random() < 0.5]
        image = np.full((16, 16, 3), level, np.uint8)
        for k, name in enumerate(("red", "green", "blue")):
            if name in there:
                image[4 * k : 4 * k + 4, :, k] = 250
        image[12:, 8 * (i % 2) : 8 * (i % 2) + 8] = 250
        Image.fromarray(image).save(folder / f"{i:02}.png")
        split = "train" if i < 80 else "val" if i < 90 else "test"
        colours = ";".join(there) or "-"
        # The first three lack a label each.
        cells = [side, colours, f"{level / 10}"]
        cells = ["" if i == k else cell for k, cell in enumerate(cells)]
        rows.append(",".join([f"{i:02}.png", split, *cells]))
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder / "labels.csv"


@pytest.fixture(scope="module")
def config(listed, new_config):
    config = new_config()
    config.data.manifest = str(listed)
    config.data.augment, config.data.flip = "none", False
    config.model.branch_from = "res5a"
    config.model.sync_batch_norm = True
    config.data.batch_size = 16
    config.train.steps, config.train.eval_every = 60, 30
    config.optim.learning_rate = 0.05
    with config.unlocked():
        config.tasks.colours = {"kind": "multilabel"}
        config.tasks.brightness = {"kind": "regression"}
    return config


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, train_lib.train(config, folder)


@pytest.fixture(scope="module")
def predictor(run):
    return crl_jax.load(run[0])


def test_a_run_keeps_what_its_tasks_are(run, config, listed):
    folder, result = run
    kept = workdir.read(folder)
    assert [type(kind) for kind in kept.kinds.values()] == [
        Categorical,
        Multilabel,
        Regression,
    ]
    with listed.open() as file:
        rows = list(csv.DictReader(file))
    numbers = [
        float(row["brightness"])
        for row in rows
        if row["split"] == "train" and row["brightness"]
    ]
    assert kept.kinds["brightness"].mean == pytest.approx(np.mean(numbers))
    assert kept.kinds["brightness"].std == pytest.approx(np.std(numbers))
    assert kept.kinds["colours"].names == ("blue", "green", "red")
    assert list(result) == [*TASKS, "joint"]
    assert result["joint"]["top1"] == result["side"]["top1"]
    for row in csv.DictReader((folder / "metrics.csv").read_text().splitlines()):
        assert row["brightness_mae"]
        assert row["colours_f1"]
        # Only of a whole split.
        assert bool(row["colours_map"]) == (row["split"] == "val")
    # It has learnt something of each.
    assert result["colours"]["map"] > 0.8
    assert result["brightness"]["pearson"] > 0.5
    away = np.mean(np.abs(np.array(numbers) - np.median(numbers)))
    assert result["brightness"]["mae"] < 0.8 * away


def test_the_stream_masks_what_is_missing(config, run):
    data = source.open_source(workdir.read(run[0]).config)
    labels, files = read_labels(data, "train"), read_split(data, "train").files
    rows = [files.index(f"{i:02}.png") for i in range(4)]
    assert labels["side"].shape == (80,)
    np.testing.assert_array_equal(labels["side"][rows], [-1, 1, 0, 1])
    assert labels["colours"].shape == (80, 3)
    np.testing.assert_array_equal(labels["colours"][rows[1]], [-1, -1, -1])
    assert np.flatnonzero(np.isnan(labels["brightness"])).tolist() == [rows[2]]
    for batch in stream.eval_batches(data, workdir.read(run[0]).config, "train"):
        for i, file in enumerate(batch["file"]):
            for task in TASKS:
                row = files.index(file.decode())
                np.testing.assert_array_equal(
                    batch["labels"][task][i], labels[task][row]
                )
    assert [int(np.sum(k.is_labelled(labels[t]))) for t, k in data.kinds.items()] == [
        79,
        79,
        79,
    ]
    again = read_labels(data, "train")  # kept now, beside the shards
    for task in TASKS:
        np.testing.assert_array_equal(labels[task], again[task])
    assert combinations(data, "train").tolist() == [[0], [1]]


def test_evaluation_says_what_training_said(run, tmp_path, capsys):
    folder, expected = run
    file = tmp_path / "predictions.csv"
    result = evaluation.evaluate(folder, "test", predictions=file)
    for task, values in expected.items():
        assert result[task] == pytest.approx(values, rel=1e-4, nan_ok=True)
    printed = capsys.readouterr().out
    for text in ("mAP", "F1", "MAE", "Pearson", "top-1", "all tasks right"):
        assert text in printed
    with file.open() as opened:
        rows = list(csv.DictReader(opened))
    assert len(rows) == 10
    error = [
        abs(float(r["brightness"]) - float(r["brightness_predicted"])) for r in rows
    ]
    assert np.mean(error) == pytest.approx(result["brightness"]["mae"], rel=1e-3)
    for row in rows:
        predicted, probability = row["colours_predicted"], row["colours_probability"]
        count = 0 if predicted == "-" else len(predicted.split(";"))
        assert count == len(list(filter(None, probability.split(";"))))


def test_predictions_in_every_format(run, predictor, listed, capsys):
    files = [str(listed.parent / f"{i}.png") for i in range(90, 100)]
    predictions = predictor(files)
    kinds = predictor.kinds
    colours = np.stack([p.probabilities["colours"] for p in predictions])
    assert np.any(colours.sum(axis=1) > 1.2)  # each label's own
    with listed.open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    there = [
        [name in row["colours"] for name in kinds["colours"].names] for row in rows
    ]
    _, _, result = run_files.read_result(run[0])
    found = average_precision_score(there, colours)
    assert result["colours"]["map"] == pytest.approx(found, abs=1e-6)
    first = predictions[0]
    assert first.joint is None  # there is one categorical task alone
    with pytest.raises(UserError, match=r"is a regression.*number\('brightness'\)"):
        first.top("brightness")
    with pytest.raises(UserError, match=r"'side' is categorical.*take top\('side'\)"):
        first.number("side")
    for ask in (first.top, first.number):
        with pytest.raises(UserError, match="no task 'age'; there is: side, colours, "):
            ask("age")
    ranked = [p for _, p in first.top("colours")]
    assert ranked == sorted(ranked, reverse=True)
    assert len(ranked) == 3
    FORMATS["json"](predictions, kinds, 2, sys.stdout)
    objects = json.loads(capsys.readouterr().out)
    assert objects[0]["tasks"]["brightness"] == pytest.approx(
        first.number("brightness"), rel=1e-4
    )
    assert len(objects[0]["tasks"]["colours"]) == 2
    FORMATS["csv"](predictions, kinds, 2, sys.stdout)
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert list(rows[0])[2:9] == [
        *("side_1", "side_1_probability", "side_2", "side_2_probability"),
        *("colours_1", "colours_1_probability", "colours_2"),
    ]
    assert float(rows[0]["brightness"]) == objects[0]["tasks"]["brightness"]
    FORMATS["table"](predictions, kinds, 2, sys.stdout)
    assert f"{objects[0]['tasks']['brightness']:.2f}" in capsys.readouterr().out


def test_the_report_has_a_section_for_each_kind(run, tmp_path):
    folder, _ = run
    prepared = evaluation.prepare(folder, "test")
    report.write_report(folder, prepared, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    for text in ("Classes and confusions", ">Labels<", ">Numbers<", "brightness: MAE"):
        assert text in page
    assert page.count("<circle") == 10
    assert ">green<" in page


def test_exports_answer_as_the_network(run, predictor, tmp_path):
    from jax import export as jax_export

    what = {"format": "stablehlo"}
    export.export(run[0], what, tmp_path)
    program = (tmp_path / "model.stablehlo").read_bytes()
    images = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3), np.uint8)
    found = jax_export.deserialize(bytearray(program)).call(images)
    expected = predictor.probabilities(images)
    assert found["brightness"].shape == (3,)
    for task in TASKS:
        np.testing.assert_allclose(found[task], expected[task], rtol=1e-4, atol=1e-5)
    card = (tmp_path / "README.md").read_text()
    assert "| colours | 10 |" in card
    assert "`brightness` is one number per picture" in card
    labels = json.loads((tmp_path / "config.json").read_text())["labels"]
    assert set(labels["brightness"]) == {"mean", "std"}


def test_the_data_are_inspected(config, tmp_path, capsys):
    inspection.inspect(config_check.check(config), tmp_path, few=2, seconds=0.1)
    printed = capsys.readouterr().out
    for text in ("colours: 3 classes", "brightness: a number", "median number"):
        assert text in printed
    counts = (tmp_path / "counts.csv").read_text()
    assert "colours,blue" in counts
    assert "brightness" not in counts


def test_a_run_of_numbers_alone(config, tmp_path, listed):
    """Nothing is right or wrong, and there is nothing to combine."""
    alone = config.copy_and_resolve_references()
    text = [line.split(",") for line in listed.read_text().splitlines()]
    path = listed.parent / "numbers.csv"
    path.write_text("\n".join(",".join([a, b, e]) for a, b, _, _, e in text))
    alone.data.manifest, alone.train.steps = str(path), 2
    del alone.tasks["colours"]
    result = train_lib.train(alone, tmp_path / "run")
    assert list(result) == ["brightness"]
    header = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0]
    assert "joint" not in header
    assert (
        crl_jax.load(tmp_path / "run")(str(listed.parent / "95.png"))[0].joint is None
    )


@pytest.mark.parametrize(
    ("probable", "headline"), [((0.2, 0.4, 0.1), "none likely"), ((0.9, 0, 0.8), "a;c")]
)
def test_the_demo_says_what_is_likely_and_not_what_is_first(probable, headline):
    pytest.importorskip("gradio")
    from crl_jax.inference import demo_page
    from crl_jax.inference.prediction import Prediction

    kinds = {"letters": Multilabel(("a", "b", "c"))}
    shown = Prediction("", kinds, {"letters": np.array(probable)})
    said = demo_page._bars(shown, "letters")
    assert said.label == headline
    order = sorted(zip(probable, "abc", strict=True), reverse=True)
    assert [(bar.confidence, bar.label) for bar in said.confidences] == order
    assert demo_page._best(shown, "letters") == headline


class Tagged(tfds.core.GeneratorBasedBuilder):
    """Pictures with a list of labels each, the first of which has none.

    What it calls `file` is no name.
    """

    name = "tagged"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        label = tfds.features.ClassLabel(names=["cat", "dog", "owl"])
        features = {
            "image": tfds.features.Image(shape=(16, 16, 3)),
            "tags": tfds.features.Sequence(label),
            "kind": label,
            "file": tfds.features.Scalar(np.int64),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples() for split in ("train", "test")}

    def _generate_examples(self):
        for i in range(4):
            image = np.full((16, 16, 3), 60 * i, np.uint8)
            labels = {"tags": list(range(i)), "kind": i % 3}
            yield i, {"image": image, "file": 100 + i} | labels


def test_a_tfds_data_set_with_lists_of_labels(new_config, tmp_path):
    config = new_config()
    config.data.manifest, config.data.tfds = "", "tagged"
    config.data.val_split = "train"
    config.data.dir = str(tmp_path)
    with config.unlocked():
        config.data.tasks = {"tags": "tags", "kind": "kind", "again": "tags"}
        config.tasks.tags = config.tasks.again = {"kind": "multilabel"}
    config = config_check.check(config)
    data = source.open_source(config)
    assert data.kinds["tags"] == Multilabel(("cat", "dog", "owl"))
    (batch,) = stream.eval_batches(data, config, "train")
    found = sorted(batch["labels"]["tags"].tolist())
    none_padding = [[-1] * 3] * 4
    assert found == [*none_padding, [0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]]
    labels = read_labels(data, "train")
    assert sorted(labels["tags"].tolist()) == found[4:]
    np.testing.assert_array_equal(labels["again"], labels["tags"])
    numbers = ["0", "1", "2", "3"]
    assert [file.decode() for file in batch["file"]] == [*numbers, *[""] * 4]
    assert read_split(data, "train").files == numbers


@pytest.mark.parametrize(
    ("feature", "kind", "message"),
    [
        ("kind", "multilabel", "'kind' is not a list of class labels of 'tagged'; it"),
        ("tags", "categorical", "'tags' is not a class label of 'tagged'; it has: ki"),
        ("kind", "regression", "regression needs a manifest, whose column 'a' holds"),
    ],
)
def test_features_of_another_kind(new_config, feature, kind, message):
    config = new_config()
    config.data.manifest, config.data.tfds = "", "tagged"
    with config.unlocked():
        config.data.tasks = {"a": feature}
        config.tasks.a = {"kind": kind}
    with pytest.raises(UserError, match=message):
        source.find_source(config_check.check(config))


def test_a_comparison_of_three_kinds(config, run, tmp_path):
    pytest.importorskip("matplotlib")
    from crl_jax.comparison import document, measurements, plan
    from crl_jax.comparison.plan import Variant
    from crl_jax.comparison.report import report as compare_report
    from crl_jax.comparison.results import Results, write_csv
    from crl_jax.comparison.runs import Outcome

    kinds = workdir.read(run[0]).kinds
    what = plan.make(config_check.check(config), ["S", "M", "X"], 3, [SWEEP])

    def outcome(variant, seed):
        """X errs by half as much as the others."""
        error = (0.01 if variant.network == "X" else 0.02) + seed / 10_000
        test = {
            "side": {"count": 10, "loss": 1.0, "top1": 0.5, "top5": np.nan},
            "colours": {"count": 10, "loss": 1.0, "map": 0.6, "f1": 0.5},
            "brightness": {"count": 10, "loss": 1.0, "mae": error, "pearson": 0.9},
            "joint": {"count": 10, "top1": 0.5},
        }
        test["side"]["mean_class"] = 0.5
        val = {"side": 0.5, "colours": 0.6, "brightness": error}
        return Outcome(variant, seed, run[0], 5, val, test)

    outcomes = [outcome(v, seed) for v in what.configs for seed in range(3)]
    results = Results.of(what, kinds, outcomes)
    gain = results.gain(Variant("X"))
    expected = [-100 * (0.01 - 0.02) / (0.02 + seed / 10_000) / 3 for seed in range(3)]
    np.testing.assert_allclose(gain, expected)
    std = kinds["brightness"].std
    goodness = [np.mean([0.5, 0.6, 1 - (0.01 + s / 10_000) / std]) for s in range(3)]
    np.testing.assert_allclose(results.val(Variant("X")), goodness)
    cost = measurements.Measurement(1000, 2e9, 0.02, 3_000_000, "1 cpu")
    costs = dict.fromkeys(what.configs, cost)
    blocks = compare_report(results, costs, {}, [], tmp_path / "figures")
    text = document.markdown(blocks, tmp_path)
    for heading in ("Top-1", "mAP", "F1", "MAE", "Pearson", "MAE against S"):
        assert f"## {heading}\n" in text
    assert "better: −0.01" in text.split("## MAE against S")[1].split("##")[0]
    assert "the tasks' mean top-1 and mAP and 1 − MAE / standard deviation" in text
    write_csv(results, tmp_path / "results.csv")
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[2]["mae"]) == 0.02
    assert float(rows[2]["val_mae"]) == 0.02
    assert rows[2]["top1"] == rows[2]["val_top1"] == rows[0]["mae"] == ""
