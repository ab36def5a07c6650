"""Several processes train one network, and one process goes on with what they left."""

import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import launched
import numpy as np
import pytest

from crl_jax import devices, evaluation, run_files

OVERRIDES = [
    "--config.model.sync_batch_norm=True",  # the same on any number of devices
    "--config.train.steps=12",
    "--config.train.eval_every=3",
    # Of several labels a picture, each process has a part of what is ranked as a whole.
    "--config.tasks.hue.kind=multilabel",
]


def start(solid_pictures, shards, directory, device_count, *flags, within=()):
    """Starts `crl_jax.main` on some CPU devices."""
    data = f"--config.data.manifest={solid_pictures}", f"--config.data.dir={shards}"
    return launched.start(
        *(directory, *data, *OVERRIDES, *flags),
        device_count=device_count,
        within=within,
    )


def free_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def start_two(
    solid_pictures, shards, directory, *flags, second=(), within=lambda process: ()
):
    coordinator = f"--coordinator={free_address()}"
    return [
        start(
            *(solid_pictures, shards, directory, 2),
            *(coordinator, "--processes=2", f"--process={i}", *flags),
            *(second if i else ()),
            within=within(i),
        )
        for i in range(2)
    ]


def assert_near(x, y):
    """Each array as a whole: twelve steps magnify the rounding of single numbers."""
    assert np.linalg.norm(x - y) <= 1e-2 * np.linalg.norm(x) + 1e-3


@pytest.fixture(scope="module")
def finished(solid_pictures, shards, tmp_path_factory):
    """An undisturbed run of two processes, and what each of them printed."""
    directory = tmp_path_factory.mktemp("finished")
    pair = start_two(solid_pictures, shards, directory)
    return directory, [launched.finish(process) for process in pair]


def test_two_processes_are_killed_and_one_goes_on(
    finished, solid_pictures, shards, tmp_path
):
    undisturbed, (expected, _) = finished
    pair = start_two(solid_pictures, shards, tmp_path)
    deadline = time.monotonic() + 300
    while not (tmp_path / "checkpoints" / "6").exists():
        assert time.monotonic() < deadline, "no checkpoint of step 6"
        assert pair[0].poll() is None, pair[0].communicate()[1][-2000:]
        time.sleep(0.05)
    for process in pair:
        process.send_signal(signal.SIGKILL)
    for process in pair:
        process.communicate()

    resumed = launched.finish(start(solid_pictures, shards, tmp_path, 4))
    assert "Going on from step" in resumed
    assert expected.splitlines()[-8:] == resumed.splitlines()[-8:]
    a, b = launched.saved_state(undisturbed), launched.saved_state(tmp_path)
    jax.tree.map(assert_near, a, b)
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert len(rows) == len((undisturbed / "metrics.csv").read_text().splitlines())


def test_two_processes_end_alike_and_the_first_alone_speaks(finished):
    directory, (first, second) = finished
    assert "all tasks right" in first
    # Gloo's threads write into each other's lines, which end with a number.
    gloo = re.compile(r".*(Gloo|peer ranks).*|\d*")
    assert [line for line in second.splitlines() if not gloo.fullmatch(line)] == []
    _, _, result = run_files.read_result(directory)
    alone = evaluation.evaluate(directory, "test")
    assert result["hue"]["count"] == alone["hue"]["count"] == 7
    assert result["hue"]["map"] == pytest.approx(alone["hue"]["map"])


def test_two_machines_end_as_two_processes_of_one(
    finished, solid_pictures, shards, tmp_path
):
    """JAX tells machines apart by what Linux names each of their starts."""
    begin = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'
    apart = ["unshare", "--mount", "--map-root-user", "sh", "-c", begin]

    def machine(process):
        name = tmp_path / f"boot{process}"
        name.write_text(f"{process}0000000-0000-0000-0000-000000000000\n")
        return [*apart, str(name)]

    if shutil.which("unshare") is None or subprocess.call([*machine(0), "true"]):
        pytest.skip("a process may not have a mount of its own here")
    undisturbed, (expected, _) = finished
    pair = start_two(solid_pictures, shards, tmp_path / "run", within=machine)
    first, _ = [launched.finish(process) for process in pair]
    assert first.splitlines()[-8:] == expected.splitlines()[-8:]
    states = (launched.saved_state(run) for run in (undisturbed, tmp_path / "run"))
    jax.tree.map(assert_near, *states)


@pytest.mark.slow
def test_two_processes_agree_that_a_checkpoint_is_damaged(
    solid_pictures, shards, tmp_path
):
    directory = tmp_path / "run"
    launched.finish(start(solid_pictures, shards, directory, 4))
    files = (directory / "checkpoints" / "12").rglob("*")
    largest = max((f for f in files if f.is_file()), key=lambda f: f.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:100])
    pair = start_two(solid_pictures, shards, directory)
    first, _ = [launched.finish(process) for process in pair]
    assert "12 is damaged" in " ".join(first.split())
    assert "Going on from step 9 of 12" in first
    assert any((directory / "damaged" / "12").iterdir())
    assert int(launched.saved_state(directory).step) == 12


def test_one_of_two_processes_is_asked_to_stop_and_both_do(
    solid_pictures, shards, tmp_path
):
    """After the same step, which is saved; though only one got the signal."""
    directory = tmp_path / "run"
    pair = start_two(solid_pictures, shards, directory, "--config.train.steps=100000")
    while "step 3/" not in (line := pair[0].stdout.readline()):
        assert line, pair[0].communicate()[1][-2000:]
    pair[1].send_signal(signal.SIGUSR1)
    ends = [process.communicate(timeout=120) for process in pair]
    codes = [process.returncode for process in pair]
    assert codes == [128 + signal.SIGTERM] * 2, ends
    told = r"Stopped by .* after step ([\d,]+), which is saved in"
    step = int(re.search(told, ends[0][1])[1].replace(",", ""))
    assert int(launched.saved_state(directory).step) == step


def test_the_mistake_of_one_process_ends_the_other(solid_pictures, shards, tmp_path):
    """Which otherwise would wait for it, for minutes."""
    second = ["--config.data.manifest=nowhere.csv"]
    pair = start_two(solid_pictures, shards, tmp_path / "run", second=second)
    ends = [process.communicate(timeout=180) for process in pair]
    assert pair[1].returncode == 2
    assert ends[1][1].endswith(
        "nowhere.csv: No such file or directory. Give a CSV file.\n"
    )
    assert pair[0].returncode != 0


def test_the_others_wait_for_the_first_each_time(tmp_path):
    program = """
import sys, time
from crl_jax import devices

def work():
    if devices.is_first():
        time.sleep(1)
    with open(sys.argv[3], "a") as file:
        file.write(sys.argv[2])

devices.start(sys.argv[1], 2, int(sys.argv[2]))
for _ in range(3):
    devices.first_alone(work)
"""
    address, file = free_address(), tmp_path / "order"
    pair = [
        subprocess.Popen([sys.executable, "-c", program, address, str(i), file])
        for i in range(2)
    ]
    assert [process.wait(timeout=120) for process in pair] == [0, 0]
    assert file.read_text() == "010101"


def test_a_process_among_several_that_nothing_tells_of(monkeypatch):
    """As on TPU pods without Kubernetes, where the TPUs know of each other."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(devices.UserError, match="one of 2 processes.*--coordinator"):
        devices.start()


def test_a_process_that_finds_no_other_says_so(monkeypatch):
    def refuse(*_):
        raise RuntimeError("deadline exceeded")

    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    with pytest.raises(devices.UserError, match=r"did not find each other: deadline"):
        devices.start("127.0.0.1:1", 2, 0)


@pytest.mark.parametrize(
    ("name", "value", "several"),
    [
        ("SLURM_STEP_NUM_TASKS", "4", True),
        ("SLURM_STEP_NUM_TASKS", "1", False),
        ("OMPI_COMM_WORLD_SIZE", "2", True),
        ("JOB_COMPLETION_INDEX", "0", True),
        ("TPU_WORKER_HOSTNAMES", "a,b", True),
        ("TPU_WORKER_HOSTNAMES", "a", False),
        ("TPU_PROCESS_ADDRESSES", "a:1,b:1", True),
    ],
)
def test_processes_of_a_cluster_are_detected(monkeypatch, name, value, several):
    monkeypatch.setenv(name, value)
    called = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a: called.append(a))
    devices.start()
    assert called == ([(None, None, None)] if several else [])
