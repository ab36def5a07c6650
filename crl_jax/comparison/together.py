"""How many seeds of a network are trained as one program."""

import jax

from crl_jax import costs, workdir
from crl_jax.comparison.measurements import step_seconds
from crl_jax.kinds import widths
from crl_jax.terminal import console


def seeds_at_once(run: workdir.Run, missing: int) -> int:
    """Returns how many runs that differ in their seed to train as one program.

    A small network leaves most of an accelerator idle. As many runs are taken as fit if
    a step of them all takes less time there than their steps one after another;
    otherwise one.

    Args:
      run: one of them.
      missing: how many there are to train.
    """
    count = min(missing, _that_fit(run))
    if count == 1:
        return 1
    console.print(f"Timing {count} seeds as one program", soft_wrap=True)
    try:
        pays = step_seconds(run, count) < count * step_seconds(run, 1)
    except jax.errors.JaxRuntimeError:  # more memory than was thought
        pays = False
    return count if pays else 1


def _that_fit(run: workdir.Run) -> int:
    """Returns how many fit into half of a device's memory, judged by their shapes.

    One keeps a CPU busy.
    """
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return 1
    limit = (device.memory_stats() or {}).get("bytes_limit", 0)
    cost = costs.cost(run.config, widths(run.kinds))
    examples = run.config.data.batch_size / jax.device_count()
    # Parameters, gradient, two moments and an average, in float32.
    needed = 5 * 4 * cost.total + examples * cost.activation_bytes
    return max(1, int(limit / 2 / needed))
