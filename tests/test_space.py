"""A Space's folder, started as a Space would, answers without the run it came from."""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml

import crl_jax
from crl_jax import export
from crl_jax.errors import UserError
from crl_jax.inference import space

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    """A Space of a run that is gone since."""
    for package in ("gradio", "safetensors"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: see setup.cfg")
    parent = tmp_path_factory.mktemp("space")
    shutil.copytree(trained[0], parent / "run")
    what = {"format": "space", "data_name": "Solid's {colours}", "data_license": "CC0"}
    export.export(parent / "run", what, parent / "space")
    shutil.rmtree(parent / "run")
    return parent / "space"


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
    """Where the page keeps pictures for a while."""
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def address(folder, uploads):
    """`app.py` in a process that finds neither the clone nor an installed package."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {n: v for n, v in os.environ.items() if n != "PYTHONPATH"}
    environment |= {"GRADIO_SERVER_PORT": str(port), "PYTHONUNBUFFERED": "1"}
    environment["TMPDIR"] = str(uploads)
    with subprocess.Popen(
        [sys.executable, "-B", "app.py"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        line = process.stdout.readline()
        try:
            assert line.startswith(f"The page is at http://0.0.0.0:{port}")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def ask(address, path, content=None, kind="application/json", **headers):
    request = urllib.request.Request(address + path, content, headers)
    if content is not None:
        request.add_header("Content-Type", kind)
    with urllib.request.urlopen(request, timeout=120) as response:
        return response.read().decode("utf-8")


def answer(address, picture):
    """What the page shows of a picture, asked for as its own script does."""
    head = '--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n'
    head += "Content-Type: image/png\r\n\r\n"
    body = head.encode() + picture.read_bytes() + b"\r\n--b--\r\n"
    form = "multipart/form-data; boundary=b"
    (path,) = json.loads(ask(address, "/gradio_api/upload", body, form))
    last = outcome(address, path)
    assert last["success"], last
    return last["output"]["data"]


def outcome(address, path):
    """The last of what the page says of a file on its machine."""
    image = {"path": path, "meta": {"_type": "gradio.FileData"}}
    event = {"data": [image, "on"], "fn_index": 0, "session_hash": "s"}
    ask(address, "/gradio_api/queue/join", json.dumps(event).encode())
    events = ask(address, "/gradio_api/queue/data?session_hash=s")
    messages = [
        json.loads(line.removeprefix("data: "))
        for line in events.splitlines()
        if line.startswith("data: ")
    ]
    (last,) = (m for m in messages if m["msg"] == "process_completed")
    return last


def test_it_answers_as_the_run_does(address, trained, solid_pictures):
    picture = solid_pictures.parent / "20.png"
    (expected,) = crl_jax.load(trained[0])(picture)
    text, hue, number, *looks = answer(address, picture)
    for task, shown in (("hue", hue), ("number", number)):
        found = {each["label"]: each["confidence"] for each in shown["confidences"]}
        assert found == pytest.approx(dict(expected.top(task)), abs=1e-4)
    joint = expected.joint
    assert ", ".join(joint.labels.values()) in text
    assert f"({100 * joint.probability:.1f}%)" in text
    assert len(looks) == 2


def test_a_file_that_was_not_uploaded_is_not_read(
    address, uploads, solid_pictures, tmp_path
):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    for file in (secret, solid_pictures.parent / "21.png"):
        assert not outcome(address, str(file))["success"]
        assert [kept for kept in uploads.rglob("*") if kept.name == file.name] == []


def test_it_works_behind_the_proxy_of_the_hub(address):
    headers = {"X-Forwarded-Host": "me-mine.hf.space", "X-Forwarded-Proto": "https"}
    config = json.loads(ask(address, "/config", **headers))
    assert config["root"] == "https://me-mine.hf.space"
    assert config["title"] == "Solid's {colours}"


def test_the_hub_is_told_how_to_start_it(folder):
    _, head, text = (folder / "README.md").read_text("utf-8").split("---\n", 2)
    told = yaml.safe_load(head)
    assert (told["sdk"], told["app_file"]) == ("gradio", "app.py")
    assert told["sdk_version"] == importlib.metadata.version("gradio")
    assert told["python_version"] == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert "cross-residual" in told["tags"]
    assert (told["title"], told["license_name"]) == ("Solid's {colours}", "CC0")
    assert "model-index" not in told
    assert "Licence of the data: CC0" in text
    # ... and that its package may be passed on.
    assert "Apache License" in (folder / "crl_jax" / "LICENSE").read_text()


def test_its_requirements_are_those_of_the_package_and_of_its_arrays(folder):
    requirement = importlib.import_module("packaging.requirements").Requirement
    settings = (PROJECT / "setup.cfg").read_text()
    needed = settings.partition("install_requires =\n")[2].partition("\n\n")[0]
    lines = [line.strip() for line in needed.splitlines()]
    names = {requirement(line).name for line in lines if not line.startswith("#")}
    pins = [requirement(r) for r in (folder / "requirements.txt").read_text().split()]
    assert {pin.name for pin in pins} == names | {"safetensors"}
    for pin in pins:
        assert importlib.metadata.version(pin.name) in pin.specifier


def test_nothing_of_this_machine_travels_with_it(folder, solid_pictures):
    for file in folder.rglob("*"):
        assert "__pycache__" not in file.parts
        if file.is_file():
            assert str(solid_pictures.parent).encode() not in file.read_bytes()


def test_the_package_that_is_running_is_not_replaced(tmp_path, monkeypatch):
    source = tmp_path / "crl_jax"
    source.mkdir()
    (source / "__init__.py").write_text("running = 1")
    monkeypatch.setattr(crl_jax, "__file__", str(source / "__init__.py"))
    with pytest.raises(UserError, match="has the crl_jax that is running now"):
        space.write(tmp_path, "title")
    assert list(tmp_path.iterdir()) == [source]  # nothing was written
    assert (source / "__init__.py").read_text() == "running = 1"
    monkeypatch.undo()

    monkeypatch.setattr(space, "PACKAGES", ())
    space.write(tmp_path, "title")
    assert (source / "__init__.py").read_text() != "running = 1"


def test_a_package_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(space, "PACKAGES", ("no-such-package",))
    with pytest.raises(UserError, match=r"needs no-such-package.*\[demo,safetensors\]"):
        space.write(tmp_path, "title")
