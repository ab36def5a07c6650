"""The demo page, in a real browser; and where a task looked, against its definition."""

import contextlib
import dataclasses
import functools
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

import crl_jax
from crl_jax import demo, networks
from crl_jax.errors import UserError
from crl_jax.inference.grad_cam import grad_cam
from crl_jax.models import MultitaskResNet

PROJECT = Path(__file__).parents[1]


def need_gradio():
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("gradio is not installed: see setup.cfg, extra demo")


@pytest.fixture(scope="module")
def address(trained):
    """A demo page in a process of its own."""
    need_gradio()
    with serving(trained[0], free_port()) as (_, address):
        yield address


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def serving(directory, port, **more):
    """Gives the process of a page, and its address, once it listens."""
    command = [sys.executable, "-m", "crl_jax.demo", f"--workdir={directory}"]
    with subprocess.Popen(
        [*command, f"--port={port}"],
        cwd=PROJECT,
        env=os.environ | {"NO_COLOR": "1", "PYTHONUNBUFFERED": "1"} | more,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        line = process.stdout.readline()
        try:
            assert line.startswith(f"The page is at http://127.0.0.1:{port}")
            yield process, f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        pytest.skip("there is no chromium to open the page with")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        yield opened
        opened.close()


@contextlib.contextmanager
def open_page(browser, address, width=1280):
    """Gives the page, and the list of what it asks for."""
    context = browser.new_context(viewport={"width": width, "height": 900})
    context.set_default_timeout(120_000)
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_selector("#picture input[type=file]", state="attached")
    yield page, asked
    context.close()


@pytest.fixture(scope="module")
def photograph(photographs):
    return photographs[0]


@pytest.fixture(scope="module")
def answers(trained, photograph):
    """What is predicted with cross-residuals, and without."""
    predictor = crl_jax.load(trained[0])
    return [
        network(photograph)[0]
        for network in (predictor, predictor.without_cross_residuals())
    ]


def answer_of(page):
    page.wait_for_selector("#answer table", timeout=120_000)
    return page.inner_text("#answer")


@pytest.mark.parametrize("width", [1280, 390])
def test_a_photograph_is_answered_as_by_predict(
    address, browser, answers, photograph, width
):
    with open_page(browser, address, width) as (page, asked):
        page.set_input_files("#picture input[type=file]", photograph)
        text = answer_of(page)
        for prediction in answers:
            for task in ("hue", "number"):
                label, probability = prediction.top(task, 1)[0]
                assert f"{label} {100 * probability:.1f}%" in text
        assert ", ".join(answers[0].joint.labels.values()) in text
        page.wait_for_function("document.querySelectorAll('img').length >= 3")
        sizes = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert sizes[0] <= sizes[1], "the page is wider than its window"
    elsewhere = [
        url for url in asked if not url.startswith((address, "data:", "blob:"))
    ]
    assert elsewhere == []


def test_switching_cross_residuals_off_changes_the_bars(
    address, browser, answers, photograph
):
    joint = f"({100 * answers[1].joint.probability:.1f}%)"
    with open_page(browser, address) as (page, _):
        page.set_input_files("#picture input[type=file]", photograph)
        assert joint not in answer_of(page)
        page.get_by_label("off").click()
        page.wait_for_function(
            "text => document.querySelector('#answer').innerText.includes(text)",
            arg=joint,
        )


def test_a_broken_picture_is_told_of_and_the_page_goes_on(
    address, browser, photograph, tmp_path
):
    whole = tmp_path / "whole.jpg"
    with Image.open(photograph) as image:
        image.convert("RGB").save(whole)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with open_page(browser, address) as (page, _):
        page.set_input_files("#picture input[type=file]", broken)
        page.get_by_text("This picture cannot be decoded").wait_for(timeout=120_000)
    with open_page(browser, address) as (page, _):
        page.set_input_files("#picture input[type=file]", whole)
        assert "hue" in answer_of(page)


@pytest.mark.slow
def test_every_bad_picture_is_answered_as_by_predict(
    address, browser, trained, shared_data
):
    """A label or a reason for each; and the page goes on to the end."""
    playwright = pytest.importorskip("playwright.sync_api")
    folder = shared_data / "bad_images"
    files = sorted(p for p in folder.iterdir() if p.suffix not in (".csv", ".txt"))
    predictor = crl_jax.load(trained[0])
    missed = []
    for path, expected in zip(files, predictor(files), strict=True):
        with open_page(browser, address) as (page, _):
            page.set_default_timeout(60_000)  # the first one compiles
            page.set_input_files("#picture input[type=file]", path)
            try:
                if not path.suffix:  # which the page itself refuses
                    page.get_by_text(f"Invalid file type: {path.name}").wait_for()
                elif expected.error is None:
                    page.wait_for_selector("#answer table")
                else:
                    page.get_by_text(f"This picture {expected.error}.").wait_for()
            except playwright.TimeoutError:
                missed.append((path.name, expected.error))
    assert missed == []


def test_the_page_listens_on_the_loopback_address_alone(address):
    tables = [Path("/proc/net", name) for name in ("tcp", "tcp6")]
    if not all(table.exists() for table in tables):
        pytest.skip("there is no /proc/net to read who listens where")
    port, listens = f"{int(address.rpartition(':')[2]):04X}", "0A"
    rows = [row.split() for table in tables for row in table.read_text().splitlines()]
    found = [row[1].split(":") for row in rows if row[3] == listens]
    assert [ip for ip, of in found if of == port] == ["0100007F"]  # 127.0.0.1


def upload(address, content):
    boundary = "boundary"
    head = (
        f"--{boundary}\r\nContent-Disposition: form-data; "
        'name="files"; filename="a.jpg"\r\n\r\n'
    )
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    request = urllib.request.Request(f"{address}/gradio_api/upload", body)
    request.add_header("Content-Type", f"multipart/form-data; boundary={boundary}")
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.read()


@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_what_was_uploaded_is_gone_after_the_page(trained, tmp_path, end):
    """After a kill, once it is started again."""
    need_gradio()
    port, place = free_port(), {"TMPDIR": str(tmp_path)}
    with serving(trained[0], port, **place) as (process, address):
        assert b"a.jpg" in upload(address, b"a picture")
        assert len(list(tmp_path.rglob("a.jpg"))) == 1
        getattr(process, end)()
    if end == "kill":
        with serving(trained[0], port, **place):
            pass
    assert list(tmp_path.glob("crl_jax-demo-*")) == []


def test_uploads_are_bounded(address):
    with pytest.raises((urllib.error.HTTPError, ConnectionError)) as refused:
        upload(address, bytes(21 * 2**20))
    if isinstance(refused.value, urllib.error.HTTPError):
        assert refused.value.code == 413
        refused.value.close()


def test_mistakes_are_answered(trained, address, monkeypatch):
    port = int(address.rpartition(":")[2])
    with pytest.raises(UserError, match=rf"--port={port} cannot .* another --port"):
        demo.serve(trained[0], "127.0.0.1", port)
    with pytest.raises(UserError, match="--port=70000 is too large"):
        demo.serve(trained[0], "127.0.0.1", 70000)
    with pytest.raises(UserError, match="--host is empty"):
        demo.serve(trained[0], "", 7860)
    for host in ("no-such-host.invalid", "192.0.2.1", "a..b"):
        with pytest.raises(UserError, match=f"--host={host} .* another --host"):
            demo.serve(trained[0], host, 7860)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UserError, match=r"needs Gradio: .*\.\[demo\]"):
        demo.serve(trained[0], "127.0.0.1", 7860)


def test_no_second_network_is_made_where_nothing_crosses(trained, monkeypatch):
    need_gradio()
    from crl_jax.inference import demo_page

    predictor = crl_jax.load(trained[0])
    made = []
    monkeypatch.setattr(
        type(predictor),
        "without_cross_residuals",
        lambda self: made.append(self) or self,
    )
    demo_page.build(predictor, "title")
    assert made == [predictor]
    whole = predictor.trained
    for changes in ({"model.cross.init": 0.0}, {"model.branch_from": "res5b"}):
        config = networks.with_settings(whole.run.config, changes)
        run = dataclasses.replace(whole.run, config=config)
        predictor.trained = dataclasses.replace(whole, run=run)
        demo_page.build(predictor, "title")
        assert made == [predictor]


@pytest.mark.parametrize("branch_from", ["res5b", "head"])
def test_grad_cam_is_its_definition(branch_from):
    """Weights are mean gradients, by automatic differentiation (equations 1 and 2)."""
    network = MultitaskResNet(
        {"a": 3, "b": 4}, 12, branch_from, width=0.125, stem="small"
    )
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, (2, 16, 16, 3), np.uint8))
    variables = network.init(jax.random.key(1), images)
    variables = jax.tree.map(
        lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32) ** 2, variables
    )
    labels = {"a": np.array([2, 0]), "b": np.array([1, 3])}

    def score(change, task):
        kept = []

        def add(method, arguments, named, where):
            if where.module.name == "head" and where.method_name == "__call__":
                kept.append(arguments[0])
                arguments = (arguments[0] + change,)
            return method(*arguments, **named)

        with nn.intercept_methods(add):
            logits = network.apply(variables, images)[task]
        return logits[jnp.arange(2), labels[task]].sum(), kept[0]

    maps = jax.jit(functools.partial(grad_cam, network))(variables, images, labels)
    for t, task in enumerate(("a", "b")):
        shape = jax.eval_shape(lambda task=task: score(0.0, task))[1].shape
        gradient_of = jax.jit(jax.grad(score, has_aux=True), static_argnums=1)
        gradient, features = gradient_of(jnp.zeros(shape), task)
        if branch_from != "head":
            gradient, features = gradient[t], features[t]
        weights = jnp.mean(gradient, axis=(1, 2), keepdims=True)
        cam = np.maximum(np.sum(weights * features, axis=-1), 0)
        largest = cam.max(axis=(1, 2), keepdims=True)
        assert (largest > 0).all()
        np.testing.assert_allclose(maps[task], cam / largest, atol=1e-4)


def test_spotlight_leaves_what_was_looked_at_and_dims_the_rest():
    need_gradio()
    from crl_jax.inference.demo_page import spotlight

    image = np.full((32, 32, 3), 200, np.uint8)
    shown = spotlight(image, np.array([[1.0, 0.0], [1.0, 0.0]]))
    assert shown[:, :20].min() > 190
    assert shown[:, -20:].max() < 60
