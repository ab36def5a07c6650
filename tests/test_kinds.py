"""Losses and measures of multilabel and regression tasks, and how lists hold them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import stats
from sklearn import metrics as sklearn_metrics

from crl_jax import config_check, config_tasks, kinds, losses, metrics
from crl_jax.config import default, default_task
from crl_jax.data.doubts import about_labels
from crl_jax.data.manifest import read_manifest
from crl_jax.errors import UserError
from crl_jax.kinds import Categorical, Multilabel, Regression

TAGS = Multilabel(("cat", "dog", "owl", "rat"))
AGE = Regression(mean=30.0, std=12.0)


def tags(seed, size=30):
    """Logits, and labels of which some are missing; no picture has the last class."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(size, 4)).astype(np.float32)
    labels = rng.integers(0, 2, (size, 4)).astype(np.int8)
    labels[:, 3] = 0
    labels[rng.random(size) < 0.2] = -1
    return logits, labels


def ages(seed, size=30):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(size, 1)).astype(np.float32)
    labels = rng.normal(30, 12, size).astype(np.float32)
    labels[rng.random(size) < 0.2] = np.nan
    return logits, labels


def of_batches(kind, batches, name="task"):
    """The measures of several batches, summed up as on devices and then whole."""
    sums = []
    for logits, labels in batches:
        x, y = jnp.array(logits), jnp.array(labels)
        loss = {name: kind.loss(x, y)}
        sums.append(metrics.sums({name: kind}, {name: x}, {name: y}, loss))
    result = metrics.means(sums, {name: kind})
    assert list(result) == [name]  # no task is right or wrong
    whole = [np.concatenate(arrays) for arrays in zip(*batches, strict=True)]
    return result[name] | kind.of_whole(*whole)


def test_names_in_the_config_are_those_of_the_code():
    assert config_tasks.CHOICES["kind"] == tuple(kinds.KINDS)
    assert config_tasks.CHOICES["loss"] == tuple(losses.OF_NUMBERS)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_multilabel_loss_against_numpy(smoothing):
    logits, labels = tags(0)
    found = TAGS.loss(jnp.array(logits), jnp.array(labels), smoothing)
    x, known = logits.astype(np.float64), labels[:, 0] >= 0
    p = 1 / (1 + np.exp(-x))
    y = labels * (1 - smoothing) + smoothing / 2
    expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean(axis=1)
    np.testing.assert_allclose(found, np.where(known, expected, 0), rtol=1e-5)


@pytest.mark.parametrize(
    ("numbers", "shown"),
    [
        ([120.01, 125.45], ["120.01", "122.73", "125.45"]),
        ([-3, 1234567, 16777216], ["-3", "1234567", "16777216"]),
        ([np.nan], ["–", "–", "–"]),
    ],
)
def test_a_summary_of_numbers_has_no_digits_of_float32(numbers, shown):
    summary = AGE.label_summary(np.array(numbers, np.float32))
    assert list(summary.values()) == shown


@pytest.mark.parametrize("loss", ["huber", "squared"])
def test_regression_loss_against_numpy(loss):
    logits, labels = ages(0)
    kind = Regression(30.0, 12.0, loss)
    found = kind.loss(3 * jnp.array(logits), jnp.array(labels))
    error = 3 * logits[:, 0] - (labels.astype(np.float64) - 30) / 12
    if loss == "squared":
        expected = error**2
    else:
        a = np.abs(error)
        expected = np.where(a <= 1, 0.5 * a**2, a - 0.5)
    np.testing.assert_allclose(found, np.nan_to_num(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [TAGS, AGE, Regression(30.0, 12.0, "squared")])
def test_missing_labels_have_no_gradient(kind):
    logits, labels = (tags if kind is TAGS else ages)(1)
    gradient = jax.grad(lambda x: jnp.sum(kind.loss(x, jnp.array(labels))))(
        jnp.array(logits)
    )
    known = kind.is_labelled(labels)
    assert 0 < known.sum() < len(known)
    assert not np.any(gradient[~known])
    assert np.all(np.isfinite(gradient))
    assert np.all(np.any(gradient[known] != 0, axis=1))


def test_multilabel_measures_against_scikit_learn():
    batches = [tags(2), tags(3, 11)]
    found = of_batches(TAGS, batches)
    logits, labels = (np.concatenate(a) for a in zip(*batches, strict=True))
    known = labels[:, 0] >= 0
    logits, labels = logits[known], labels[known]
    # The last class never occurs, and has no average precision.
    ap = sklearn_metrics.average_precision_score(labels[:, :3], logits[:, :3])
    assert found["map"] == pytest.approx(ap)
    f1 = sklearn_metrics.f1_score(labels, logits > 0, average="micro")
    assert found["f1"] == pytest.approx(f1)
    assert found["count"] == known.sum()


def test_regression_measures_against_scipy():
    batches = [ages(4), ages(5, 13)]
    found = of_batches(AGE, batches)
    logits, labels = (np.concatenate(a) for a in zip(*batches, strict=True))
    known = ~np.isnan(labels)
    predicted = 30 + 12 * logits[known, 0].astype(np.float64)
    error = sklearn_metrics.mean_absolute_error(labels[known], predicted)
    assert found["mae"] == pytest.approx(error, rel=1e-5)
    pearson = stats.pearsonr(predicted, labels[known])[0]
    assert found["pearson"] == pytest.approx(pearson, rel=1e-5)
    assert AGE.goodness(found) == pytest.approx(1 - error / 12, rel=1e-5)
    np.testing.assert_allclose(AGE.answer(logits[known]), predicted, rtol=1e-5)


def test_measures_that_do_not_exist():
    logits, labels = ages(6)
    constant = np.full_like(labels, 20)
    assert np.isnan(of_batches(AGE, [(logits, constant)])["pearson"])
    assert np.isnan(of_batches(AGE, [(0 * logits, labels)])["pearson"])
    assert np.isnan(of_batches(AGE, [(logits + np.nan, labels)])["pearson"])
    nothing = of_batches(AGE, [(logits, AGE.unlabelled(len(logits)))])
    assert nothing["count"] == 0
    assert np.isnan([nothing["mae"], nothing["pearson"], nothing["loss"]]).all()
    logits, labels = tags(7)
    without = of_batches(TAGS, [(logits, 0 * labels)])
    assert np.isnan(without["map"])
    assert without["f1"] == 0
    nothing = of_batches(TAGS, [(logits, TAGS.unlabelled(len(logits)))])
    assert nothing["count"] == 0
    assert np.isnan([nothing["map"], nothing["f1"], nothing["loss"]]).all()
    assert np.isnan(of_batches(TAGS, [(logits + np.nan, labels)])["map"])


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1_234_567, "1234567"),
        (16_777_215, "16777215"),
        (-0.1, "-0.1"),
        (1 / 3, "0.33333334"),
        (12, "12"),
        (3e38, "3e+38"),
        (1e-38, "1e-38"),
    ],
)
def test_numbers_are_written_with_all_their_digits(number, text):
    number = np.float32(number)
    assert AGE.said(number) == AGE.label_text(number) == text
    assert AGE.row(number, 1) == [text]
    assert np.float32(text) == np.float32(AGE.as_json(number, 1)) == number
    assert AGE.brief(number) == f"{number:.2f}"  # what people read


def test_a_prediction_that_is_no_number_is_none_in_json():
    assert AGE.as_json(np.float32(31.25), 5) == 31.25
    assert AGE.as_json(np.float32("nan"), 5) is None
    assert AGE.as_json(np.float32("inf"), 5) is None


def test_all_tasks_right_is_over_categorical_ones():
    noun = Categorical(("a", "b", "c"))
    of = {"tags": TAGS, "noun": noun, "age": AGE}
    rng = np.random.default_rng(8)
    logits = {"tags": tags(8)[0], "age": ages(8)[0]}
    logits["noun"] = rng.normal(size=(30, 3)).astype(np.float32)
    labels = {"tags": tags(8)[1], "age": ages(8)[1], "noun": np.arange(30) % 3}
    x, y = jax.tree.map(jnp.array, (logits, labels))
    loss = {task: kind.loss(x[task], y[task]) for task, kind in of.items()}
    result = metrics.means([metrics.sums(of, x, y, loss)], of)
    right = np.mean(np.argmax(logits["noun"], axis=1) == labels["noun"])
    assert list(result) == ["tags", "noun", "age", "joint"]
    assert result["joint"] == {"count": 30, "top1": pytest.approx(right)}
    line = metrics.in_a_line(result, of)
    assert line.startswith(f"F1  tags {100 * result['tags']['f1']:.2f}  top-1  noun ")
    assert line.endswith(f"MAE  age {result['age']['mae']:.4g}")
    goodness = [result["tags"]["f1"], right, 1 - result["age"]["mae"] / 12]
    result["tags"]["map"] = goodness[0]
    assert metrics.score(result, of, "mean") == pytest.approx(np.mean(goodness))
    assert metrics.score(result, of, "age") == pytest.approx(goodness[2])


# Lists.


@pytest.fixture
def listed(tmp_path):
    """Reads a manifest of `animals` and `age` with these cells, a row each."""

    def read(*cells, animals="multilabel", age="regression"):
        rows = ["file,split,animals,age"]
        for i, (split, animal, years) in enumerate(cells):
            Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
            rows.append(f'{i}.png,{split},"{animal}",{years}')
        (tmp_path / "labels.csv").write_text("\n".join(rows))
        tasks = {"animals": default_task(), "age": default_task()}
        tasks["animals"].kind, tasks["age"].kind = animals, age
        return read_manifest(tmp_path / "labels.csv", tasks)

    return read


GOOD = [
    ("train", "dog; cat", "10"),
    ("train", "-", "2e1"),
    ("train", "", ""),
    ("train", "cat", "+30"),
    ("val", "dog;dog", "-1.5"),
]


def test_cells_of_a_list(listed):
    manifest = listed(*GOOD)
    assert manifest.kinds["animals"] == Multilabel(("cat", "dog"))
    np.testing.assert_array_equal(
        manifest.labels["animals"], [[1, 1], [0, 0], [-1, -1], [1, 0], [0, 1]]
    )
    np.testing.assert_array_equal(
        manifest.labels["age"], np.array([10, 20, np.nan, 30, -1.5], np.float32)
    )
    # Of the training pictures alone.
    assert manifest.kinds["age"] == Regression(20.0, np.std([10.0, 20.0, 30.0]))
    assert [manifest.labelled("train", task) for task in ("animals", "age")] == [3, 3]
    assert manifest.example(0)["animals"] == [0, 1]
    assert manifest.example(1)["animals"] == []
    assert manifest.example(2)["animals"] == [-1]
    texts = [TAGS.label_text(label) for label in ([1, 0, 0, 1], [0] * 4, [-1] * 4)]
    assert texts == ["cat;rat", "-", ""]


def test_a_class_with_a_comma_in_a_list_without_several_labels(listed):
    """The list that was trained has "rock, pop;jazz", from which the class is known."""
    trained = listed(("train", "rock, pop;jazz", "1"), ("train", "jazz", "2")).kinds
    path = listed(("train", "jazz", "1")).path
    path.write_text('file,split,animals,age\n0.png,test,"rock, pop",1\n')
    manifest = read_manifest(path, trained=trained)
    np.testing.assert_array_equal(manifest.labels["animals"], [[0, 1]])
    with pytest.raises(UserError, match="write ';' instead"):
        listed(("train", "rock, pop", "1"))


@pytest.mark.parametrize(("age", "doubtful"), [("1.7e9", True), ("1000", False)])
def test_numbers_that_float32_hardly_tells_apart_are_warned_of(listed, age, doubtful):
    cells = [("train", "cat", str(float(age) + 60 * i)) for i in range(3)]
    manifest = listed(*cells)
    found = about_labels(manifest.kinds, manifest.labels)
    assert [line.partition(": ")[0] for line in found] == ["age"] * doubtful


def test_cells_of_a_list_that_a_trained_network_is_evaluated_on(listed):
    """Classes are those of training, in its order, and numbers in its unit."""
    trained = listed(*GOOD).kinds | {"place": Categorical(("indoors", "outside"))}
    cells = [("test", "dog", "7"), ("test", "-", ""), ("val", "", "8")]
    path = listed(*GOOD[:4]).path
    rows = [f"{i}.png,{','.join(of)}" for i, of in enumerate(cells)]
    path.write_text("\n".join(["file,split,animals,age", *rows]))
    manifest = read_manifest(path, trained=trained)
    assert manifest.kinds == trained
    np.testing.assert_array_equal(
        manifest.labels["animals"], [[0, 1], [0, 0], [-1, -1]]
    )
    np.testing.assert_array_equal(manifest.labels["age"], np.float32([7, np.nan, 8]))
    np.testing.assert_array_equal(manifest.labels["place"], [-1, -1, -1])
    turned = trained | {"animals": Multilabel(("dog", "cat"))}
    other = read_manifest(path, trained=turned)
    assert other.labels["animals"][0].tolist() == [1, 0]
    assert other.fingerprint != manifest.fingerprint
    path.write_text(path.read_text().replace("dog", "dog;cow"))
    with pytest.raises(UserError, match=r"may hold only the 2 classes .* has 'cow'"):
        read_manifest(path, trained=trained)


def test_shards_of_other_kinds_are_others_and_those_of_classes_stay(listed):
    names = {
        (a, b): listed(*GOOD[:4], animals=a, age=b).fingerprint
        for a, b in [
            ("multilabel", "regression"),
            ("multilabel", "categorical"),
            ("categorical", "categorical"),
        ]
    }
    assert len(set(names.values())) == 3
    path = listed(*GOOD[:4]).path
    assert read_manifest(path).fingerprint == names["categorical", "categorical"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("train", "cat", "3;5"), "column 'age' must hold finite numbers"),
        (("train", "cat", "old"), "row 7 has 'old': write a number"),
        (("train", "cat", "nan"), "row 7 has 'nan'"),
        (("val", "cat", "-inf"), "row 7 has '-inf'"),
        (("val", "cat", "1e39"), "row 7 has '1e39'"),
        (("val", "cat", "1_000"), "row 7 has '1_000'"),
        (("train", "cat;", "1"), "row 7 has 'cat;': remove what does not belong"),
        (("train", "cat;-", "1"), "'-' on its own means none of them"),
        (("train", ";", "1"), "row 7 has ';'"),
        (("val", "cat;owl", "1"), "every class needs a picture in train, but row 7"),
    ],
)
def test_mistakes_in_cells(listed, row, message):
    with pytest.raises(UserError) as error:
        listed(*GOOD, row)
    assert "labels.csv: column" in str(error.value)
    assert message in str(error.value)


def test_another_separator_is_told_of(listed):
    for cell in ("dog|cat", "dog, cat"):
        rows = [("train", cell, "1"), ("train", "dog", "2"), ("val", "-", "3")]
        with pytest.raises(UserError, match=r"row 2 has .*: write ';' instead"):
            listed(*rows)
        listed(*rows, ("train", "dog;cat", "1"))  # then it is part of a name


def test_columns_without_labels(listed):
    with pytest.raises(UserError, match="column 'animals' has no label at all"):
        listed(("train", "-", "1"), ("val", "", "2"))
    with pytest.raises(UserError, match="column 'age' has no number in train"):
        listed(("train", "dog", ""), ("val", "dog", "2"))


def test_equal_numbers_have_a_deviation_of_one(listed):
    kind = listed(("train", "dog", "0.1"), ("train", "dog", "0.1")).kinds["age"]
    assert kind == Regression(0.1, 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "regresion"}, "config.tasks.age.kind is 'regresion'; it can be: cat"),
        ({"loss": "l1"}, "config.tasks.age.loss is 'l1'; it can be: huber, squared"),
        ({"loss": "squared"}, "is for a regression, and the task is categorical"),
        ({"kind": "regression", "classes": 3}, "a regression has no classes"),
        ({"kind": "multilabel", "classes": -1}, "must be 1 or more"),
        ({"classes": 1}, "must be 2 or more"),
    ],
)
def test_mistakes_in_the_config(changes, message):
    config = default()
    for field, value in changes.items():
        config_check.set_field(config, f"tasks.age.{field}", value)
    with pytest.raises(UserError, match=message):
        config_check.check(config)


def test_examples_are_drawn_by_classes_alone():
    config = default()
    config_check.set_field(config, "tasks.age.kind", "regression")
    config.data.sampling, config.data.sampling_task = "balanced", "age"
    with pytest.raises(UserError, match="that task is regression"):
        config_check.with_tasks(config_check.check(config), {"age": 1, "noun": 3})
