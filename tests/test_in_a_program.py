"""What a user's own program, or notebook, finds as it was before."""

import importlib
import logging
import os
import signal
import sys
import time
from types import SimpleNamespace

import pytest

import crl_jax
from crl_jax import devices, evaluation, library_logs, terminal
from crl_jax.data import quiet
from crl_jax.train import train

READING = "_read_array_index_and_device_put"


def test_nothing_is_logged_and_levels_stay(trained, caplog):
    logger = logging.getLogger("absl")
    logger.setLevel(logging.DEBUG)
    crl_jax.load(trained[0])
    evaluation.evaluate(trained[0], "test")
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []
    assert logger.level == logging.DEBUG


def test_errors_of_the_programs_own_loops_are_reported(monkeypatch, caplog):
    said = []
    monkeypatch.setattr(sys, "unraisablehook", lambda u: said.append(u.object))
    library_logs.drop_late_answers.__wrapped__()
    logging.getLogger("asyncio").error("Task exception of %s", READING)
    logging.getLogger("asyncio").error("Task exception of the program")
    assert [r.getMessage() for r in caplog.records] == ["Task exception of the program"]
    closed = RuntimeError("Event loop is closed")
    not_begun = RuntimeWarning(f"coroutine '{READING}' was never awaited")
    for error, of in (closed, None), (closed, "the program's"), (not_begun, "a task"):
        sys.unraisablehook(SimpleNamespace(exc_value=error, object=of))
    assert said == ["the program's"]


def test_a_program_may_use_tensorflow_first_and_have_no_standard_error(monkeypatch):
    asked = []

    def used_already(*devices):
        asked.append(devices)
        raise RuntimeError("Visible devices cannot be modified after being initialized")

    monkeypatch.setattr(quiet.tf.config, "set_visible_devices", used_already)
    importlib.reload(quiet)
    monkeypatch.setattr(sys, "stderr", None)
    with quiet.quiet_preparation():
        pass
    assert asked == [([], "GPU")]


def test_tfds_lists_only_what_the_program_has():
    import crl_jax.data.digits

    assert crl_jax.data.digits.Digits.name not in quiet.tfds.list_builders()


def test_an_output_that_failed_is_left_to_the_program(monkeypatch, capsys):
    console = terminal.PlainConsole()
    with open("/dev/full", "w") as full:
        with monkeypatch.context() as patch, console.may_fall_silent():
            patch.setattr(sys, "stdout", full)
            console.print("lost")
        assert os.fstat(full.fileno()).st_rdev == os.stat("/dev/full").st_rdev
        console.print("seen")
        assert capsys.readouterr().out == "seen\n"
        with pytest.raises(OSError, match="No space left"):
            full.close()


def test_a_second_ctrl_c_interrupts_and_does_not_end_the_process(
    small_config, tmp_path, monkeypatch, capsys
):
    before = signal.getsignal(signal.SIGINT)

    def interrupted_twice(batches, mesh):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)  # signals that come together are one
        yield from ()

    monkeypatch.setattr(devices, "prefetch", interrupted_twice)
    with pytest.raises(KeyboardInterrupt):
        train(small_config, tmp_path)
    out = capsys.readouterr().out
    assert "SIGINT: stopping after this step; a second one interrupts it." in out
    assert signal.getsignal(signal.SIGINT) is before


def test_a_handler_that_python_did_not_set_stays(small_config, tmp_path, monkeypatch):
    """As in a program in another language that Python is part of."""
    getsignal, set_now = signal.getsignal, []

    def of_others(number):
        return None if number == signal.SIGTERM else getsignal(number)

    def note(number, handler):
        set_now.append(number)
        return monkeypatch_signal(number, handler)

    monkeypatch_signal = signal.signal
    monkeypatch.setattr(signal, "getsignal", of_others)
    monkeypatch.setattr(signal, "signal", note)
    train(small_config, tmp_path)
    assert set(set_now) == {signal.SIGINT, signal.SIGUSR1}
