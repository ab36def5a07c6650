"""Damaged checkpoints: named, set aside, and the one before used."""

import re
import shutil
from contextlib import closing

import chex
import numpy as np
import pytest
import runs

from crl_jax.checkpoints import Checkpoints


@pytest.fixture(scope="module")
def saved(trained):
    """The folder of a run with two checkpoints, its state's shapes, and both states."""
    directory, _ = trained
    abstract = runs.abstract_state(directory)
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


@pytest.mark.parametrize("damage", DAMAGE)
def test_each_file_of_the_newest_checkpoint(saved, tmp_path, capsys, damage):
    directory, abstract, states = saved
    rng = np.random.default_rng(list(DAMAGE).index(damage))
    newest = directory / "checkpoints" / "6"
    files = [path.relative_to(directory) for path in newest.rglob("*")]
    set_aside = []
    for i, name in enumerate(f for f in files if (directory / f).is_file()):
        copy = tmp_path / str(i)
        shutil.copytree(directory / "checkpoints", copy / "checkpoints")
        content = DAMAGE[damage]((copy / name).read_bytes(), rng)
        (copy / name).unlink()
        if content is not None:
            (copy / name).write_bytes(content)
        with closing(Checkpoints(copy)) as checkpoints:
            step, state = checkpoints.restore_latest(abstract)
            best = checkpoints.best
        # Either the damage changed nothing, or the checkpoint before is used.
        chex.assert_trees_all_equal(state, states[step])
        said = capsys.readouterr().out
        if step == 6:
            assert said == ""
            continue
        assert best == 3
        assert re.search(r"checkpoint .*6 is damaged \(.+\); it now lies in", said)
        assert (copy / "damaged" / "6").is_dir()
        assert not (copy / "checkpoints" / "6").exists()
        set_aside.append(str(name))
    assert [n for n in set_aside if "/d/" in n], "no array was missed"
