"""Whatever is typed or listed, the answer is a run or one clear message."""

import contextlib
import csv
import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import fuzz
import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from crl_jax import cli, config_check, models, optim, step, train_state
from crl_jax import config as config_lib
from crl_jax.data import preprocess
from crl_jax.data.manifest import read_manifest
from crl_jax.data.quiet import tf
from crl_jax.errors import UserError
from crl_jax.kinds import Categorical
from crl_jax.schedule import Schedule

DIGITS = Path(__file__).parents[1] / "configs" / "digits.py"

# The examples are the same each time; no one waits long on a machine that is busy.
steady = settings(
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

FIELDS = dict(config_lib.fields(config_lib.default()))
names = st.one_of(
    st.sampled_from([*FIELDS, "tasks.noun.weight", "tasks.noun.classes", "model"]),
    st.text(max_size=20),
)
texts = st.one_of(
    st.integers(-3, 300).map(str),
    st.floats().map(str),
    st.sampled_from(["", "True", "None", "()", "(1, 2, 3)", "[0.5]", "{[]: 1}", "{"]),
    st.sampled_from([str(value) for value in FIELDS.values()]),
    st.sampled_from(["(" * 300, "9" * 5000, "1e999", "-", "__import__('os')", "a\nb"]),
    st.text(max_size=20),
)


GOOD_OVERRIDES = [("train.epochs", "3"), ("optim.name", "adamw")]


@steady
@given(st.lists(st.tuples(names, texts), max_size=4))
@example(GOOD_OVERRIDES)
def test_any_override(overrides):
    try:
        config = cli.load_config(DIGITS, overrides)
    except UserError:
        assert overrides != GOOD_OVERRIDES
        return
    taken = dict(config_lib.fields(config))
    assert {name for name, _ in overrides} <= taken.keys()
    if overrides == GOOD_OVERRIDES:
        assert (taken["train.epochs"], taken["optim.name"]) == (3.0, "adamw")


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 70),
    st.floats(),
    st.text(max_size=9),
    st.sampled_from([v for v in FIELDS.values() if isinstance(v, str)]),
    st.lists(st.floats(), max_size=3),
)


@steady
@given(st.dictionaries(st.sampled_from(list(FIELDS)), values, max_size=4))
def test_any_value_in_a_config_file(changes):
    config = config_lib.default()
    for name, value in changes.items():
        *groups, field = name.split(".")
        group = config
        for part in groups:
            group = group[part]
        with group.ignore_type():
            group[field] = value
    with contextlib.suppress(UserError):
        config_check.check(config)


def like(value):
    """Values of the type of a field, most of them not absurd."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int):
        return st.sampled_from([0, 1, 2, 3, 5, 7, 8, 16, 31, 64, 1000, 2**31])
    if isinstance(value, float):
        return st.sampled_from([0.0, 1e-30, 0.01, 0.3, 0.5, 1.0, 2.5, 1e30])
    if isinstance(value, tuple):
        return st.lists(st.sampled_from([0.1, 0.5, 0.9]), max_size=3).map(tuple)
    choices = {word for words in config_check._CHOICES.values() for word in words}
    words = sorted(word for word in choices if isinstance(word, str))
    return st.sampled_from(
        [*words, "stem", "head", "res2a", "res3a", "res5a", "number"]
    )


LIKELY = [
    name
    for name in FIELDS
    if name not in ("data.manifest", "data.tfds", "data.dir", "model.depth")
]


@settings(steady, max_examples=25)
@given(
    st.dictionaries(st.sampled_from(LIKELY), st.integers(0, 2**16), max_size=3).flatmap(
        lambda names: st.fixed_dictionaries({n: like(FIELDS[n]) for n in names})
    ),
    st.sampled_from([np.zeros((1, 1, 3)), np.zeros((50, 3, 3)), np.zeros((9, 300, 3))]),
)
def test_what_passes_the_checks_can_be_trained(changes, picture):
    """As far as shapes go; a step of 2**31 examples is not computed."""
    config = config_lib.default()
    config.model.depth, config.model.width = 12, 0.125
    config.train.steps, config.data.image_size, config.data.batch_size = 4, 16, 8
    classes = {"hue": 2, "number": 7}
    try:
        for name, value in changes.items():
            config_check.set_field(config, name, value)
        config = config_check.with_tasks(config_check.check(config), classes)
        network = models.build(config, classes)
        schedule = Schedule.of(config, examples=14)
    except UserError:
        return
    rate = optim.learning_rate(config.optim, schedule.steps)
    optimizer = optim.make(config.optim, rate, step.gradient_norm(network))
    if config.data.image_size > 100:
        return
    encoded = tf.io.encode_png(tf.cast(picture, tf.uint8))
    size = config.data.image_size
    seed = tf.constant([config.train.seed, 0], tf.int64)
    image = preprocess.train_image(encoded, seed, config.data)
    assert image.shape == preprocess.eval_image(encoded, config.data).shape
    assert image.shape == (size, size, 3)
    kinds = {t: Categorical(tuple(map(str, range(k)))) for t, k in classes.items()}
    state = jax.eval_shape(
        lambda: train_state.create_state(
            network, optimizer, config, kinds, jax.random.key(0)
        )
    )
    assert np.isfinite(float(rate(0)))
    assert state.step.shape == ()


cells = st.one_of(
    st.sampled_from(["", "a.jpg", "b.jpg", "sub/c.jpg", "../a.jpg", "train", "val"]),
    st.sampled_from(["test", "cat", "dog", "file", "split", "noun", "image", "joint"]),
    st.text(max_size=6),
)


def written(rows):
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogatepass")


good_rows = st.lists(
    st.tuples(
        st.sampled_from(["a.jpg", "b.jpg", "sub/c.jpg", "d.jpg", "é 図.jpg"]),
        st.sampled_from(["train", "val", "test"]),
        st.text(max_size=5),
        st.sampled_from(["", "x", "y"]),
    ),
    max_size=5,
).map(lambda rows: [("file", "split", "noun", "adjective"), *rows])


@pytest.fixture(scope="module")
def reader():
    with tempfile.TemporaryDirectory() as folder:
        yield fuzz.manifest_reader(Path(folder).resolve())[1]


@steady
@given(
    st.one_of(
        st.lists(st.lists(cells, max_size=5), max_size=6).map(written),
        good_rows.map(written),
        st.binary(max_size=60),
    )
)
def test_any_manifest(reader, content):
    with contextlib.suppress(UserError):
        reader(content)


READ_ROWS = [
    ("file", "split", "noun", "adjective"),
    ("a.jpg", "train", " big, cat", "x"),
    ("é 図.jpg", "train", "図", "y"),
    ("sub/c.jpg", "val", "", "y"),
    ("b.jpg", "test", "big, cat ", ""),
    ("d.jpg", "test", "図", "x"),
]


@steady
@given(good_rows)
@example(READ_ROWS)
def test_a_manifest_that_is_read_keeps_every_cell(reader, rows):
    """Class names with any letters come back as they were, but for spaces around."""
    with tempfile.TemporaryDirectory() as folder:
        fuzz.manifest_reader(Path(folder))
        path = Path(folder) / "labels.csv"
        path.write_bytes(written(rows))
        try:
            found = read_manifest(path)
        except UserError:
            assert rows != READ_ROWS
            return
    for row, (file, split, noun, adjective) in enumerate(rows[1:]):
        example = found.example(row)
        assert (example["file"], found.splits[row]) == (file, split)
        for task, name in (("noun", noun.strip()), ("adjective", adjective)):
            label = example[task]
            assert name == (found.tasks[task][label] if label >= 0 else "")


@pytest.mark.parametrize("reader", fuzz.READERS)
def test_the_fuzz_runs_and_finds_nothing_in_a_moment(reader):
    counts = fuzz.fuzz(reader, seconds=2)
    assert counts["findings"] == 0
    assert counts["refused"] > 0


def test_the_fuzz_finds_what_there_is(monkeypatch, tmp_path):
    monkeypatch.setitem(fuzz.READERS, "manifest", lambda folder: (b"1", int))
    counts = fuzz.fuzz("manifest", seconds=0.5, findings=tmp_path)
    assert counts["findings"] > 0
    assert list(tmp_path.iterdir())


def test_the_command_of_the_docs(tmp_path):
    docs = (fuzz.PROJECT / "docs" / "reliability.md").read_text("utf-8")
    (command,) = re.findall(r"^python (-m tests.fuzz .*) --minutes=10$", docs, re.M)
    arguments = [*command.split(), "--minutes=0.01", f"--findings={tmp_path}"]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=fuzz.PROJECT, capture_output=True, text=True
    )
    assert re.fullmatch(r"manifest: [\d,]+ inputs: .*\n", done.stdout), done.stderr
