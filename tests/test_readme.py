"""Every command of the README runs as it is written, in a copy of the project.

Training commands are made short by overrides at their end; nothing else is changed.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
SHORT = [
    "--config.train.steps=2",
    "--config.train.epochs=0",
    "--config.model.depth=12",
    "--config.model.width=0.125",
    "--config.data.image_size=16",
    "--config.data.batch_size=8",
]


def commands():
    """The commands in the README's bash blocks, without their comments."""
    text = (PROJECT / "README.md").read_text("utf-8")
    lines = []
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        joined = block.replace("\\\n", " ")
        lines += [re.sub(r"\s+#.*", "", line).strip() for line in joined.splitlines()]
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def clone(tmp_path_factory, solid_pictures):
    """A folder with the project's files and a user's `labels.csv`."""
    folder = tmp_path_factory.mktemp("readme") / "clone"
    folder.mkdir()
    names = ("crl_jax", "configs", "Makefile", "setup.cfg", "requirements.txt")
    for name in names:
        source = PROJECT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    for file in solid_pictures.parent.iterdir():
        shutil.copy(file, folder / file.name)
    if (PROJECT.parent / "shared").exists():
        (folder.parent / "shared").symlink_to(PROJECT.parent / "shared")
    return folder


def run(clone, arguments):
    shared = {n: v for n, v in os.environ.items() if n.startswith("JAX_")}
    environment = shared | {"HOME": str(clone), "COLUMNS": "80"}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # quick to compile
    done = subprocess.run(
        arguments,
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def test_every_command_of_the_readme(clone):
    seen, skipped = set(), set()
    for command in commands():
        words = shlex.split(command)
        if "runs/grocery" in command and not (clone.parent / "shared").exists():
            skipped.add("no real photographs: ../shared is not there")
            continue
        if words[0] == "make":
            assert words[1] in ("demo", "test")
            seen.add(words[1])
            run(clone, ["make", "--dry-run", words[1], "VENV=.venv"])
        elif words[:2] == ["pip", "install"]:
            extra = words[2].removeprefix(".[").removesuffix("]")
            assert re.search(rf"^{extra} =", (clone / "setup.cfg").read_text(), re.M)
        else:
            assert words[:2] == ["python", "-m"], f"unknown kind of command: {command}"
            is_training = words[2] == "crl_jax.main"
            arguments = [sys.executable, *words[1:], *(SHORT if is_training else [])]
            done = run(clone, arguments)
            assert done.stderr == "", f"{command} wrote to the standard error"
            seen.add(words[2])
    assert {"demo", "test", "crl_jax.main", "crl_jax.evaluate"} <= seen
    if skipped:
        pytest.skip("; ".join(skipped))


def test_make_demo_trains_what_is_tested_here():
    """`make demo` is the install and the digits command of the README."""
    makefile = (PROJECT / "Makefile").read_text()
    command = "python -m crl_jax.main --config=configs/digits.py --workdir=runs/digits"
    assert command in makefile
    assert command in " ".join(commands())
