"""A run that is asked to stop, and the second one in a folder."""

import os
import re
import signal
import time
from pathlib import Path

import jax
import launched
import numpy as np
import pytest

from crl_jax import devices
from crl_jax.errors import Stopped, UserError
from crl_jax.record import Record
from crl_jax.stopping import SIGNALS
from crl_jax.train import train


def test_signals_stop_after_the_step_and_the_run_goes_on(
    small_config, whole, tmp_path, monkeypatch
):
    undisturbed, expected = whole
    handlers = [signal.getsignal(number) for number in SIGNALS]
    prefetch = devices.prefetch

    def signalling(number):
        def batches_and_signal(batches, mesh):
            for i, batch in enumerate(prefetch(batches, mesh)):
                if i == 0:
                    os.kill(os.getpid(), number)
                    time.sleep(0.2)
                yield batch

        return batches_and_signal

    directory = tmp_path / "stopped"
    for step, number in enumerate(SIGNALS, start=1):
        with monkeypatch.context() as patch:
            patch.setattr(devices, "prefetch", signalling(number))
            told = f"by {number.name} after step {step}, which is saved in {directory}"
            with pytest.raises(Stopped, match=told) as stop:
                train(small_config, directory)
        assert stop.value.number == number
        assert [signal.getsignal(number) for number in SIGNALS] == handlers
        assert launched.saved_state(directory).step == step

    np.testing.assert_equal(train(small_config, directory), expected)
    a, b = (launched.saved_state(run) for run in (undisturbed, directory))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    a, b = ((run / "metrics.csv").read_bytes() for run in (undisturbed, directory))
    assert a == b


@pytest.fixture
def long_run(solid_pictures, shards):
    """Starts a run that would last; kills it at the end of the test."""
    started = []

    def start(directory, **environment):
        process = launched.start(
            directory,
            f"--config.data.manifest={solid_pictures}",
            f"--config.data.dir={shards}",
            "--config.train.steps=100000",
            "--config.train.eval_every=100000",
            **environment,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            pipe.close()


def wait_for(process, text):
    while text not in (line := process.stdout.readline()):
        assert line, process.communicate()[1][-2000:]


def catches(process, number):
    """Whether a process has a handler for a signal, as Linux tells."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16)
    return bool(caught & (1 << (number - 1)))


def test_the_command_stops_and_keeps_a_second_one_out(
    long_run, new_config, solid_pictures, tmp_path
):
    process = long_run(tmp_path)
    wait_for(process, "step 2/")
    with pytest.raises(
        UserError, match=rf"in use by process {process.pid} on .*: wait for it, stop"
    ):
        train(new_config(), tmp_path)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert re.fullmatch(
        r"Stopped by SIGTERM after step \d+, which is saved .*\n", error
    )
    assert "SIGTERM: stopping after this step." in out
    step = int(re.search(r"after step (\d+)", error)[1])
    assert launched.saved_state(tmp_path).step == step


def test_a_run_that_nobody_listens_to_goes_on_and_can_be_stopped(long_run, tmp_path):
    """As after Ctrl-C in `python -m crl_jax.main ... | tee log`, which ends first."""
    process = long_run(tmp_path)
    wait_for(process, "step 2/")
    process.stdout.close()
    time.sleep(1)  # of many lines
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)
    error = process.stderr.read()
    assert process.returncode == 128 + signal.SIGINT
    told = re.fullmatch(
        r"The output cannot be written any more \(Broken pipe\): the run goes on "
        r"without it\.\nStopped by SIGINT after step (\d+), which is saved .*\n",
        error,
    )
    assert told, error
    assert launched.saved_state(tmp_path).step == int(told[1])


def test_a_signal_while_a_run_is_concluded_stops_what_follows(
    small_config, whole, tmp_path, monkeypatch
):
    finish = Record.finish

    def signalled(record, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        return finish(record, *arguments)

    monkeypatch.setattr(Record, "finish", signalled)
    with pytest.raises(Stopped, match=rf"SIGTERM. What was trained in {tmp_path} is c"):
        train(small_config, tmp_path)
    a, b = ((run / "result.json").read_bytes() for run in (whole[0], tmp_path))
    assert a == b


def test_a_second_ctrl_c_leaves_at_once_even_while_compiling(long_run, tmp_path):
    nothing_compiled = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    process = long_run(tmp_path / "run", **nothing_compiled)
    wait_for(process, "The first step compiles.")
    while not catches(process, signal.SIGUSR1):
        time.sleep(0.05)
    time.sleep(0.5)
    start = time.monotonic()
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)  # signals that come together are one
    out, error = process.communicate(timeout=60)
    assert time.monotonic() - start < 10
    assert process.returncode == 128 + signal.SIGINT
    assert error == ""
    assert "SIGINT: stopping after this step; a second one exits at once." in out
    assert "step 1/" not in out
