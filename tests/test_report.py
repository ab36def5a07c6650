"""A run's report: its numbers against plain loops, and a page that stands alone."""

import dataclasses
import gc
import json
import math
import re
import shutil
import tracemalloc
import weakref
from html.parser import HTMLParser
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from crl_jax import devices, evaluation, evaluation_loop, report, workdir
from crl_jax import trained as trained_lib
from crl_jax.errors import UserError
from crl_jax.kinds import Categorical, Multilabel
from crl_jax.reports import charts, cross_weights, other_kinds, page, run_page
from crl_jax.reports.findings import BINS, Findings

CLASSES = {"hue": ("dark", "light"), "number": ("<b>one</b>", "two & more", "three")}
KINDS = {task: Categorical(names) for task, names in CLASSES.items()}


class Reader(HTMLParser):
    """Collects the tags, the texts and the links of a page, and checks its nesting."""

    void = ("meta", "br", "img")

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.links, self._open = [], [], [], []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [v for k, v in attributes if k in ("href", "src", "xlink:href")]
        if tag not in self.void:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def examples():
    """Three batches of logits and labels, some missing, the last one padded."""
    rng = np.random.default_rng(0)
    batches = []
    for number in range(3):
        logits = {t: 3 * rng.normal(size=(8, len(n))) for t, n in CLASSES.items()}
        labels = {t: rng.integers(-1, len(n), 8) for t, n in CLASSES.items()}
        files = np.array([b"%d-%d.png" % (number, i) for i in range(8)], object)
        if number == 2:
            files[5:] = b""
            labels = {
                task: np.where(files == b"", -1, of) for task, of in labels.items()
            }
        image = rng.integers(0, 256, (8, 4, 4, 3), np.uint8)
        batch = {"image": image, "labels": labels, "file": files}
        batches.append((batch, {t: jnp.asarray(x) for t, x in logits.items()}))
    return batches


@pytest.fixture
def findings(examples):
    found = Findings(KINDS, keep=4)
    for batch, logits in examples:
        found.add(batch, logits)
    return found


def rows(examples, task):
    """Yields `(label, predicted, confidence)` of each labelled picture."""
    for batch, logits in examples:
        for i, label in enumerate(batch["labels"][task]):
            if label >= 0:
                powers = np.exp(np.asarray(logits[task][i], np.float64))
                shares = powers / powers.sum()
                yield int(label), int(np.argmax(shares)), float(np.max(shares))


@pytest.mark.parametrize("task", list(CLASSES))
def test_confusions_and_calibration_are_those_of_a_plain_loop(findings, examples, task):
    confusions = np.zeros((len(CLASSES[task]),) * 2, int)
    bins = [[] for _ in range(BINS)]
    for label, predicted, confidence in rows(examples, task):
        confusions[label, predicted] += 1
        which = next(k for k in range(BINS) if confidence <= (k + 1) / BINS + 1e-12)
        bins[which].append((label == predicted, confidence))
    found = np.zeros_like(confusions)
    labels, predicted, counts = findings.confusions(task)
    found[labels, predicted] = counts
    np.testing.assert_array_equal(found, confusions)
    assert np.all(counts)
    calibration = findings.calibration(task)
    assert calibration.counts.tolist() == list(map(len, bins))
    count = sum(map(len, bins))
    gaps = [
        abs(np.mean([r for r, _ in of]) - np.mean([c for _, c in of])) * len(of)
        for of in bins
        if of
    ]
    assert calibration.expected_error == pytest.approx(sum(gaps) / count, abs=1e-5)
    gap = np.mean([c - r for of in bins for r, c in of])
    assert calibration.gap == pytest.approx(gap, abs=1e-5)


def test_grid_counts_pairs_of_labels(findings, examples):
    counts, right = np.zeros((2, 3), int), np.zeros((2, 3), int)
    for batch, logits in examples:
        for i in range(8):
            hue, number = (int(batch["labels"][task][i]) for task in CLASSES)
            if hue >= 0 and number >= 0:
                counts[hue, number] += 1
                said = tuple(int(np.argmax(logits[task][i])) for task in CLASSES)
                right[hue, number] += said == (hue, number)
    found = findings.grid("hue", "number")
    np.testing.assert_array_equal(found[0], counts)
    np.testing.assert_array_equal(found[1], right)


def test_best_and_worst_are_ordered_by_the_probability_of_the_labels(
    findings, examples
):
    scores = {}
    for batch, logits in examples:
        for i, file in enumerate(batch["file"]):
            logs = []
            for task in CLASSES:
                x, label = np.asarray(logits[task][i]), batch["labels"][task][i]
                if label >= 0:
                    logs.append(x[label] - np.log(np.exp(x).sum()))
            if logs:
                scores[file.decode()] = np.mean(logs)
    order = sorted(scores, key=scores.__getitem__)
    assert [answer.file for answer in findings.worst] == order[:4]
    assert [answer.file for answer in findings.best] == order[:-5:-1]


def test_a_picture_that_is_kept_holds_no_batch(examples):
    found = Findings(KINDS, keep=4)
    batches = [weakref.ref(batch["image"]) for batch, _ in examples]
    for batch, logits in examples:
        found.add(batch, logits)
    expected = {
        file: image.copy()
        for batch, _ in examples
        for file, image in zip(batch["file"], batch["image"], strict=True)
    }
    del batch, logits
    examples.clear()
    gc.collect()
    assert [of() for of in batches] == [None] * 3
    for answer in (*found.best, *found.worst):
        assert answer.image.base is None
        np.testing.assert_array_equal(answer.image, expected[answer.file.encode()])


def test_many_classes_take_the_memory_of_the_pairs_that_occur():
    count = 4000
    kinds = {"pair": Categorical(tuple(map(str, range(count))))}
    labels = np.array([5, 5, 5, 3999, -1], np.int32)
    logits = np.zeros((5, count), np.float32)
    logits[np.arange(5), [5, 7, 7, 0, 1]] = 9
    files = np.array([b"%d.png" % i for i in range(5)], object)
    image = np.zeros((5, 4, 4, 3), np.uint8)
    found = Findings(kinds)
    batch = {"image": image, "labels": {"pair": labels}, "file": files}
    found.add(batch, {"pair": jnp.asarray(logits)})
    tracemalloc.start()
    _, body = run_page.classes(found)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**21
    texts = Reader(page.page("", *body)).texts
    assert texts[texts.index("5 → 7") :][:3] == ["5 → 7", "2", "3"]
    assert texts[texts.index("3999 → 0") :][:3] == ["3999 → 0", "1", "1"]
    assert texts[texts.index("5") :][:3] == ["5", "33.33", "3"]


def test_average_precision_is_that_of_logits_that_a_sigmoid_would_make_equal():
    kind = Multilabel(("a", "b"))
    logits = np.array([[30.0, 1.0], [40.0, -2.0], [50.0, 0.0]], np.float32)
    labels = np.array([[0, 1], [0, 0], [1, 0]], np.int8)
    files = np.array([b"%d.png" % i for i in range(3)], object)
    image = np.zeros((3, 4, 4, 3), np.uint8)
    found = Findings({"letters": kind})
    batch = {"image": image, "labels": {"letters": labels}, "file": files}
    found.add(batch, {"letters": jnp.asarray(logits)})
    _, body = other_kinds.several_labels(found)
    texts = Reader(page.page("", *body)).texts
    assert texts[texts.index("a") :][:5] == ["a", "100.00", "1", "3", "1"]
    assert kind.of_whole(logits, labels) == {"map": 1.0}


def test_names_are_escaped_wherever_they_stand(findings):
    sections = [
        run_page.classes(findings),
        run_page.grid(findings),
        run_page.pictures(findings),
        run_page.calibration(findings),
    ]
    text = page.with_sections("<b>run</b>", ["<u>heading</u>"], sections)
    reader = Reader(text)
    assert not {"b", "u"} & set(reader.tags)
    assert "<b>one</b>" in reader.texts
    assert "<b>run</b>" in reader.texts
    assert "<u>heading</u>" in reader.texts


@pytest.mark.parametrize(
    ("low", "high"),
    [
        *((0, 1), (0, 7.3), (-2, 0.001), (0, 0), (3, 12345), (0, 1e-9)),
        *((1e5, 1e5 + 40), (12338.2, 12344), (0, 25_000), (1e17, 1e17), (-3e9, 7e9)),
    ],
)
def test_ticks_are_few_even_and_enclose(low, high):
    found = charts.ticks(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    assert 2 <= len(found) <= 8
    steps = np.diff(found)
    np.testing.assert_allclose(steps, steps[0])
    texts = charts.tick_labels(found)
    assert len(set(texts)) == len(texts)
    numbers = [float(text.replace(",", "")) for text in texts]
    np.testing.assert_allclose(numbers, found, rtol=1e-9, atol=1e-12)


def test_steps_are_written_out():
    assert charts.tick_labels(charts.ticks(0, 25_000))[-1] == "25,000"


def test_a_scatter_has_a_dot_for_each_example_up_to_a_limit():
    for count, dots in ((1, 1), (3000, 3000), (3001, 1501)):
        numbers = np.arange(count)
        chart = charts.scatter_chart("age", numbers, numbers)
        circles = list(chart.iter("circle"))
        assert len(circles) == dots


def test_a_grid_of_very_many_labels_is_left_out(findings, monkeypatch):
    assert run_page.grid(findings) is not None
    monkeypatch.setattr(run_page, "_LARGEST_GRID", 3)
    assert run_page.grid(findings) is None


def test_axes_say_the_numbers_that_they_show():
    """Those that end at 1, too: only shares are in percent."""
    numbers = np.array([0.0, 0.5, 1.0])
    scatter = charts.scatter_chart("score", numbers, numbers)
    texts = [text.text for text in scatter.iter("text")]
    assert texts == 2 * ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"] + ["label"]
    short = charts.line_chart("loss", [charts.Curve("train", [1], [0.5])])
    assert "100" not in [text.text for text in short.iter("text")]
    share = charts.reliability_diagram("hue", "", numbers, numbers, np.array([1, 2, 1]))
    texts = [text.text for text in share.iter("text")]
    assert texts[:6] == ["0%", "20%", "40%", "60%", "80%", "100%"]
    assert texts[6:12] == ["0", "20", "40", "60", "80", "100"]


def test_a_single_evaluation_is_a_dot():
    ended = charts.Curve("val", [4, 8], [math.nan, 0.5])
    whole = charts.Curve("train", [4, 8], [0.2, 0.5], "second")
    chart = charts.line_chart("loss", [ended, whole])
    (dot,), (line,) = chart.iter("circle"), chart.iter("polyline")
    assert f"{dot.get('cx')},{dot.get('cy')}" == line.get("points").split()[1]
    assert dot.get("style") == "fill:var(--accent)"


def drawn_map(names):
    """Returns the labels of a heat map's rows, and the space that they have."""
    cells = np.eye(len(names))
    drawing = charts.heat_map(cells, names, names, lambda i, j: "", "")
    rows = [text for text in drawing.iter("text") if not text.get("transform")]
    return [text.text for text in rows], float(rows[0].get("x"))


@pytest.mark.parametrize(
    ("name", "width"),  # in DejaVu; East Asian letters are squares
    [
        ("Gemüse", 48),
        ("Wimmer", 47),
        ("машины", 48),
        ("キウイ", 33),
        ("苹果和香蕉", 55),
    ],
)
def test_a_label_has_the_space_that_it_takes(name, width):
    (text,), space = drawn_map([name])
    assert text == name
    assert width <= space < 1.6 * width


def test_long_names_that_differ_at_their_ends_are_told_apart():
    names = [f"A class with an exceedingly long name, number {k}" for k in range(4)]
    texts, _ = drawn_map(names)
    assert texts == [f"A class wit…me, number {k}" for k in range(4)]


def test_the_tables_of_classes_may_wrap_names(findings):
    _, body = run_page.classes(findings)
    lists = [div for child in body for div in child.iter("div")]
    assert [d.get("class") for d in lists].count("names") == len(CLASSES)


@pytest.mark.parametrize("kind", ["scalar", "channel", "conv"])
def test_learned_cross_weights_are_shown_by_target_and_source(trained, kind):
    loaded = trained_lib.load(trained[0], devices.make_mesh())
    config = loaded.run.config.copy_and_resolve_references().unlock()
    config.model.cross.kind, config.model.cross.learned = kind, True
    config.model.branch_from = "res5a"
    unit = {
        "scalar": np.array(0.25),
        "channel": np.array([0.0, 0.5]),
        "conv": 0.25 * np.eye(2),
    }[kind]
    stacked = {"weight": np.stack([unit, 3 * unit])}
    weights = {"res5a_cross": stacked, "res5b_cross": stacked}
    run = dataclasses.replace(loaded.run, config=config)
    shown = dataclasses.replace(loaded, run=run, variables={"params": weights})
    _, body = cross_weights.cross_weights(shown)
    texts = Reader(page.page("", *body)).texts
    spread = {"channel": (" ± 0.250", " ± 0.750")}.get(kind, ("", ""))
    grid = ["1", f"0.250{spread[0]}", f"0.750{spread[1]}", "1"]
    assert [t for t in texts if re.fullmatch(r"1|\d\.\d{3}.*", t)] == 2 * grid


@pytest.mark.parametrize("branch_from", ["res5b", "head"])
def test_the_report_says_where_nothing_crosses(trained, branch_from):
    loaded = trained_lib.load(trained[0], devices.make_mesh())
    config = loaded.run.config.copy_and_resolve_references().unlock()
    config.model.branch_from = branch_from
    run = dataclasses.replace(loaded.run, config=config)
    _, (text,) = cross_weights.cross_weights(dataclasses.replace(loaded, run=run))
    assert "Nothing crosses from task to task" in " ".join(
        Reader(page.page("", text)).texts
    )


def test_report_stands_alone_and_says_what_evaluate_says(
    trained, tmp_path, monkeypatch, capsys
):
    directory, _ = trained
    out = tmp_path / "page.html"
    monkeypatch.setattr(
        "sys.argv", ["report", f"--workdir={directory}", f"--out={out}"]
    )
    report.main()
    assert capsys.readouterr().out == f"Wrote {out}, on the split test\n"
    assert list(tmp_path.iterdir()) == [out]
    reader = Reader(out.read_text("utf-8"))
    assert "script" not in reader.tags
    assert all(link.startswith(("#", "data:image/")) for link in reader.links)
    result = json.loads((directory / "result.json").read_text())["result"]
    for task in ("hue", "number", "joint"):
        assert f"{100 * result[task]['top1']:.2f}%" in reader.texts
    for title in ("Training", "Classes and confusions", "Cross weights", "Calibration"):
        assert title in reader.texts
    assert reader.tags.count("img") == 14  # 7 test pictures, the best and the worst
    data = workdir.read(directory).config.data
    for place in (data.dir, str(Path(data.manifest).parent)):
        assert not any(place in text for text in reader.texts)
    assert "'labels.csv'" in reader.texts  # config.data.manifest


def test_a_task_without_labels_has_a_dash(trained):
    directory, expected = trained
    nothing = {**dict.fromkeys(expected["number"], math.nan), "count": 0}
    result = {**expected, "number": nothing}
    body = run_page.overview("run", evaluation.prepare(directory, "test"), result)
    texts = Reader(page.page("", *body)).texts
    assert texts[texts.index("number") + 1] == "–"
    assert texts[texts.index("hue") + 1].endswith("%")


def test_a_report_on_another_list_says_so(trained, tmp_path):
    (directory, expected), out = trained, tmp_path / "report.html"
    manifest = workdir.read(directory).config.data.manifest
    prepared = evaluation.prepare(
        directory, "test", on=manifest, data_dir=tmp_path / "shards"
    )
    report.write_report(directory, prepared, out)
    text = out.read_text("utf-8")
    assert "Split test of labels.csv" in text
    # It is the run's own list, by another name.
    assert f"{100 * expected['hue']['top1']:.2f}%" in text


def test_what_would_spoil_a_report_is_answered_before_the_evaluation(
    trained, tmp_path, monkeypatch
):
    directory = tmp_path / "run"
    shutil.copytree(trained[0], directory)
    prepared = evaluation.prepare(str(directory))
    monkeypatch.setattr(evaluation_loop, "evaluate_batches", lambda *_: 1 / 0)
    for out in (tmp_path, tmp_path / "none" / "report.html"):
        with pytest.raises(UserError, match=f"--out={out} cannot be written"):
            report.write_report(str(directory), prepared, str(out))
    out, log = tmp_path / "report.html", directory / "metrics.csv"
    out.write_text("earlier")
    with pytest.raises(ZeroDivisionError):
        report.write_report(directory, prepared, out)
    whole = log.read_text()
    for saved in (whole.replace(",", ";"), whole.replace(",0.", ',"0,')):
        log.write_text(saved)
        with pytest.raises(UserError, match=r"metrics.csv is not as the run wrote it"):
            report.write_report(directory, prepared, out)
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(UserError, match=r"A report is written by one process only"):
        report.write_report(directory, prepared, out)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "report.html"}
    assert out.read_text() == "earlier"
