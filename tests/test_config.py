"""Configs: every file loads and builds, every mistake has one message."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from crl_jax import cli, config_check, config_tasks, models, workdir
from crl_jax import config as config_lib
from crl_jax.data import source
from crl_jax.errors import UserError
from crl_jax.kinds import Categorical

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))
DIGITS = str(Path(__file__).parents[1] / "configs" / "digits.py")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_validates_and_builds_its_network(path, solid_pictures):
    config = cli.load_config(str(path))
    classes = config_lib.given_classes(config)
    if not classes:
        if not config.data.tfds:  # the user names the manifest
            config = cli.load_config(
                str(path), [("data.manifest", str(solid_pictures))]
            )
            if config.train.best_by == "fine":
                config = cli.load_config(
                    str(path),
                    [
                        ("data.manifest", str(solid_pictures)),
                        ("train.best_by", "mean"),
                    ],
                )
        classes = source.find_source(config).widths
    config = config_check.with_tasks(config, classes)
    network = models.build(config, classes)
    size = config.data.image_size
    shapes = jax.eval_shape(
        network.init, jax.random.key(0), jnp.zeros((1, size, size, 3), jnp.uint8)
    )
    assert set(shapes["params"]["head"]) == set(classes)
    assert "python -m crl_jax.main --config=configs/" in path.read_text()


def test_vso_config_has_the_sizes_of_the_paper():
    config = cli.load_config(str(CONFIGS[-1]))
    assert config_lib.given_classes(config) == {
        "noun": 167,
        "adjective": 117,
        "anp": 553,
    }


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("model.depth", "34", 34),
        ("model.width", "2", 2.0),
        ("optim.learning_rate", "1e-3", 1e-3),
        ("model.cross.learned", "true", True),
        ("model.cross.learned", "False", False),
        ("data.mean", "(0, 0.5, 1)", (0, 0.5, 1)),
        ("optim.decay_at", "(0.3,)", (0.3,)),
        ("model.remat", "(2, 3)", (2, 3)),
        ("model.remat", "2,3", (2, 3)),
        ("model.remat", "2", (2,)),
        ("data.dir", "3", "3"),
        ("tasks.noun.weight", "0.5", 0.5),
        ("data.tasks.digit", "noun", "noun"),
    ],
)
def test_fields_are_set_from_text(name, text, value):
    config = cli.load_config(DIGITS, [(name, text)])
    found = dict(config_lib.fields(config))[name]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "modle.depth",
            "3",
            r"Did you mean config.model.depth",
        ),
        ("model.dept", "3", r"Did you mean config.model.depth\?"),
        ("depth", "3", r"config.depth does not exist. Did you mean config.model.depth"),
        (
            "optim.lr",
            "3",
            r"config.optim has cagrad_c.*, learning_rate, .*weighting_rate\.$",
        ),
        ("tasks.noun.typ", "x", r"config.tasks.noun has classes, kind, loss, weight\."),
        ("task.noun.kind", "x", r"Did you mean config.tasks.noun.kind\?"),
        ("tasks.noun.a.b", "3", r"config.tasks.noun.a.b does not exist. `crl_jax/con"),
        ("train.batch_size", "3", r"Did you mean config.data.batch_size\?"),
        ("zzz", "3", r"config.zzz does not exist. `crl_jax/config.py` lists"),
        ("model", "3", r"config.model is a group of fields"),
        ("tasks.noun", "3", r"config.tasks.noun is a group of fields"),
        ("tasks.noun.wieght", "3", r"Did you mean config.tasks.noun.weight\?"),
        ("tasks.a-b.weight", "3", r"no task can be named 'a-b'. Use letters, digits"),
        ("data.tasks.joint", "noun", r"config.data.tasks.joint: no task can be named"),
        ("data.tasks.image", "noun", r"'image'.*none of the names file, split, image"),
        ("tasks.file.weight", "3", r"config.tasks.file.weight: no task .* 'file'"),
        ("model.depth", "many", r"depth is 'many'; it must be a whole number"),
        ("model.depth", "18.5", r"depth is 18.5; it must be a whole number"),
        ("model.depth", "19", r"depth is 19; it can be: 12, 18, 34, 50, 101, 152"),
        ("model.depth", "{[]: 1}", r"depth is '{\[\]: 1}'; it must be a whole number"),
        ("model.depth", "(" * 300, r"it must be a whole number"),
        ("model.width", "True", r"width is True; it must be a number"),
        ("model.width", "0", r"width is 0.*must be above 0"),
        ("model.remat", "(1, 2)", r"remat is \(1, 2\); it can list the stages 2, 3, 4"),
        ("model.width", "0.001", r"width is 0.001, which leaves none of 64"),
        ("optim.learning_rate", "1e999", r"rate is inf; it must be a number"),
        ("optim.decay_by", "-1", r"decay_by is -1.0; it cannot be below 0"),
        ("data.flip", "no", r"flip is 'no'; it must be True or False"),
        ("data.mean", "(1, 2)", r"mean needs three numbers"),
        ("data.resize", "256", r"resize=256 scales the pictures of a manifest, but"),
        ("data.ignore", "notes", r"ignore='notes' names columns of config.data.manif"),
        ("data.eval_crop", "0", r"eval_crop is 0.*must be above 0"),
        ("data.std", "(1, 0, 1)", r"std.*above 0"),
        ("data.std", "(58.4, 57.1, 57.4)", r"std is \(58.* divide what .* by 255"),
        ("data.mean", "(123.7, 116.8, 103.9)", r"mean is \(123.* divide what"),
        ("data.image_size", "100000", r"image_size is 100000; the largest is 8192"),
        ("data.std", "(1, 1e999, 1)", r"std is \(1, inf, 1\); it must be numbers"),
        ("data.batch_size", "-1", r"batch_size is -1; it must be above 0"),
        ("optim.warmup", "1.5", r"warmup is 1.5; it must be between 0 and 1"),
        ("optim.momentum", "1", r"momentum is 1.0; it must be 0 or more, and below 1"),
        ("train.seed", "4294967296", r"seed is 4294967296; the largest is 4294967295"),
        ("optim.decay_at", "(0.5, 2)", r"decay_at.*between 0 and 1"),
        ("model.cross.kind", "conv", r"kind=conv without learning is the same as"),
        (
            "train.accumulate",
            "5",
            r"does not divide into .*accumulate=5 equal",
        ),
        ("train.steps", "5", r"train.steps and config.train.epochs are both set"),
        ("tasks.noun.weight", "-1", r"weight is -1.*cannot be below 0"),
        ("tasks.noun.classes", "1", r"classes is 1; it must be 2 or more"),
    ],
)
def test_a_wrong_field_has_one_message(name, text, message):
    with pytest.raises(UserError, match=message):
        cli.load_config(DIGITS, [(name, text)])


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (["mood", "mood_1"], r"beside a task 'mood' no other can be named 'mood_1'"),
        (["mood_predicted", "mood"], r"'mood' no other can be named 'mood_predicted'"),
        (["joint_mood", "mood"], r"'mood' no other can be named 'joint_mood'"),
        (["mood", "mood_1_probability"], r"can be named 'mood_1_probability'"),
        (["error"], r"The data: no task can be named 'error'"),
        (["joint_probability"], r"no task can be named 'joint_probability'"),
    ],
)
def test_no_task_is_called_as_a_column_of_predictions(tasks, message):
    config = config_check.check(config_lib.default())
    with pytest.raises(UserError, match=message):
        config_tasks.check_against(config, dict.fromkeys(tasks, 2))
    config_tasks.check_against(config, {"mood": 2, "mood_swings": 2, "mood1": 2})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def get_config(:\n", r"line 1: SyntaxError"),
        ("def get_config():\n    return 1 / 0\n", r"line 2: ZeroDivisionError"),
        ("x = 1\n", r"must define get_config\(\)"),
        ("def get_config():\n    pass\n", r"must define get_config\(\)"),
        (
            "from crl_jax.config import default\n"
            "def get_config():\n"
            "    config = default()\n"
            "    config.modle = 3\n"
            "    return config\n",
            r"config.modle does not exist.*config.model",
        ),
    ],
)
def test_a_wrong_config_file_is_named(tmp_path, content, message):
    path = tmp_path / "mine.py"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        cli.load_config(str(path))


@pytest.mark.parametrize(
    ("line", "name", "text"),
    [
        ("config.model.frozen = 'res4'", "init.from", "resnet50.h5"),
        ("config.data.sampling = 'balanced'", "data.sampling_task", "noun"),
        ("config.data.ignore = 'notes'", "data.manifest", "labels.csv"),
    ],
)
def test_the_command_line_completes_a_config_file(tmp_path, line, name, text):
    path = tmp_path / "mine.py"
    path.write_text(
        "from crl_jax.config import default\n"
        f"def get_config():\n    config = default()\n    {line}\n    return config\n"
    )
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        cli.load_config(path)
    config = cli.load_config(path, [(name, text)])
    assert dict(config_lib.fields(config))[name] == text


def test_a_config_file_that_does_not_exist():
    with pytest.raises(UserError, match=r"nowhere.py: there is no such file"):
        cli.load_config("nowhere.py")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdirr=x"], r"'--workdirr=x' is not an argument"),
        (["extra"], r"'extra' is not an argument"),
        (["--config.data.flip"], r"has no value: write --config.data.flip=VALUE"),
    ],
)
def test_a_wrong_argument_is_answered(arguments, message):
    verb = cli.parser("main", None)
    cli.add_config(verb)
    with pytest.raises(UserError, match=message):
        cli.read(verb, [f"--config={DIGITS}", *arguments])


def test_ignored_columns_are_the_same_in_any_order():
    checked = []
    for text in ("notes, by", "by,notes,by"):
        config = config_lib.default()
        config.data.manifest, config.data.ignore = "labels.csv", text
        checked.append(config_check.check(config))
    assert config_lib.differences(*checked) == []


def test_differences_name_the_fields():
    a, b = (config_check.check(config_lib.default()) for _ in range(2))
    assert config_lib.differences(a, b) == []
    b = b.copy_and_resolve_references().unlock()
    b.model.depth, b.data.mean = 18, (0, 0, 0)
    assert config_lib.differences(a, b) == ["data.mean", "model.depth"]


def test_tasks_keep_their_order(tmp_path):
    """It is the order of the task axis, in which a network's branches are stacked."""
    config = cli.load_config(DIGITS)
    assert list(config.data.tasks) == ["noun", "adjective", "anp"]
    kinds = {task: Categorical(("a", "b")) for task in ("noun", "adjective", "anp")}
    config = config_check.with_tasks(config, {task: 2 for task in kinds})
    with workdir.claim(tmp_path, workdir.Run(config, kinds, "digits/1.0.0")):
        pass
    read = workdir.read(tmp_path).config
    assert list(read.data.tasks) == list(read.tasks) == ["noun", "adjective", "anp"]
    assert config_lib.differences(read, config) == []


def test_what_the_system_refuses_is_answered_with_its_name(capsys):
    name = 300 * "a"
    with pytest.raises(SystemExit, match="2"):
        cli.run(lambda: print(Path(name).stat()))
    assert capsys.readouterr().err == f"error: {name}: File name too long.\n"


def test_the_exit_status_is_right_even_if_nobody_reads_the_message():
    """As in `2>&1 | tee log` after Ctrl-C."""
    program = """
from crl_jax import cli, errors

def stop():
    raise errors.Stopped("Stopped by SIGINT.", 2)

cli.run(stop)
"""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed:
        command = [sys.executable, "-c", program]
        ended = subprocess.run(command, stdout=closed, stderr=closed)
    assert ended.returncode == 130


def test_too_little_memory_is_answered(capsys):
    def main():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory: 9 GiB")

    with pytest.raises(SystemExit, match="2"):
        cli.run(main)
    assert "smaller config.data.batch_size" in capsys.readouterr().err
