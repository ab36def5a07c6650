"""What a run computes on: the devices of one machine, or of several.

Devices form a mesh of two axes. A batch is divided over `DATA_AXIS`; the stacked task
axis of the branches is divided over `TASK_AXIS`, which has one device unless
`config.train.task_devices` asks for more.
"""

import ctypes
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict
from orbax.checkpoint import multihost

from crl_jax.data import Batch
from crl_jax.errors import UserError
from crl_jax.models.network import DATA_AXIS, TASK_AXIS
from crl_jax.terminal import console

Result = TypeVar("Result")
Tree = TypeVar("Tree")

# Set to the number of processes if several were started for one program.
_COUNTS_OF_PROCESSES = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
# Set to the hosts of a TPU pod.
_LISTS_OF_PROCESSES = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")

# How long the other processes wait for the first; if one dies, it ends them at once.
_WEEK_MS = 7 * 24 * 3600 * 1000

# How often it has been waited for; the processes do so at the same places.
_times = itertools.count()

# Parameters of `mallopt` (3).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def start(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
) -> None:
    """Prepares JAX: once per process, before anything is computed.

    Compiled programs are kept on disk, in JAX_COMPILATION_CACHE_DIR or otherwise in the
    user's cache folder, so that the next start need not compile them again. Several
    processes keep them only in the former, which must be one folder for all. Processes
    that Slurm, Open MPI or Kubernetes (indexed jobs, TPU pods) started together find
    each other; all but the first then print nothing. On a CPU, memory that was freed is
    kept for the next step (`mallopt`) and computation is synchronous, for the whole
    process.

    Args:
      coordinator: `host:port` of the first process, if the cluster does not give it.
      processes: how many there are, likewise.
      process: which one this is, from 0, likewise.

    Raises:
      UserError: the processes do not find each other, or `coordinator` is missing.
    """
    alone = not coordinator and not _in_cluster()
    if alone and (processes is not None or process is not None):
        raise UserError(
            "--processes and --process need --coordinator=HOST:PORT, the address of "
            "the first process."
        )
    # Only the first of several processes writes there. Those on other machines may not
    # see it, and on GPUs would wait for it to choose kernels with them, for hours.
    if alone and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        jax.config.update("jax_compilation_cache_dir", str(cache / "crl_jax/compiled"))
    _keep_freed_memory()
    have_cpu()
    if not alone and not jax.distributed.is_initialized():
        try:
            jax.distributed.initialize(coordinator, processes, process)
        except Exception as error:  # whatever the network or the cluster answers
            raise UserError(
                f"The processes did not find each other: {error}. Give each of them "
                "--coordinator=HOST:PORT (of the first), --processes=N and "
                "--process=0 to N - 1."
            ) from error
    if jax.process_count() > 1 and not jax.distributed.is_initialized():
        raise UserError(
            f"This is one of {jax.process_count()} processes, which nothing here tells "
            "of the others: give each of them --coordinator=HOST:PORT (of the first), "
            "--processes=N and --process=0 to N - 1."
        )
    console.quiet = not is_first()


def _keep_freed_memory() -> None:
    """Has the C library keep memory that the main thread freed, for the next step.

    On a CPU, XLA takes the memory of a step anew each time; glibc would give it back to
    the system in between, which then clears it page by page: a fifth of a step's time.
    XLA is made to compute in the thread that calls it, which is the main thread.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # only glibc has it
            libc.mallopt(_MMAP_MAX, 0)
            libc.mallopt(_TRIM_THRESHOLD, -1)


def host() -> jax.Device:
    """Returns a CPU; the first device if JAX_PLATFORMS named others only."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


def have_cpu() -> None:
    """Makes the CPU known to JAX, too, if JAX_PLATFORMS names only other devices.

    Parameters are created there (see `Program.new_state`).
    """
    config: Any = jax.config  # whose settings have no types
    platforms = config.jax_platforms
    if platforms and "cpu" not in platforms.split(","):
        jax.config.update("jax_platforms", f"{platforms},cpu")


def _in_cluster() -> bool:
    """Whether this process is one of several that run one program."""
    return (
        any(int(os.environ.get(name, 1)) > 1 for name in _COUNTS_OF_PROCESSES)
        or "JOB_COMPLETION_INDEX" in os.environ  # of Kubernetes
        or any("," in os.environ.get(name, "") for name in _LISTS_OF_PROCESSES)
    )


def is_first() -> bool:
    """Whether this is the process that writes and prints: the first or the only one."""
    return jax.process_index() == 0


def first_alone(work: Callable[[], Result]) -> Result:
    """Returns what `work` returns; the first process calls it before the others do.

    These do not wait at a collective of their devices, which would give up after
    minutes: the first may have millions of pictures to prepare.
    """
    if is_first():
        result = work()
    meeting = f"the first is done {next(_times)}"
    multihost.get_barrier_sync_fn()(key=meeting, timeout_ms=_WEEK_MS)
    return result if is_first() else work()


def check_alone(what: str) -> None:
    """Raises UserError if there are several processes, for what only one may do.

    Args:
      what: such as "A report is written".
    """
    if jax.process_count() > 1:
        raise UserError(f"{what} by one process only: start just one.")


def anywhere(found: bool) -> bool:
    """Whether something was found in any process; all of them must ask at once."""
    if jax.process_count() == 1:
        return found
    return bool(np.any(multihost_utils.process_allgather(np.array(found))))


def make_mesh(task_devices: int = 1, tasks: int = 1) -> Mesh:
    """Returns all devices, of all processes, as a mesh over data and tasks.

    Args:
      task_devices: how many the task axis is divided over.
      tasks: T.

    Raises:
      UserError: the tasks or the devices cannot be divided this way.
    """
    local = jax.local_device_count()
    if local % task_devices or tasks % task_devices:
        raise UserError(
            f"config.train.task_devices={task_devices} must divide both the {tasks} "
            f"tasks and the {local} devices of a process; 1 always does."
        )
    # The devices of a process stay together, so that its share of a batch lies on them.
    # `jax.make_mesh` arranges TPUs otherwise, and refuses devices of several machines.
    ordered = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    grid = np.array(ordered).reshape(-1, task_devices)
    return Mesh(grid, (DATA_AXIS, TASK_AXIS), axis_types=(AxisType.Explicit,) * 2)


def check_batch_size(config: ConfigDict, mesh: Mesh) -> None:
    """Raises UserError if a batch cannot be divided equally over the devices."""
    devices, parts = mesh.shape[DATA_AXIS], config.train.accumulate
    batch_size = config.data.batch_size
    multiple = devices * parts
    if batch_size % multiple:
        near = max(multiple, batch_size // multiple * multiple)
        raise UserError(
            f"config.data.batch_size={batch_size} cannot be divided equally over "
            f"{devices} devices times config.train.accumulate={parts}: take a multiple "
            f"of {multiple}, such as {near}."
        )


def place(tree: Tree, like: Any) -> Tree:
    """Places arrays that every process has where others lie, or are to lie.

    `jax.device_put` would have several processes compare each array first.

    Args:
      tree: of arrays.
      like: of arrays, or of their shapes, with a sharding each.
    """

    def put(x: Any, like: Any) -> jax.Array:
        if like.sharding.is_fully_addressable:
            return jax.device_put(x, like.sharding)
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, like.sharding, lambda i: x[i])

    return jax.tree.map(put, tree, like)


def put_batch(batch: Batch, mesh: Mesh) -> Batch:
    """Places this process's share of a batch on its devices, divided over examples.

    Args:
      batch: its first axis is this process's examples, or the second if the first is
        several runs side by side; what is neither image nor label is left behind.
      mesh: from `make_mesh`.
    """
    of_runs = batch["image"].ndim == 5
    sharding = NamedSharding(mesh, P(None, DATA_AXIS) if of_runs else P(DATA_AXIS))
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, x),
        {"image": batch["image"], "labels": batch["labels"]},
    )


def fetch(array: jax.Array) -> np.ndarray:
    """Returns all processes' parts of an array from `put_batch` or computed from it."""
    if array.is_fully_addressable:
        return np.asarray(array)
    return multihost_utils.process_allgather(array, tiled=True)


def prefetch(batches: Iterable[Batch], mesh: Mesh) -> Iterator[Batch]:
    """Yields batches on the devices; each is sent while the one before is in use."""
    ahead: Batch | None = None
    for batch in batches:
        placed = put_batch(batch, mesh)
        if ahead is not None:
            yield ahead
        ahead = placed
    if ahead is not None:
        yield ahead
