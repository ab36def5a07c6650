"""All that the README and the guides say to run runs as it is written, in a clone.

Training commands are made short by overrides at their end, and of the photographs
beside the clone only some classes are there; nothing else is changed.
"""

import csv
import importlib.util
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SHARED
from PIL import Image

from crl_jax.config import default_task
from crl_jax.data.manifest import read_manifest

PROJECT = Path(__file__).parents[1]
PHOTOGRAPHS = SHARED / "grocery_store"
PAGES = [
    f"docs/{name}.md"
    for name in ("index", "pictures", "method", "choosing", "limits", "export")
]
SHORT = [
    "--config.train.steps=2",
    "--config.train.epochs=0",
    "--config.model.depth=12",
    "--config.model.width=0.125",
    "--config.data.image_size=16",
    "--config.data.batch_size=8",
]
FEW_RUNS = ["--networks=S,X", "--seeds=1"]


def blocks(page, language):
    text = (PROJECT / page).read_text("utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(page="README.md"):
    """The commands in a page's bash blocks, without their comments."""
    lines = []
    for block in blocks(page, "bash"):
        joined = block.replace("\\\n", " ")
        lines += [re.sub(r"\s+#.*", "", line).strip() for line in joined.splitlines()]
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def clone(tmp_path_factory, solid_pictures):
    """A folder with the project's files, and a user's lists and pictures."""
    folder = tmp_path_factory.mktemp("readme") / "clone"
    folder.mkdir()
    names = ("crl_jax", "configs", "benchmarks", "Makefile", "setup.cfg")
    names += ("requirements.txt", "requirements-onnx.txt")
    for name in names:
        source = PROJECT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    for file in solid_pictures.parent.iterdir():
        shutil.copy(file, folder / file.name)
    labels = solid_pictures.read_text().replace("hue,number", "noun,adjective")
    (folder / "labels.csv").write_text(labels)
    (folder / "later.csv").write_text("file,split,adjective\n20.png,test,n6\n")
    cells = [("cat", "red;green", "1.5"), ("dog", "-", "2"), ("cat", "", "-3")]
    splits = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    rows = [
        f"{i:02}.png,{split},{','.join(cells[i % 3])}" for i, split in enumerate(splits)
    ]
    (folder / "kinds.csv").write_text("\n".join(["file,split,noun,colours,age", *rows]))
    (folder / "photos").mkdir()
    for name in ("20.png", "21.png"):
        shutil.copy(solid_pictures.parent / name, folder / "photos" / name)
    for name in ("001.jpg", "002.jpg", "004.jpg"):
        Image.new("RGB", (24, 20)).save(folder / "photos" / name)
    if PHOTOGRAPHS.is_dir():
        link_photographs(folder.parent / "shared" / "data" / "grocery_store")
    return folder


def link_photographs(folder):
    """Links those of some classes; the guides' commands prepare them five times."""
    folder.mkdir(parents=True)
    (folder / "images").symlink_to(PHOTOGRAPHS / "images")
    with (PHOTOGRAPHS / "labels.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    kept = set(sorted({row[-1] for row in rows})[::8])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *(row for row in rows if row[-1] in kept)])


def make_groceries(folder):
    """A data set in the folders of the Grocery Store's authors."""
    kinds = ("Fruit/Apple/Pink-Lady", "Fruit/Kiwi", "Vegetables/Leek")
    for split, count in (("train", 4), ("val", 1), ("test", 1)):
        for kind in kinds:
            (folder / split / kind).mkdir(parents=True)
            for i in range(count):
                picture = Image.new("RGB", (24, 20), (40 * i, 0, 0))
                picture.save(folder / split / kind / f"{i}.jpg")


def environment(clone):
    """That of a user with one device; what is compiled is kept for the next command."""
    kept = {n: v for n, v in os.environ.items() if n == "PATH" or n.startswith("JAX_")}
    return kept | {
        "HOME": str(clone),
        "COLUMNS": "80",
        "PYTHONUNBUFFERED": "1",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",  # quick to compile
    }


def run(clone, arguments):
    done = subprocess.run(
        arguments,
        cwd=clone,
        env=environment(clone),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def serve(clone, arguments):
    """Starts a page, and stops it once it says that it is there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen(
        [*arguments, f"--port={port}"],
        cwd=clone,
        env=environment(clone),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        line = process.stdout.readline()
        process.terminate()
    assert line.startswith("The page is at http://127.0.0.1:")


NEEDS = {
    "crl_jax.demo": "gradio",
    "crl_jax.compare": "matplotlib",
    "--to=onnx": "jax2onnx",
    "--to=space": "gradio",
    "hf": "gradio",
}


def why_not(clone, words):
    """Returns why a command cannot be run here; None if it can."""
    made_of_them = ("../shared/", "runs/grocery", "runs/few", "runs/same")
    on_photographs = any(part in word for word in words for part in made_of_them)
    if on_photographs and not (clone.parent / "shared").exists():
        return "no real photographs: ../shared is not there"
    for word, package in NEEDS.items():
        if word in words and importlib.util.find_spec(package) is None:
            return f"{package} is not installed"
    return None


_done: set[str] = set()  # several pages name the same commands


def is_done(command):
    """Notes a command; one that reads a run does with another what it did with one."""
    if not re.search(r"crl_jax\.(main|compare) ", command):
        command = re.sub(r" --workdir=\S+", "", command)
    if command in _done:
        return True
    _done.add(command)
    return False


@pytest.fixture(scope="module")
def trained(clone):
    """The clone, with the run of the README that all pages go on with."""
    trains = "python -m crl_jax.main "
    (command,) = (
        command
        for command in commands()
        if command.startswith(trains) and " --workdir=runs/mine " in command
    )
    is_done(command)
    run(clone, [sys.executable, *shlex.split(command)[1:], *SHORT])
    return clone


@pytest.mark.parametrize(
    "page",
    ["README.md", *PAGES, pytest.param("docs/results.md", marks=pytest.mark.slow)],
)
def test_every_command_and_all_python(trained, page):
    clone, skipped = trained, set()
    for command in commands(page):
        if is_done(command):
            continue
        words = shlex.split(command.removeprefix("onnx/bin/"))
        if reason := why_not(clone, words):
            skipped.add(reason)
        elif words[0] == "make":
            run(clone, ["make", "--dry-run", words[1], "VENV=.venv"])
        elif words[0] == "source" or words[:3] == ["python", "-m", "venv"]:
            assert words[-1] in (".venv/bin/activate", "onnx")
        elif words[:2] == ["pip", "install"]:
            extra = words[2].removeprefix(".[").removesuffix("]")
            config = (clone / "setup.cfg").read_text()
            assert extra == "." or re.search(rf"^{extra} =", config, re.M)
        elif words[:2] == ["git", "clone"]:
            make_groceries(clone / words[2].rpartition("/")[2] / "dataset")
        elif words[:2] == ["hf", "upload"]:  # what is uploaded there is there
            assert (clone / words[3] / "README.md").exists()
        else:
            assert words[:2] == ["python", "-m"], f"unknown kind of command: {command}"
            # A sweep is as many runs more, and is tested by itself.
            words = [word for word in words if not word.startswith("--sweep=")]
            short = {"crl_jax.main": SHORT, "crl_jax.compare": [*SHORT, *FEW_RUNS]}
            arguments = [sys.executable, *words[1:], *short.get(words[2], [])]
            if words[2] == "crl_jax.demo":
                serve(clone, arguments)
                continue
            done = run(clone, arguments)
            assert done.stderr == "", f"{command} wrote to the standard error"
    if code := blocks(page, "python"):
        run(clone, [sys.executable, "-c", "".join(code)])
    if skipped:
        pytest.skip("; ".join(skipped))


@pytest.mark.parametrize("page", ["README.md", "docs/pictures.md"])
def test_the_lists_of_a_page_can_be_read(page, tmp_path):
    text = (PROJECT / page).read_text("utf-8")
    lists = re.findall(r"```\n(file,split,.*?)```", text, re.DOTALL)
    assert lists
    tasks = {name: default_task() for name in ("colours", "age")}
    tasks["colours"].kind, tasks["age"].kind = "multilabel", "regression"
    (tmp_path / "photos").mkdir()
    for content in lists:
        (tmp_path / "labels.csv").write_text(content)
        _, *rows = csv.reader(content.splitlines())
        for file, *_ in rows:
            Image.new("RGB", (24, 20)).save(tmp_path / file)
        assert len(read_manifest(tmp_path / "labels.csv", tasks).files) == len(rows)


def test_the_readme_shows_the_way_from_a_clone_to_a_prediction():
    seen = " ".join(commands())
    for verb in ("main", "evaluate", "predict", "report", "demo", "export"):
        assert f"python -m crl_jax.{verb} " in seen
    assert {"make demo", "make test", "make install"} <= set(commands())


def test_make_demo_trains_what_is_tested_here():
    """`make demo` is the install and the digits command of the README."""
    makefile = (PROJECT / "Makefile").read_text()
    command = "python -m crl_jax.main --config=configs/digits.py --workdir=runs/digits"
    assert command in makefile
    assert command in " ".join(commands())
