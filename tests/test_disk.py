"""A disk that is full, read-only or gone while a run writes to it."""

import contextlib
import csv
import errno
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import launched
import numpy as np
import orbax.checkpoint as ocp
import pytest

from crl_jax import devices, evaluation, run_files
from crl_jax.checkpoints import Checkpoints
from crl_jax.errors import UserError
from crl_jax.kinds import Categorical
from crl_jax.logs import MetricsLog
from crl_jax.train import train
from crl_jax.whole_file import WholeFile

KINDS = {"a": Categorical(("no", "yes"))}


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 16 MB that can be filled, or made read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small disk is not allowed here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=False)


class FailingDisk:
    """A disk with a file system of its own, which turns read-only at its first error.

    So do most disks of Linux: in the middle of a run, with files open.
    """

    def __init__(self, folder):
        self.folder, self._image = folder / "disk", folder / "disk.img"
        self.folder.mkdir()
        with self._image.open("wb") as file:
            file.truncate(64 * 2**20)
        subprocess.run(["mkfs.ext4", "-q", self._image], check=True)
        self.mount()

    def mount(self):
        options = "loop,errors=remount-ro"
        command = ["mount", "-o", options, self._image, self.folder]
        subprocess.run(command, check=True, capture_output=True)

    def fails(self):
        """Tells the file system that it has found an error."""
        (device,) = (
            line.split()[0].removeprefix("/dev/")
            for line in Path("/proc/mounts").read_text().splitlines()
            if line.split()[1] == str(self.folder)
        )
        Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("a test")

    def unmount(self):
        subprocess.run(["umount", self.folder], check=True)

    def repair(self):
        """Does what an administrator does."""
        self.unmount()
        done = subprocess.run(["fsck.ext4", "-p", self._image], capture_output=True)
        assert done.returncode in (0, 1), done.stdout  # 1: what was wrong is mended
        self.mount()


@pytest.fixture
def failing_disk(tmp_path):
    try:
        disk = FailingDisk(tmp_path)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("making a disk with mkfs.ext4 and mounting it is not allowed here")
    yield disk
    disk.unmount()


def fill(folder):
    """Leaves no byte."""
    with (folder / "full").open("wb", buffering=0) as file:
        try:
            while file.write(b"0" * 4096):
                pass
        except OSError:
            return


def at_batch(number, monkeypatch, happens):
    """Makes something happen when a run asks for a batch; the first is number 0."""
    prefetch = devices.prefetch

    def disturbed(batches, mesh):
        for i, batch in enumerate(prefetch(batches, mesh)):
            if i == number:
                happens()
            yield batch

    monkeypatch.setattr(devices, "prefetch", disturbed)


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def assert_same_run(a, b):
    states = launched.saved_state(a), launched.saved_state(b)
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert (a / "metrics.csv").read_bytes() == (b / "metrics.csv").read_bytes()


def test_a_full_disk_that_gets_room_again(
    small_config, whole, small_disk, monkeypatch, capfd
):
    """Full from step 3, when step 2 is saved, to step 5, when 4 could not be."""
    undisturbed, _ = whole
    directory = small_disk / "run"

    def fills():
        wait_for(directory / "checkpoints" / "2")
        fill(small_disk)

    at_batch(2, monkeypatch, fills)
    wait = Checkpoints.wait

    def gives_room(checkpoints):
        wait(checkpoints)
        if checkpoints.latest == 2:
            (small_disk / "full").unlink(missing_ok=True)

    at_batch(
        4, monkeypatch, lambda: monkeypatch.setattr(Checkpoints, "wait", gives_room)
    )
    train(small_config, directory)
    said = capfd.readouterr()
    assert said.err == ""
    assert re.search(
        r"A checkpoint could not be written to .* \(No space left on device\). The run "
        r"goes on; the newest whole one is from step 2\.",
        said.out,
    )
    assert_same_run(undisturbed, directory)


def test_a_full_disk_to_the_end(small_config, whole, small_disk, monkeypatch, capfd):
    undisturbed, expected = whole
    directory = small_disk / "run"

    def fills():
        wait_for(directory / "checkpoints" / "2")
        fill(small_disk)

    with monkeypatch.context() as patch:
        at_batch(2, patch, fills)
        patch.setattr(
            run_files, "write_result", lambda *_: pytest.fail("it is not done")
        )
        told = r"The network of step 6 is lost.* goes on from step 2\."
        with pytest.raises(UserError, match=told):
            train(small_config, directory)
    said = capfd.readouterr()
    assert "Accuracy in percent" in said.out
    assert said.err == ""
    assert launched.saved_state(directory).step == 2
    fill(small_disk)
    with pytest.raises(UserError, match=r"cannot be written: No space left .* room"):
        train(small_config, directory)
    (small_disk / "full").unlink()
    np.testing.assert_equal(train(small_config, directory), expected)
    assert_same_run(undisturbed, directory)


def test_the_last_checkpoint_is_written_once_more(
    whole, small_config, tmp_path, monkeypatch, capfd
):
    undisturbed, expected = whole
    save, failed = ocp.CheckpointManager.save, []

    def fails_once(manager, step, **arguments):
        if step == 6 and not failed:
            failed.append(step)
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(manager, step, **arguments)

    monkeypatch.setattr(ocp.CheckpointManager, "save", fails_once)
    np.testing.assert_equal(train(small_config, tmp_path), expected)
    assert failed
    assert "A checkpoint could not be written" in capfd.readouterr().out
    assert_same_run(undisturbed, tmp_path)


def test_a_folder_that_goes_away(small_config, whole, tmp_path, monkeypatch, capfd):
    undisturbed, expected = whole
    directory, away = tmp_path / "run", tmp_path / "away"

    def goes():
        wait_for(directory / "checkpoints" / "2")
        directory.rename(away)

    with monkeypatch.context() as patch:
        at_batch(2, patch, goes)
        with contextlib.suppress(UserError):  # what is written later may have a place
            train(small_config, directory)
    said = capfd.readouterr()
    assert said.err == ""
    assert "metrics.csv cannot be written now (No such file or directory)" in said.out
    assert "metrics.csv lacks its last" in said.out
    shutil.rmtree(directory, ignore_errors=True)
    away.rename(directory)
    np.testing.assert_equal(train(small_config, directory), expected)
    assert_same_run(undisturbed, directory)


def test_a_disk_that_can_only_be_read(small_config, whole, small_disk, capfd):
    """Nothing can be trained there, but evaluated."""
    undisturbed, expected = whole
    directory = small_disk / "run"
    shutil.copytree(undisturbed, directory)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(UserError, match=r"cannot be written: Read-only file system"):
        train(small_config, directory)
    found = evaluation.evaluate(directory, "test")
    np.testing.assert_equal(found, expected)
    assert capfd.readouterr().err == ""


def test_a_disk_that_turns_read_only(
    small_config, whole, failing_disk, monkeypatch, capfd
):
    """From step 3 on, when step 2 is saved."""
    undisturbed, expected = whole
    directory = failing_disk.folder / "run"

    def fails():
        wait_for(directory / "checkpoints" / "2")
        os.sync()  # a disk may take half a minute to write what it was given
        failing_disk.fails()

    with monkeypatch.context() as patch:
        at_batch(2, patch, fails)
        with pytest.raises(UserError, match=r"cannot be written|goes on from step 2\."):
            train(small_config, directory)
    said = capfd.readouterr()
    assert said.err == ""
    assert "metrics.csv cannot be written now (Read-only file system)" in said.out
    assert re.search(r"A checkpoint could not .*\(Read-only file system\)", said.out)
    assert "Accuracy in percent" in said.out
    failing_disk.repair()
    assert launched.saved_state(directory).step == 2
    np.testing.assert_equal(train(small_config, directory), expected)
    assert_same_run(undisturbed, directory)


def test_rows_wait_for_room(small_disk, capsys):
    result = {"a": {"loss": 0.125}, "joint": {"top1": 0.75}}
    log = MetricsLog(small_disk, KINDS, 0)
    for step in range(1, 401):
        if step == 100:
            fill(small_disk)
        if step == 300:
            (small_disk / "full").unlink()
        log.write(step, 0.5, "train", result, 0.1, 0)
    log.close()
    with (small_disk / "metrics.csv").open(newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(1, 401))
    said = capsys.readouterr().out.replace("\n", " ")
    assert (
        said.count("metrics.csv cannot be written now (No space left on device)") == 1
    )
    assert said.count("metrics.csv is being written again.") == 1
    assert said.count("TensorBoard's file cannot be written (No space left") == 1


def test_tensorboard_gets_a_file_with_the_first_row_and_each_rate_once(tmp_path):
    MetricsLog(tmp_path, KINDS, 0).close()  # as when a finished run is started again
    assert not (tmp_path / "tensorboard").exists()
    log = MetricsLog(tmp_path, KINDS, 0)
    for split in ("train", "val"):
        log.write(1, 0.5, split, {"a": {"loss": 0.125}}, 0.1, 0)
    log.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert content.count(b"learning_rate") == 1
    assert content.count(b"val/a_loss") == content.count(b"train/a_loss") == 1


def test_a_folder_without_the_right_to_write(small_config, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=r"cannot be written: Permission denied"):
        train(small_config, tmp_path / "run")


def test_rows_that_a_kill_left_half_written_are_dropped(tmp_path):
    result = {"a": {"loss": 0.125}, "joint": {"top1": 0.75}}
    log = MetricsLog(tmp_path, KINDS, 0)
    for step in (1, 2):
        log.write(step, 0.5, "train", result, 0.1, 0)
    log.close()
    path = tmp_path / "metrics.csv"
    header, *rows = path.read_bytes().splitlines(keepends=True)
    whole = header + b"".join(rows)
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        MetricsLog(tmp_path, KINDS, 2).close()
        kept = (cut >= len(header + rows[0])) + (cut >= len(whole))
        assert path.read_bytes() == header + b"".join(rows[:kept])


@pytest.mark.parametrize(
    "saved",
    [
        lambda text: text.replace(",", ";"),
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", ",\n"),
        lambda text: text.replace("\n1,", "\n1.5,"),
        lambda text: text.replace("epoch", "Epoche"),
    ],
)
def test_rows_that_another_program_saved_are_not_gone_on_with(tmp_path, saved):
    log = MetricsLog(tmp_path, KINDS, 0)
    log.write(1, 0.5, "train", {"a": {"loss": 0.125}}, 0.1, 0)
    log.close()
    path = tmp_path / "metrics.csv"
    text = saved(path.read_text())
    path.write_text(text)
    with pytest.raises(UserError, match=r"metrics.csv is not as .* Move it away"):
        MetricsLog(tmp_path, KINDS, 2)
    assert path.read_text() == text
    path.rename(tmp_path / "away.csv")
    MetricsLog(tmp_path, KINDS, 2).close()


@pytest.mark.parametrize("rows", [1, 10_000])
def test_predictions_on_a_full_disk_are_answered_and_not_left(tmp_path, rows):
    full, file = Path("/dev/full"), tmp_path / "p.csv"
    if not full.exists():
        pytest.skip(f"there is no {full}")
    (tmp_path / "p.csv.partial").symlink_to(full)
    batch = {"file": [b"a.png"] * rows, "labels": {"a": np.zeros(rows, np.int32)}}
    logits = {"a": jax.numpy.zeros((rows, 2))}
    with (
        pytest.raises(UserError, match=r"--predictions=.*No space left on device"),
        WholeFile(file, "--predictions") as predictions,
    ):
        evaluation.PredictionRows(predictions, KINDS).write(batch, logits)
    assert not list(tmp_path.iterdir())


def test_predictions_go_through_links_and_into_devices(tmp_path):
    target, link = tmp_path / "target.csv", tmp_path / "link.csv"
    link.symlink_to(target)
    for text in ("first", "second"):
        with WholeFile(link, "--predictions") as file:
            file.write(text)
        assert link.is_symlink()
        assert target.read_text() == text
    read, write = os.pipe()
    with os.fdopen(read) as pipe:
        with WholeFile(f"/dev/fd/{write}", "--predictions") as file:
            file.write("through a pipe")
        os.close(write)
        assert pipe.read() == "through a pipe"
    assert sorted(tmp_path.iterdir()) == [link, target]


def test_what_a_redirected_output_has_so_far_stays(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("earlier\n")
    code = (
        "from crl_jax.whole_file import WholeFile\n"
        "print('before', flush=True)\n"
        "with WholeFile('/dev/stdout', '--predictions') as file:\n"
        "    file.write('rows\\n')\n"
        "print('after')\n"
    )
    with log.open("a") as redirected:
        subprocess.run([sys.executable, "-c", code], stdout=redirected, check=True)
    assert log.read_text() == "earlier\nbefore\nrows\nafter\n"
