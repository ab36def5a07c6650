"""Measures what the networks of a comparison cost on this machine."""

import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from crl_jax import costs, devices, json_files, models, workdir
from crl_jax.comparison.plan import PlannedRun, Variant
from crl_jax.data import Batch, stream
from crl_jax.errors import UserError
from crl_jax.kinds import Kinds, widths
from crl_jax.program import Program
from crl_jax.terminal import console
from crl_jax.train_state import TrainState, side_by_side

_WARM_UP, STEPS = 2, 20


@dataclass(frozen=True)
class Measurement:
    """What a network costs.

    Attributes:
      parameters: of the whole network, all tasks together.
      flops: of the forward pass of one picture, see `costs.flops`.
      step_seconds: fastest of several train steps, with the batch already on the
        device.
      step_bytes: peak memory that the step's program uses on one device, state and
        batch included, as XLA planned it.
      device: what it was measured on.
    """

    parameters: int
    flops: int
    step_seconds: float
    step_bytes: int
    device: str


def measure_all(
    planned: Sequence[PlannedRun], directory: Path
) -> dict[Variant, Measurement]:
    """Returns what each variant costs, from `costs.json` if all of it is there.

    Otherwise, or if a config or the device has changed since, all are measured again,
    in one sitting, so that they can be compared.
    """
    firsts: dict[Variant, workdir.Run] = {}
    for one in planned:
        firsts.setdefault(one.variant, one.run)
    configs = {v.label: json.loads(run.config.to_json()) for v, run in firsts.items()}
    path = directory / "costs.json"
    known, measured_configs = _read(path)
    same = all(measured_configs.get(label) == configs[label] for label in configs)
    if not same or any(known[label].device != _device() for label in configs):
        known = {}
        for variant, run in firsts.items():
            console.print(f"{variant.label}: timing {STEPS} steps", soft_wrap=True)
            known[variant.label] = measure(run)
        content = {
            label: asdict(found) | {"config": configs[label]}
            for label, found in known.items()
        }
        with workdir.writing(directory):
            json_files.write(path, content)
    return {variant: known[variant.label] for variant in firsts}


def _read(path: Path) -> tuple[dict[str, Measurement], dict[str, Any]]:
    """Returns the measurements, and the config of each, by label."""
    if not path.exists():
        return {}, {}
    try:
        content = json.loads(path.read_text("utf-8", "surrogateescape"))
        configs = {label: found.pop("config", None) for label, found in content.items()}
        return {label: Measurement(**of) for label, of in content.items()}, configs
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): delete it, and the same command "
            "measures again."
        ) from error


def measure(run: workdir.Run) -> Measurement:
    """Measures the train step of a run on random pictures, on all devices."""
    cost = costs.cost(run.config, widths(run.kinds))
    compiled, state, batch = _compiled_step(run, 1)
    memory = compiled.memory_analysis()
    return Measurement(
        parameters=cost.total,
        flops=cost.flops,
        step_seconds=_seconds(compiled, state, batch),
        step_bytes=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
        device=_device(),
    )


def step_seconds(run: workdir.Run, seeds: int) -> float:
    """Returns the time of a step of several runs as one program, as in `measure`.

    Raises:
      jax.errors.JaxRuntimeError: they do not fit into the memory of a device.
    """
    return _seconds(*_compiled_step(run, seeds))


def _compiled_step(run: workdir.Run, seeds: int) -> tuple[Any, TrainState, Batch]:
    """Returns the train step of some runs side by side, their state and a batch."""
    config, classes = run.config, widths(run.kinds)
    mesh = devices.make_mesh(config.train.task_devices, len(classes))
    network = models.build(config, classes)
    program = Program(config, run.kinds, network, mesh, lambda count: 1e-6)
    train_step: Any = program.train_step(runs=seeds)
    state = side_by_side([program.new_state(config.train.seed)] * seeds)
    one = _random_batch(config.data, run.kinds)
    several = stream.side_by_side([itertools.repeat(one)] * seeds)
    batch = devices.put_batch(next(several), mesh)
    return train_step.lower(state, batch).compile(), state, batch


def _seconds(step: Any, state: TrainState, batch: Batch) -> float:
    """Returns the time of the fastest of several steps."""
    seconds = []
    for _ in range(_WARM_UP + STEPS):
        start = time.perf_counter()
        state, report = step(state, batch)
        jax.block_until_ready((state, report))
        seconds.append(time.perf_counter() - start)
    return min(seconds[_WARM_UP:])


def _device() -> str:
    return f"{jax.device_count()} {jax.devices()[0].device_kind}"


def _random_batch(data: ConfigDict, kinds: Kinds) -> Batch:
    rng = np.random.default_rng(0)
    size, count = data.image_size, data.batch_size
    return {
        "image": rng.integers(0, 256, (count, size, size, 3), np.uint8),
        "labels": {t: kind.random_labels(rng, count) for t, kind in kinds.items()},
    }
