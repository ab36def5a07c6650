"""Damaged checkpoints: named, set aside, and the one before used."""

import errno
import json
import re
import shutil
import sys
import warnings
from contextlib import closing

import chex
import jax
import launched
import numpy as np
import pytest

from crl_jax import evaluation, library_logs, workdir
from crl_jax.checkpoints import Checkpoints
from crl_jax.errors import UserError
from crl_jax.train import train


@pytest.fixture(scope="module")
def saved(trained):
    """The folder of a run with two checkpoints, its state's shapes, and both states."""
    directory, _ = trained
    abstract = launched.abstract_state(directory)
    with closing(Checkpoints(directory, read_only=True)) as checkpoints:
        states = {step: checkpoints._restore(step, abstract) for step in (3, 6)}
    return directory, abstract, states


def flipped(content, rng):
    position = rng.integers(len(content))
    bit = bytes([content[position] ^ (1 << rng.integers(8))])
    return content[:position] + bit + content[position + 1 :]


DAMAGE = {
    "flipped": flipped,
    "cut": lambda content, rng: content[: rng.integers(len(content))],
    "emptied": lambda content, rng: b"",
    "deleted": lambda content, rng: None,
}


def check_damage(saved, folder, name, damage, rng, capsys):
    """Damages a file of the newest checkpoint; returns the step that is used then."""
    directory, abstract, states = saved
    shutil.copytree(directory / "checkpoints", folder / "checkpoints")
    content = DAMAGE[damage]((folder / name).read_bytes(), rng)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with closing(Checkpoints(folder)) as checkpoints:
        step, state = checkpoints.restore_latest(abstract)
        best, _ = checkpoints.restore_best(abstract)
    # Either the damage changed nothing, or the checkpoint before is used.
    chex.assert_trees_all_equal(state, states[step])
    said = capsys.readouterr()
    assert said.err == ""
    if step == 6:
        assert said.out == ""
    else:
        assert best == 3
        told = said.out.replace("\n", " ")
        assert re.search(r"checkpoint .*6 is damaged \(.+\); it was moved to", told)
        assert (folder / "damaged" / "6").is_dir()
        assert not (folder / "checkpoints" / "6").exists()
    return step


def test_devices_may_round_differently(saved, tmp_path):
    """What is written is what one of them has."""
    _, abstract, states = saved
    leaves, tree = jax.tree.flatten(states[6])

    def rounded_up(leaf, device):
        """What a device has of it: all but the first have other last bits."""
        array = np.array(leaf)
        if device.id and array.dtype == np.float32:
            array = np.nextafter(array, np.float32(np.inf))
        return jax.device_put(array, device)

    state = tree.unflatten(
        jax.make_array_from_single_device_arrays(
            leaf.shape, leaf.sharding, [rounded_up(leaf, d) for d in jax.devices()]
        )
        for leaf in leaves
    )
    with closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(state, 6)
        checkpoints.wait()
        step, found = checkpoints.restore_latest(abstract)
    assert step == 6
    chex.assert_trees_all_equal(found, states[6])


def files_of_newest(saved):
    directory, _, _ = saved
    newest = (directory / "checkpoints" / "6").rglob("*")
    return [path.relative_to(directory) for path in newest if path.is_file()]


def test_files_of_the_newest_checkpoint(saved, tmp_path, capsys):
    """One damage each; `make faults` does all of them to all.

    Of those that hold arrays, which are many and alike, to every third.
    """
    rng = np.random.default_rng(0)
    steps = {}
    files = files_of_newest(saved)
    arrays = [name for name in files if name.parent.name == "d"]
    others = [name for name in files if name not in arrays]
    for i, name in enumerate(others + arrays[::3]):
        damage = list(DAMAGE)[i % len(DAMAGE)]
        steps[name] = check_damage(saved, tmp_path / str(i), name, damage, rng, capsys)
    # Some files hold no more than notes.
    assert set(steps.values()) == {3, 6}


@pytest.mark.slow
def test_every_damage_to_each_file(saved, tmp_path, capsys):
    rng, steps = np.random.default_rng(0), []
    for i, name in enumerate(files_of_newest(saved) * 2):
        for damage in DAMAGE:
            folder = tmp_path / f"{damage}{i}"
            steps.append(check_damage(saved, folder, name, damage, rng, capsys))
            shutil.rmtree(folder)
    with capsys.disabled():
        print(f"\ndamaged: {steps.count(3)} set aside, {steps.count(6)} did no harm")


def test_any_bit_of_the_arrays(saved, tmp_path, capsys):
    """Bits of the files that hold the numbers: changed, they are never trained with."""
    directory, abstract, states = saved
    rng = np.random.default_rng(1)
    largest = max(files_of_newest(saved), key=lambda f: (directory / f).stat().st_size)
    for i in range(4):
        check_damage(saved, tmp_path / str(i), largest, "flipped", rng, capsys)


async def _read_array_index_and_device_put():
    """Named as the one of Orbax."""


@pytest.mark.parametrize("action", ["error", "default"])
def test_arrays_that_were_not_begun_say_nothing(action, monkeypatch):
    """As when the reading of another array failed: Orbax leaves theirs where it was."""
    said = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    with warnings.catch_warnings(record=True, action=action) as warned:
        library_logs.drop_late_answers.__wrapped__()
        if action == "error":
            warnings.simplefilter("error")  # as pytest does for each test
        _read_array_index_and_device_put()
    assert not said
    assert not warned


def test_a_run_goes_on_from_the_checkpoint_before(trained, saved, tmp_path, capsys):
    """And ends as it would have; evaluation, which may not move it, names it."""
    directory, expected = trained
    shutil.copytree(directory, tmp_path / "run")
    largest = max(files_of_newest(saved), key=lambda f: (directory / f).stat().st_size)
    damaged = tmp_path / "run" / largest
    damaged.write_bytes(damaged.read_bytes()[:100])
    for metrics in (tmp_path / "run" / "checkpoints").glob("*/metrics/metrics"):
        # The damaged one is the best, too.
        metrics.write_text(json.dumps({"score": int(metrics.parts[-3]) / 10}))
    with pytest.raises(UserError, match=r"checkpoints/6 is damaged .*goes on from the"):
        evaluation.evaluate(tmp_path / "run", "test")

    train(workdir.read(directory).config, tmp_path / "run")
    assert "Going on from step 3 of 6" in capsys.readouterr().out
    chex.assert_trees_all_equal(
        launched.saved_state(tmp_path / "run"), launched.saved_state(directory)
    )


def test_a_checkpoint_that_training_replaces_is_not_damaged(
    saved, tmp_path, monkeypatch
):
    """While it is read: the one that took its place is read instead."""
    directory, abstract, states = saved
    shutil.copytree(directory / "checkpoints", tmp_path / "checkpoints")
    with closing(Checkpoints(tmp_path, read_only=True)) as checkpoints:
        restore = checkpoints._restore

        def replaced(step, abstract):
            if step == 6:
                shutil.rmtree(tmp_path / "checkpoints" / "6")
            return restore(step, abstract)

        monkeypatch.setattr(checkpoints, "_restore", replaced)
        step, state = checkpoints.restore_latest(abstract)
    assert step == 3
    chex.assert_trees_all_equal(state, states[3])


def test_where_no_checkpoint_is_whole_all_stay(saved, tmp_path):
    directory, abstract, _ = saved
    shutil.copytree(directory / "checkpoints", tmp_path / "checkpoints")
    for file in tmp_path.glob("checkpoints/*/default/_METADATA"):
        file.unlink()
    for _ in range(2):  # nor does the same command begin anew
        with (
            closing(Checkpoints(tmp_path)) as checkpoints,
            pytest.raises(UserError, match=r"No checkpoint in .* is whole \(.+\)"),
        ):
            checkpoints.restore_latest(abstract)
    assert not (tmp_path / "damaged").exists()


def test_where_no_score_can_be_read_the_run_does_not_begin_anew(saved, tmp_path):
    directory, abstract, _ = saved
    # The folder for checkpoints may be a link to a larger disk.
    shutil.copytree(directory / "checkpoints", tmp_path / "disk" / "checkpoints")
    run = tmp_path / "run"
    run.mkdir()
    (run / "checkpoints").symlink_to(tmp_path / "disk" / "checkpoints")
    for file in run.glob("checkpoints/*/metrics/metrics"):
        file.write_bytes(b"")
    with (
        closing(Checkpoints(run)) as checkpoints,
        pytest.raises(UserError, match=r"No checkpoint in .* is whole \(see .*damaged"),
    ):
        checkpoints.restore_latest(abstract)
    assert sorted(p.name for p in (run / "damaged").iterdir()) == ["3", "6"]
    with pytest.raises(UserError, match=r"no whole checkpoint any more, only damaged"):
        workdir.check_free(run, workdir.read(directory))


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 1 GB"),
        PermissionError(errno.EACCES, "not allowed"),
        OSError(errno.ESTALE, "the server was restarted"),
        OSError(errno.EMFILE, "too many open files"),
        ValueError("NOT_FOUND: Error opening zarr [OS error 24: Too many open files]"),
    ],
)
def test_what_cannot_be_read_now_is_not_damaged(saved, tmp_path, monkeypatch, error):
    directory, abstract, _ = saved
    shutil.copytree(directory / "checkpoints", tmp_path / "checkpoints")

    def restore(*_):
        raise error

    with closing(Checkpoints(tmp_path)) as checkpoints:
        monkeypatch.setattr(checkpoints, "_restore", restore)
        with pytest.raises(UserError, match=r"6 could not be read for now \("):
            checkpoints.restore_latest(abstract)
        assert checkpoints.latest == 6
    assert not (tmp_path / "damaged").exists()
