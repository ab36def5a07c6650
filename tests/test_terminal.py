"""What is printed stands as it was meant, whatever the names are."""

import ast
import contextlib
import itertools
import os
import re
import sys
import time
from pathlib import Path

import pytest

from crl_jax import checkpoints, cli, devices, terminal
from crl_jax.errors import UserError
from crl_jax.train import train


@pytest.mark.parametrize("name", ["[/red]", "[bold]", ":smile:", "a, b", "図"])
def test_names_are_printed_as_they_are(name, capsys, monkeypatch):
    terminal.print_table(f"title {name}", ["task", "number"], [[name, "1"]])
    progress = terminal.TrainingProgress(0, 2, 8)
    progress.update(1)
    progress.update(2)
    progress.line(2, 1.0, "val", f"top-1  {name} 50.00  joint –")
    lines = capsys.readouterr().out.splitlines()
    assert sum(name in line for line in lines) == 3
    assert f"val top-1  {name} 50.00  joint –" in lines[-1]


def test_what_would_steer_a_terminal_is_shown_instead(capsys):
    name = "a\x1b]0;title\x07\x9b2Jb\r"
    terminal.print_table(f"title {name}", [name, "number"], [[name, "1"]], name)
    terminal.console.print(f"Wrote {name}\nand more", soft_wrap=True)

    def refuse():
        raise UserError(f"There is no {name}\nat all")

    with pytest.raises(SystemExit, match="2"):
        cli.run(refuse)
    printed = capsys.readouterr()
    shown = "a\ufffd]0;title\ufffd\ufffd2Jb\ufffd"
    assert printed.out.count(shown) == 5
    assert printed.err == f"error: There is no {shown}\nat all\n"
    for text in printed:
        assert not set(text.replace("\n", "")) & set(map(chr, range(32)))


def test_output_that_cannot_be_written_is_an_error_but_in_a_run(monkeypatch, capsys):
    full = open("/dev/full", "w")  # noqa: SIM115
    for name in ("stdout", "__stdout__"):
        monkeypatch.setattr(sys, name, full)
    console = terminal.PlainConsole()
    with console.may_fall_silent():
        console.print("lost")
        console.print("lost, too")
    assert capsys.readouterr().err == (
        "The output cannot be written any more (No space left on device): the run goes "
        "on without it.\n"
    )
    full.close()  # which would be an error if some of it were left

    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        with pytest.raises(BrokenPipeError):
            terminal.PlainConsole().print("lost")
        with terminal.PlainConsole().may_fall_silent() as _:
            pass
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)


def test_a_stalled_input_is_told_of_while_it_lasts(monkeypatch, capsys):
    monkeypatch.setattr(terminal, "LONG", 0.2)
    progress = terminal.TrainingProgress(0, 9, 8)
    for step in range(1, 4):
        with progress.waiting(step):
            time.sleep(0.5 if step == 2 else 0)
            told = capsys.readouterr().out
        progress.update(step)
        assert ("Step 2 has waited 0 s for its pictures" in told) == (step == 2)
    progress.line(3, 1.0, "train", "top-1  a 50.00")
    share = capsys.readouterr().out.partition("images/s, ")[2]
    assert 80 <= int(share.partition("% waiting for data")[0]) <= 100


def test_a_slow_disk_is_told_of(small_config, tmp_path, monkeypatch, capsys):
    wait = checkpoints.Checkpoints.wait

    def slow(saved):
        time.sleep(0.2)
        wait(saved)

    monkeypatch.setattr(checkpoints, "LONG", 0.1)
    monkeypatch.setattr(checkpoints.Checkpoints, "wait", slow)
    train(small_config, tmp_path)
    told = capsys.readouterr().out.splitlines()
    slow_steps = [line for line in told if "for the previous checkpoint to be" in line]
    assert [line.split()[1] for line in slow_steps] == ["2", "4", "6"]


def test_a_clock_that_jumps_changes_nothing(
    small_config, whole, tmp_path, monkeypatch, capsys
):
    """By years, to and fro, at each batch; Orbax may give up checkpoints then."""
    now, jumps = time.time, itertools.cycle([0, 3e8, -3e8, 1e8])
    prefetch = devices.prefetch

    def jumping(batches, mesh):
        for batch in prefetch(batches, mesh):
            jump = next(jumps)
            monkeypatch.setattr(time, "time", lambda jump=jump: now() + jump)
            yield batch

    monkeypatch.setattr(devices, "prefetch", jumping)
    with contextlib.suppress(UserError):  # the last one is lost
        train(small_config, tmp_path)
    a, b = ((run / "metrics.csv").read_bytes() for run in (whole[0], tmp_path))
    assert a == b
    speeds = re.findall(
        r"\((-?[\d,]+) images/s.* (-?\d+:.*) left", capsys.readouterr().out
    )
    assert len(speeds) >= 4
    assert not any(number.startswith("-") for speed in speeds for number in speed)


def test_durations_are_measured_by_a_clock_that_cannot_jump():
    package = Path(terminal.__file__).parent
    calls = [
        (path.name, node.lineno)
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "time.time"
    ]
    # When a number was written is no duration.
    assert {name for name, _ in calls} == {"logs.py"}
