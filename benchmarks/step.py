"""How long X-ResNet's train step and evaluation take, beside PyTorch's.

  python -m benchmarks.step
  python -m benchmarks.step --dtype=bfloat16 --batch=128    # on a GPU

Both frameworks compute the same network from the same weights, in turns, in one process
and on all its cores. The step is a whole train step: gradient and update. PyTorch needs
`pip install -r benchmarks/requirements.txt`; on a GPU it needs a build for that GPU,
and uses `torch.compile`.
"""

import argparse
import importlib.util
import os
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from benchmarks import turns
from crl_jax import (
    cli,
    config_check,
    costs,
    devices,
    models,
    terminal,
)
from crl_jax import config as config_lib
from crl_jax.data import Batch
from crl_jax.kinds import Categorical
from crl_jax.models import layers
from crl_jax.program import Program

CLASSES = {"noun": 167, "adjective": 117, "anp": 553}  # of the paper
FRAMEWORKS = ("crl_jax", "PyTorch")
PASSES = {"training": 3, "evaluation": 1}  # of the network, forwards or backwards

Contestants = dict[str, Callable[[], object]]


def main() -> None:
    """Measures, and prints a table."""
    verb = turns.parser(__doc__, depth=50, size=224, batch=8, repeats=11)
    turns.add_dtype(verb)
    verb.add_argument(
        "--compile",
        action="store_true",
        help="PyTorch's step with torch.compile on a CPU, too",
    )
    arguments = verb.parse_args()

    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")  # of a GPU
    devices.start()
    config = make_config(arguments.depth, arguments.size, arguments.batch)
    config.model.dtype = arguments.dtype
    batch = make_batch(arguments.batch, arguments.size)
    contestants = jax_contestants(config, batch)
    if importlib.util.find_spec("torch") is None:
        print("Without PyTorch: pip install -r benchmarks/requirements.txt")
    else:
        contestants |= torch_contestants(config, batch, arguments.compile)
    seconds, cpu = turns.measure(contestants, arguments.repeats)
    flops = costs.cost(config, CLASSES).flops * arguments.batch
    show(seconds, cpu, flops, arguments)
    turns.write(
        arguments.json,
        {"seconds": seconds, "cpu_seconds": cpu, "forward_flops": flops},
    )


def make_config(
    depth: int,
    size: int,
    batch: int,
    classes: Mapping[str, int] = CLASSES,
    task_devices: int = 1,
) -> ConfigDict:
    """Returns the config of an X-ResNet."""
    config = config_lib.default()
    config.model.depth = depth
    config.data.image_size = size
    config.data.batch_size = batch
    config.train.task_devices = task_devices
    return config_check.with_tasks(config_check.check(config), classes)


def make_batch(batch: int, size: int, classes: Mapping[str, int] = CLASSES) -> Batch:
    """Returns random pictures and labels."""
    rng = np.random.default_rng(0)
    labels = {t: rng.integers(0, k, batch, np.int32) for t, k in classes.items()}
    return {
        "image": rng.integers(0, 256, (batch, size, size, 3), np.uint8),
        "labels": labels,
    }


def program_of(
    config: ConfigDict,
    classes: Mapping[str, int] = CLASSES,
    mesh: Mesh | None = None,
) -> Program:
    """Returns the very states, step and evaluation that a run uses."""
    mesh = mesh or devices.make_mesh(config.train.task_devices, len(classes))
    network = models.build(config, classes)
    kinds = {
        task: Categorical(tuple(map(str, range(k)))) for task, k in classes.items()
    }
    return Program(config, kinds, network, mesh, lambda count: 0.01)


def jax_contestants(config: ConfigDict, batch: Batch) -> Contestants:
    """Returns a step, and an evaluation."""
    program = program_of(config)
    train_step, eval_step = program.train_step(), program.eval_step
    state, placed = program.new_state(0), devices.put_batch(batch, program.mesh)
    variables = jax.tree.map(jnp.copy, state.evaluated)

    def train() -> object:
        nonlocal state
        state, report = train_step(state, placed)
        return report

    return {
        "crl_jax training": train,
        "crl_jax evaluation": lambda: eval_step(variables, placed),
    }


def torch_contestants(config: ConfigDict, batch: Batch, compiles: bool) -> Contestants:
    """Returns the same in PyTorch, in its fastest layout (NHWC).

    Args:
      config: of the network.
      batch: on the host.
      compiles: whether `torch.compile` is used; on a GPU it always is.
    """
    import torch

    from benchmarks.torch_network import TorchNetwork

    torch.set_num_threads(turns.CORES)
    torch.set_float32_matmul_precision("high")  # on GPUs, as JAX does by default
    torch.backends.cudnn.benchmark = True  # tries its kernels, as XLA does
    device = torch.device("cpu" if layers.on("cpu") else "cuda")
    compiles = compiles or device.type == "cuda"
    images = torch.from_numpy(batch["image"]).permute(0, 3, 1, 2)
    labels = {t: torch.from_numpy(v).long() for t, v in batch["labels"].items()}
    network, variables = initial(config)

    def new(training: bool) -> Any:
        copy: Any = TorchNetwork(network)
        copy.load(variables)
        return copy.to(memory_format=torch.channels_last).train(training)

    few = images[:8]
    check_same(network, variables, batch["image"][:8], new(training=False)(few))
    trained, evaluated = new(training=True).to(device), new(training=False).to(device)
    images, labels = images.to(device), {t: v.to(device) for t, v in labels.items()}
    optimizer = torch.optim.SGD(
        trained.parameters(), 0.01, momentum=0.9, weight_decay=1e-4
    )
    mixed = torch.autocast(
        device.type, torch.bfloat16, enabled=config.model.dtype == "bfloat16"
    )

    def loss_of(model: Any) -> Any:
        with mixed:
            logits = model(images)
        losses = [
            torch.nn.functional.cross_entropy(logits[t].float(), labels[t])
            for t in labels
        ]
        return torch.stack(losses).sum()

    if compiles:
        trained, evaluated = torch.compile(trained), torch.compile(evaluated)

    def train() -> object:
        optimizer.zero_grad()
        loss = loss_of(trained)
        loss.backward()
        optimizer.step()
        return TorchLoss(loss.detach())

    def evaluate() -> object:
        with torch.inference_mode():
            return TorchLoss(loss_of(evaluated))

    return {"PyTorch training": train, "PyTorch evaluation": evaluate}


@dataclass(frozen=True)
class TorchLoss:
    """A loss in PyTorch that can be waited for like a JAX array."""

    loss: Any

    def block_until_ready(self) -> None:
        """Returns when a GPU has computed it, and everything before it."""
        float(self.loss)


def initial(config: ConfigDict) -> tuple[models.MultitaskResNet, Any]:
    """Returns a network and variables for it, in which no scale is zero."""
    network = models.build(config, CLASSES).clone(
        batch_norm_axis=None, dtype=jnp.float32
    )
    size = config.data.image_size
    variables = jax.jit(network.init)(
        jax.random.key(0), np.zeros((1, size, size, 3), np.uint8)
    )
    rng = np.random.default_rng(0)
    return network, jax.tree.map(
        lambda x: np.array(x) if x.ndim > 2 else rng.uniform(0.5, 1, x.shape), variables
    )


def check_same(
    network: models.MultitaskResNet, variables: Any, images: np.ndarray, theirs: Any
) -> None:
    """Raises AssertionError if PyTorch's logits differ."""
    with jax.default_matmul_precision("highest"):
        ours: Any = jax.jit(network.apply)(variables, images)
    for task in CLASSES:
        expected = np.asarray(ours[task])
        error = np.abs(theirs[task].detach().numpy() - expected).max()
        assert error < 1e-3 * np.abs(expected).max(), (task, error)


def show(
    seconds: turns.Seconds,
    cpu: turns.Seconds,
    flops: float,
    arguments: argparse.Namespace,
) -> None:
    """Prints medians, spread, speed, and PyTorch's time over ours (median of turns)."""
    used = "CPU ms" if layers.on("cpu") else "images/s"
    rows = []
    for work, passes in PASSES.items():
        for framework in FRAMEWORKS:
            name = f"{framework} {work}"
            if name not in seconds:
                continue
            found = seconds[name]
            row = [name, *turns.milliseconds(found)]
            if layers.on("cpu"):
                row += [f"{1e3 * statistics.median(cpu[name]):,.0f}"]
            else:
                row += [turns.images(arguments.batch, found)]
            row += [f"{passes * flops / statistics.median(found) / 1e9:,.0f}"]
            reference = seconds.get(f"PyTorch {work}")
            row += [f"{turns.ratio(reference, found):.2f}" if reference else "–"]
            rows.append(row)
    terminal.print_table(
        f"X-ResNet-{arguments.depth}, {len(CLASSES)} tasks, {arguments.size} px, "
        f"batch {arguments.batch}, {arguments.dtype}",
        ["", "ms", "range", used, "GFLOP/s", "PyTorch / it"],
        rows,
        f"{turns.note(arguments)} A step counts as three forward passes.",
    )


if __name__ == "__main__":
    cli.run(main)
