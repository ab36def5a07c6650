"""A run that is killed again and again ends as one that was not, bit for bit."""

import collections
import csv
import os
import queue
import re
import shutil
import threading
import time

import chex
import launched
import numpy as np
import pytest

STEPS, EVALUATES = 240, 8
MOMENTS = ("starting", "compiling", "in a step", "writing", "evaluating")


@pytest.fixture(scope="module")
def manifest(solid_pictures, tmp_path_factory):
    """The 26 pictures, and 100 more for validation: evaluation takes a while."""
    folder = tmp_path_factory.mktemp("more")
    for picture in solid_pictures.parent.glob("*.png"):
        shutil.copy(picture, folder)
    with solid_pictures.open(newline="") as file:
        rows = list(csv.reader(file))
    for i in range(100):
        shutil.copy(folder / f"{i % 26:02}.png", folder / f"more{i}.png")
        rows.append([f"more{i}.png", "val", *rows[1 + i % 26][2:]])
    path = folder / "labels.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


class Killed:
    """A run, what it prints as it prints it, and the moments to kill it at."""

    def __init__(self, directory, *flags, **environment):
        self._checkpoints = directory / "checkpoints"
        self.process = launched.start(directory, *flags, **environment)
        self._lines = queue.Queue()
        self.last = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _until(self, pattern, count=1):
        while count:
            self.last = self._lines.get(timeout=300)
            if self.last is None:
                pytest.fail(self.process.stderr.read()[-2000:])
            count -= bool(re.search(pattern, self.last))

    def _until_step(self, is_right):
        while True:
            self._until(r"^step .* train")
            if is_right(int(re.search(r"\d+", self.last)[0])):
                return

    def wait(self, moment, rng):
        """Returns at a random instant of a kind."""
        if moment == "starting":
            time.sleep(rng.uniform(0, 10))
        elif moment == "compiling":
            self._until("^Training|^Going on")
            time.sleep(rng.uniform(0, 6))
        elif moment == "in a step":
            self._until_step(lambda step: step % EVALUATES == EVALUATES // 2)
            time.sleep(rng.uniform(0, 0.1))
        elif moment == "writing":
            self._until(r"^step .* val", rng.integers(1, 3))
            writing = "*.orbax-checkpoint-tmp*"
            while (
                not list(self._checkpoints.glob(writing))
                and self.process.poll() is None
            ):
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.03))
        elif moment == "evaluating":
            self._until_step(lambda step: step % EVALUATES == 0)
            time.sleep(rng.uniform(0, 0.03))

    def kill(self):
        """Kills; returns at which moment the run really was."""
        self.process.kill()
        self.process.wait()
        with self.process.stderr:
            assert self.process.stderr.read() == ""
        while (line := self._lines.get(timeout=60)) is not None:
            self.last = line
        self.process.stdout.close()
        if list(self._checkpoints.glob("*.orbax-checkpoint-tmp*")):
            return "writing"
        if not self.last:
            return "starting"
        if not self.last.startswith("step"):
            return "compiling"
        step = int(re.search(r"\d+", self.last)[0])
        evaluates = " train " in self.last and step % EVALUATES == 0
        return "evaluating" if evaluates else "in a step"


@pytest.mark.slow
def test_twenty_kills(manifest, shards, tmp_path, capsys):
    flags = (
        f"--config.data.manifest={manifest}",
        f"--config.data.dir={shards}",
        f"--config.train.steps={STEPS}",
        f"--config.train.eval_every={EVALUATES}",
        "--config.optim.ema=0.9",
    )
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    expected = launched.finish(launched.start(undisturbed, *flags))

    rng = np.random.default_rng(int(os.environ.get("FAULTS_SEED", "0")))
    seen = collections.Counter()
    for i, moment in enumerate(rng.permutation(MOMENTS * 4)):
        anew = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / f"compiled{i}")}
        run = Killed(killed, *flags, **(anew if moment == "compiling" else {}))
        run.wait(moment, rng)
        seen[run.kill()] += 1
    resumed = launched.finish(launched.start(killed, *flags))

    with capsys.disabled():
        print("\nkilled: " + ", ".join(f"{n} {moment}" for moment, n in seen.items()))
    assert resumed.splitlines()[-8:] == expected.splitlines()[-8:]
    for which in ("latest", "best"):
        chex.assert_trees_all_equal(
            launched.saved_state(killed, which),
            launched.saved_state(undisturbed, which),
        )
    for name in ("metrics.csv", "result.json", "config.json", "data.json"):
        assert (killed / name).read_bytes() == (undisturbed / name).read_bytes()
    assert not list(killed.rglob("*tmp*"))
    assert set(MOMENTS) == set(seen)
