"""img2dataset itself, against a server of this machine that answers wrongly."""

import csv
import http.server
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_vso import printed, rows
from test_vso_urls import PLACEHOLDER, encoded

from crl_jax.data import vso
from crl_jax.data.manifest import read_manifest

GOOD = {f"/{i}.jpg": encoded(i) for i in range(12)} | {"/late.jpg": encoded(12)}


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers rightly to `GOOD`, and in some wrong way to each other path."""

    stop = threading.Event()

    def log_message(self, *_) -> None:
        pass

    def answer(self, body: bytes, status: int = 200, length: int = 0, **headers: str):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def do_GET(self) -> None:
        picture = encoded(500)
        match self.path:
            case "/missing.jpg":
                self.answer(b"gone", 404)
            case "/page.jpg":
                self.answer(b"<html>gone</html>", Content_Type="text/html")
            case "/empty.jpg":
                self.answer(b"")
            case "/cut.jpg":
                self.answer(picture[:20])
            case "/lost.jpg":
                self.answer(picture[:100], length=len(picture))
            case "/stuck.jpg":
                self.answer(picture[:100], length=len(picture))
                self.stop.wait(60)
            case "/silent.jpg":
                self.stop.wait(60)
            case "/late.jpg":
                self.stop.wait(0.5)
                self.answer(GOOD["/late.jpg"])
            case "/moved.jpg":
                self.answer(b"", 302, Location="/unavailable.png")
            case "/unavailable.png":
                self.answer(PLACEHOLDER)
            case "/asks_not_to.jpg":
                self.answer(picture, X_Robots_Tag="noai")
            case path:
                self.answer(GOOD[path])


@pytest.fixture
def address() -> Iterator[str]:
    """The address of a server on this machine."""
    Handler.stop.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # a client that gave up waiting
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        Handler.stop.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def img2dataset() -> list[str]:
    """Its command."""
    if command := os.environ.get("IMG2DATASET"):
        return [command]
    if importlib.util.find_spec("img2dataset"):
        code = "from img2dataset.main import main; main()"
        return [sys.executable, "-c", code]
    return pytest.skip("no img2dataset: set IMG2DATASET to the path of its command")


def test_img2dataset(img2dataset: list[str], address: str, tmp_path: Path, capsys):
    anps = ("happy cat", "happy_dog", "Sad_Cat", "sad_dog")
    wrong = ("missing", "page", "empty", "cut", "lost", "stuck", "silent", "late")
    urls = [(anps[i % 4], f"{address}/{i}.jpg") for i in range(12)]
    urls += [("happy_cat", f"{address}/{name}.jpg") for name in wrong]
    urls += [(anp, f"{address}/moved.jpg") for anp in anps[:3]]
    urls += [("happy_cat", f"{address}/asks_not_to.jpg"), ("happy_cat", "nowhere")]
    with (tmp_path / "urls.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("anp", "url"), *urls])
    done = subprocess.run(
        [
            *(*img2dataset, "urls.csv", "--output_folder=images", "--input_format=csv"),
            *("--url_col=url", "--caption_col=anp", "--output_format=files"),
            *("--disable_all_reencoding=True", "--extract_exif=False"),
            *("--thread_count=16", "--timeout=2", "--retries=1"),
        ],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "NO_ALBUMENTATIONS_UPDATE": "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    out = vso.make_manifest(tmp_path / "images", min_images=1, min_nouns=1)
    kept = {row["file"]: row["anp"] for row in rows(out)}
    assert len(read_manifest(out).files) == 13  # 12 good ones and the late one
    assert Counter(kept.values())["sad_cat"] == 3
    for file in kept:
        side = json.loads((tmp_path / file).with_suffix(".json").read_text())
        path = side["url"].removeprefix(address)
        assert (tmp_path / file).read_bytes() == GOOD[path]  # not encoded again
    reasons = {
        urls[int(Path(row["file"]).stem)][1].rpartition("/")[2]: row["reason"]
        for row in rows(out.with_suffix(".dropped.csv"))
    }
    starts = {
        "missing.jpg": "not downloaded: HTTP Error 404: Not Found, http://127.0.0.1",
        "page.jpg": "unreadable: no JPEG",
        "empty.jpg": "empty",
        "cut.jpg": "unreadable: ",
        "lost.jpg": "not downloaded: IncompleteRead",
        "stuck.jpg": "not downloaded: timed out, ",
        "silent.jpg": "not downloaded: timed out, ",
        "asks_not_to.jpg": "not downloaded: Use of image disallowed",
        "moved.jpg": "placeholder: one of 3 copies",
        "nowhere": "not downloaded: unknown url type",
    }
    assert reasons.keys() == starts.keys()
    for name, start in starts.items():
        assert reasons[name].startswith(start)
    counts = printed(capsys.readouterr().out)
    assert counts["found"] == ["4", "2", "2", str(len(urls))]
