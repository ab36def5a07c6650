"""The wheel and the sdist: what is in them, and that they work without the clone."""

import email
import importlib.metadata
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import crl_jax

PROJECT = Path(__file__).parents[1]
VERBS = ["main", "evaluate", "predict", "joint", "report", "export", "demo", "summary"]
VERBS += ["compare", "data.inspect", "data.prepare", "data.vso"]


def listed_by_git(*flags):
    command = ["git", "ls-files", *flags]
    listed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no git clone")
    return [name for name in listed.stdout.splitlines() if (PROJECT / name).is_file()]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Folder of a wheel and an sdist of the files that git would commit."""
    folder = tmp_path_factory.mktemp("dist")
    clone = tmp_path_factory.mktemp("clone")
    for name in listed_by_git("--cached", "--others", "--exclude-standard"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_bytes((PROJECT / name).read_bytes())
    # The wheel is built from the sdist, so that one that lacks a file is found out.
    command = [sys.executable, "-m", "build", "--no-isolation", f"--outdir={folder}"]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def installed(distributions, tmp_path_factory):
    """Folder that the wheel is unpacked in, as pip would do."""
    (wheel,) = distributions.glob("*.whl")
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
    return folder


def run(installed, folder, *arguments):
    """Runs Python where the installed package is found, and the clone is not."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(installed), "PATH": os.environ["PATH"], "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_sdist_has_all_but_what_git_and_ci_need(distributions):
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"LICENSE", "tests/test_packaging.py", "docs/data.md"} <= names
    committed = listed_by_git("--cached")
    assert [name for name in committed if name[0] != "." and name not in names] == []


def test_wheel_has_the_package_its_configs_and_nothing_else(installed):
    top = {path.name for path in installed.iterdir()}
    assert top == {"crl_jax", f"crl_jax-{crl_jax.__version__}.dist-info"}
    there = {path.name for path in (PROJECT / "crl_jax").rglob("*.py")}
    shipped = {path.name for path in (installed / "crl_jax").rglob("*.py")}
    configs = {path.name for path in (PROJECT / "configs").glob("*.py")}
    assert shipped == there | configs


def test_metadata_is_whole(installed):
    (metadata,) = installed.glob("*.dist-info/METADATA")
    fields = email.message_from_string(metadata.read_text("utf-8"))
    assert fields["Version"] == crl_jax.__version__
    assert (fields["License-Expression"] or fields["License"]) == "Apache-2.0"
    assert {"cuda", "demo", "onnx", "safetensors"} <= set(
        fields.get_all("Provides-Extra")
    )
    (entries,) = installed.glob("*.dist-info/entry_points.txt")
    assert "crl-jax = crl_jax.main:command" in entries.read_text()
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text())
    assert citation["version"] == crl_jax.__version__
    assert f"## {crl_jax.__version__}" in (PROJECT / "CHANGELOG.md").read_text()


def test_installed_package_works_from_another_folder(installed, tmp_path):
    found = run(installed, tmp_path, "-c", "import crl_jax; print(crl_jax.__file__)")
    assert found.stdout.startswith(str(installed))
    command = "from crl_jax.main import command; command()"
    done = run(installed, tmp_path, "-c", command, "--help")
    assert done.returncode == 0
    assert "configs/digits.py" in done.stdout
    code = "from crl_jax.cli import load_config as load; "
    for config in ("configs/vso.py", "vso"):
        done = run(installed, tmp_path, "-c", code + f"print(load({config!r}).tasks)")
        assert "classes: 553" in done.stdout, done.stderr


def test_a_config_that_is_not_there_names_those_that_are(installed, tmp_path):
    done = run(
        installed, tmp_path, "-m", "crl_jax.main", "--config=x.py", "--workdir=r"
    )
    assert done.returncode == 2
    assert "configs/digits.py" in done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_says_what_it_does_with_an_example(installed, tmp_path, verb):
    done = run(installed, tmp_path, "-m", f"crl_jax.{verb}", "--help")
    assert done.returncode == 0
    assert f"python -m crl_jax.{verb} --" in done.stdout
    for line in done.stdout.splitlines():
        assert len(line) <= 80
    assert done.stderr == ""


def test_requirements_are_within_the_ranges_of_the_metadata():
    """Every package that the installation needs has a tested pin."""
    requirements = importlib.import_module("packaging.requirements")
    pins = {}
    for line in (PROJECT / "requirements.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = requirements.Requirement(line)
            if pin.marker is None or pin.marker.evaluate():
                (version,) = pin.specifier
                pins[pin.name.lower().replace("_", "-")] = version.version
    config = (PROJECT / "setup.cfg").read_text()
    needed = config.partition("install_requires =\n")[2].partition("\n\n")[0]
    for line in needed.splitlines():
        if not line.strip().startswith("#"):
            needs = requirements.Requirement(line.strip())
            name = needs.name.lower().replace("_", "-")
            assert pins[name] in needs.specifier, f"{line} and {pins[name]}"
