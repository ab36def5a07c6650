"""Nothing in data is run, and names of any letters go through unharmed."""

import ast
import csv
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crl_jax import config_check, evaluation
from crl_jax.data import inspection, pictures, preprocess
from crl_jax.data.quiet import tf
from crl_jax.train import train

PACKAGE = Path(__file__).parents[1] / "crl_jax"

# Modules and functions that run what they read, or hand it to a shell.
FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "pty"),
    *("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve"),
    *("marshal", "yaml", "subprocess", "torch.load", "shell", "allow_pickle"),
    "runpy",
}
# The config file is Python, which runs with the user's rights; the README says so.
# Weights in a .pth lie in a pickle, of which tensors alone are read.
ALLOWED = {("cli.py", "runpy"), ("models/weight_files.py", "pickle")}


def dotted(node):
    """The name of a function or attribute, as `a.b.c`."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def dangerous(tree):
    """What a module imports or calls that runs what it is given."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [
                node.module or "",
                *(f"{node.module}.{a.name}" for a in node.names),
            ]
        elif isinstance(node, ast.Call):
            names = [dotted(node.func)]
            names += [k.arg or "" for k in node.keywords if not is_false(k.value)]
        for name in names:
            if {name, name.split(".")[0]} & FORBIDDEN:
                yield name.split(".")[0]


def is_false(node):
    return isinstance(node, ast.Constant) and node.value is False


def test_no_code_of_the_package_runs_what_it_reads():
    found = {
        (str(path.relative_to(PACKAGE)), name)
        for path in PACKAGE.rglob("*.py")
        for name in dangerous(ast.parse(path.read_text("utf-8")))
    }
    assert found == ALLOWED


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from yaml import load",
        "eval(text)",
        "import os\nos.system(name)",
        "np.load(file, allow_pickle=True)",
        "run(name, shell=True)",
    ],
)
def test_the_search_finds_each_kind(code):
    assert list(dangerous(ast.parse(code)))


NAMES = [
    'say "hi", cat',
    "<script>alert('x')</script>",
    "../../etc",
    "図 é ß \u202eabc",
    "=1+1",
    "%s {x} $(touch hit) `touch hit` [red]",
]


@pytest.fixture
def odd(small_config, tmp_path):
    """A manifest whose classes and files have the names above."""
    folder = tmp_path / 'a "b", <c> é'
    folder.mkdir()
    rows = [["file", "split", "hue", "number"]]
    for i, name in enumerate(NAMES):
        for split in ("train", "val", "test"):
            file = f"{split} {name.replace('/', '∕')}.png"
            color = np.full((8, 8, 3), 30 * i, np.uint8)
            Image.fromarray(color).save(folder / file)
            rows.append([file, split, name, NAMES[-1 - i]])
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    small_config.data.manifest = str(folder / "labels.csv")
    small_config.data.dir = str(tmp_path / "shards <b>")
    small_config.train.steps = 1
    return small_config, {row[0]: row[1:] for row in rows[1:]}


def test_odd_names_go_through_everything(odd, tmp_path, monkeypatch, capfd):
    config, rows = odd
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "run 'é', <i>"
    train(config, directory)
    classes = json.loads((directory / "classes.json").read_text("utf-8"))
    assert classes == {"hue": sorted(NAMES), "number": sorted(NAMES)}

    evaluation.evaluate(directory, "test", tmp_path / "predictions.csv")
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as file:
        found = {row["file"]: row for row in csv.DictReader(file)}
    expected = {file: row for file, row in rows.items() if row[0] == "test"}
    assert set(found) == set(expected)
    for file, (_, hue, number) in expected.items():
        assert (found[file]["hue"], found[file]["number"]) == (hue, number)
        assert found[file]["hue_predicted"] in NAMES

    inspection.inspect(config_check.check(config), tmp_path / "<u>", 0, 0.1)
    with (tmp_path / "<u>" / "counts.csv").open(newline="", encoding="utf-8") as file:
        counts = {(row["task"], row["class"]) for row in csv.DictReader(file)}
    assert counts == {(task, name) for task in ("hue", "number") for name in NAMES}
    assert capfd.readouterr().err == ""
    assert not list(tmp_path.rglob("hit"))


def bomb():
    """A PNG of 60,000 x 60,000 pixels by its header, and of 60 bytes."""

    def chunk(kind, content):
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = (
        chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"0"))
        + chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + data


def test_a_header_that_claims_too_much_is_refused(tmp_path, small_config):
    """In preparation by the header; in training TensorFlow has a limit, too."""
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb())
    with pytest.raises(pictures.BadPicture, match=r"than [\d,]+ pixels: scale it down"):
        pictures.encode(path)
    with pytest.raises(tf.errors.InvalidArgumentError):
        preprocess.eval_image(tf.constant(bomb()), small_config.data)
