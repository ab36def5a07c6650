"""`MultitaskResNet`: the paper's networks and baselines, from two settings.

| name                    | `branch_from` | cross weight |
|-------------------------|---------------|--------------|
| S, one network per task | `stem`        | 0            |
| M, multitask            | `res5b`       | 0            |
| X, cross-residual       | `res5b`       | 0.1          |
| heads only              | `head`        | -            |

The baselines cross-stitch and NDDR are M with a `Fusion` after each branched unit; MTAN
is heads only, with a `StageAttention` after each stage.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from crl_jax.models import layers, units
from crl_jax.models.architecture import (
    ARCHITECTURES,
    branched_layers,
    frozen_layers,
    layer_names,
    unit_names,
)
from crl_jax.models.attention import StageAttention
from crl_jax.models.batch_norm import BatchNorm
from crl_jax.models.cross_residual import CrossResidual
from crl_jax.models.fusion import Fusion
from crl_jax.models.groups import groups_in_cache, in_groups

Array = jax.Array

# The mapped axes along which a batch, and the task axis, are divided over devices.
DATA_AXIS = "data"
TASK_AXIS = "task"

# How many stages, from the first on, can be computed a few pictures at a time: their
# activations are large and their kernels small.
_EARLY = 2


class MultitaskResNet(nn.Module):
    """A residual network whose layers from `branch_from` on exist once per task.

    A layer's parameters lie under its name, those of a branched layer with a leading
    axis T. Learned cross weights are at `<unit>_cross/weight`, heads at `head/<task>`.

    Attributes:
      classes: `{task: K}`; their order is the order of the task axis.
      depth: 12, 18, 34, 50, 101 or 152.
      branch_from: first layer that each task has for itself (see `layer_names`).
      cross_kind, cross_init, cross_learned: see `CrossResidual`.
      fusion: "none"; "cross_stitch" or "nddr", which mix the tasks after a branched
        unit (see `Fusion`); or "mtan", with which the tasks attend to a trunk that has
        no branches (see `StageAttention`). Its parameters lie at `<unit>_cross`, or
        `<stage>_cross`.
      width: multiplies the channels of every stage.
      stem: "large" or "small" (see `units.Stem`).
      stride_in: "3x3" or "1x1" (see `units.BottleneckUnit`).
      mean, std: of the channels of a picture, on a 0-1 scale.
      dtype: of the computation; parameters and batch statistics are float32.
      batch_norm_axis: mapped axis over which batch statistics are averaged.
      remat: stages, 2 to 5, whose units keep only their input for the backward pass and
        are computed again in it: less memory for more time.
      frozen: last of the stages that are not trained (see `STAGES`), or "none". Their
        batch norm uses and keeps its running statistics.
      frozen_batch_stats: whether all batch norm does so.
      task_devices: devices that T is divided over. With more than one, the network runs
        mapped over `TASK_AXIS`, with the parameters of T / task_devices tasks on each.
    """

    classes: Mapping[str, int]
    depth: int = 50
    branch_from: str = "res5b"
    cross_kind: str = "scalar"
    cross_init: float = 0.1
    cross_learned: bool = False
    fusion: str = "none"
    width: float = 1.0
    stem: str = "large"
    stride_in: str = "3x3"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    dtype: Any = jnp.float32
    batch_norm_axis: str | None = None
    remat: tuple[int, ...] = ()
    frozen: str = "none"
    frozen_batch_stats: bool = False
    task_devices: int = 1

    @property
    def stacked_layers(self) -> frozenset[str]:
        """Layers whose parameters have a leading axis T."""
        return branched_layers(self.depth, self.branch_from) - {"head"}

    @property
    def frozen_layers(self) -> frozenset[str]:
        """Layers whose parameters stay as they are."""
        return frozen_layers(self.depth, self.frozen)

    @property
    def trained_trunk(self) -> list[str]:
        """Layers that all tasks share and that are trained, from first to last."""
        own = branched_layers(self.depth, self.branch_from) | self.frozen_layers
        return [layer for layer in layer_names(self.depth) if layer not in own]

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Computes every task's logits.

        Each unit is `y = relu(F(x) + s)`, where s is the shortcut of x; branched over
        tasks, `y[t] = relu(F[t](x[t]) + sum over j of W[t, j] s[j])` (Jou and Chang
        2016). The first branched unit sees the same x for every task: with an identity
        shortcut and scalar cross weights it only rescales s, and what the tasks have
        learned starts to cross at the second one.

        Args:
          images: `[B, H, W, 3]`, uint8 (or float) from 0 to 255; they are normalised
            here, on the device.
          train: whether batch norm uses, and records, the statistics of this batch.

        Returns:
          `{task: [B, K]}`, float32.

        Raises:
          UserError: `branch_from` is not a layer of this network.
        """
        groups = self._groups(images, train)
        if groups > 1:
            x = in_groups(MultitaskResNet._early_stages, self, images, groups)
        else:
            x = self._stem(images, train)

        attended = None
        for stage in range(_EARLY if groups > 1 else 0, len(self._unit_names)):
            outputs = self._stage(stage, x, train)
            x = outputs[-1]
            if self.fusion == "mtan":
                attend = self._attention(f"res{stage + 2}_cross", train)
                attended = attend(outputs[0], x, attended)

        heads = units.Heads(dict(self.classes), self._task_axis, name="head")
        return heads(x if attended is None else attended)

    def _early_stages(self, images: Array) -> Array:
        """Returns what the stem and early stages give, if all tasks share them."""
        x = self._stem(images, train=False)
        for stage in range(_EARLY):
            x = self._stage(stage, x, train=False)[-1]
        return x

    def _stem(self, images: Array, train: bool) -> Array:
        """Returns what the stem gives, `[B, H', W', C]`, or `[T, ...]` if branched."""
        x, in_branch = self._normalise(images), "stem" in self._branched
        if in_branch:
            x = units.to_each_task(x, self._tasks_here)
        stem, norm = self._layer(units.Stem, in_branch), self._norm("stem", train)
        return stem(self._channels(0), size=self.stem, norm=norm, name="stem")(x)

    def _stage(self, stage: int, x: Array, train: bool) -> list[Array]:
        """Returns what each unit of a stage gives, the first stage being 0."""
        unit_class = ARCHITECTURES[self.depth][0]
        settings: dict[str, Any] = {}
        if unit_class is units.BottleneckUnit:
            settings["stride_in"] = self.stride_in
        if stage + 2 in self.remat:
            unit_class = nn.remat(unit_class)

        names, outputs = self._unit_names[stage], []
        for name in names:
            in_branch = name in self._branched
            if in_branch and x.ndim == 4:
                x = units.to_each_task(x, self._tasks_here)
            residual, shortcut = self._layer(unit_class, in_branch)(
                self._channels(stage),
                stride=2 if stage > 0 and name == names[0] else 1,
                norm=self._norm(name, train),
                name=name,
                **settings,
            )(x)
            fuses = in_branch and self.fusion != "none"
            if in_branch and not fuses:
                shortcut = self._cross_residual(name)(shortcut)
            x = layers.relu(residual + shortcut, shared=True)
            if fuses:
                x = Fusion(self.fusion, name=f"{name}_cross")(x)
            outputs.append(x)
        return outputs

    def _groups(self, images: Array, train: bool) -> int:
        """Returns how many groups of pictures `_early_stages` computes; 1: not used.

        Pictures depend on each other if batch norm uses the statistics of a batch.
        """
        last = self._unit_names[_EARLY - 1][-1]
        depend = train and last not in self.frozen_layers
        keeps = self.is_initializing() or self.is_mutable_collection("intermediates")
        if depend or keeps or last in self._branched or self.fusion == "mtan":
            return 1
        count, rows, columns, _ = images.shape
        pixels = rows * columns // (16 if self.stem == "large" else 1)
        channels = self._channels(0) * ARCHITECTURES[self.depth][0].expansion
        picture_bytes = pixels * channels * jnp.dtype(self.dtype).itemsize
        return groups_in_cache(count, picture_bytes)

    @property
    def _branched(self) -> frozenset[str]:
        return branched_layers(self.depth, self.branch_from)

    @property
    def _unit_names(self) -> list[list[str]]:
        return unit_names(ARCHITECTURES[self.depth][1])

    def _channels(self, stage: int) -> int:
        """Returns the channels inside a stage's units, the first stage being 0."""
        return round(64 * 2**stage * self.width)

    @property
    def _tasks_here(self) -> int:
        """How many of the T tasks one device has."""
        return len(self.classes) // self.task_devices

    @property
    def _task_axis(self) -> str | None:
        return TASK_AXIS if self.task_devices > 1 else None

    def _normalise(self, images: Array) -> Array:
        mean, std = (
            jnp.reshape(255 * jnp.array(v, jnp.float32), (1, 1, 1, 3))
            for v in (self.mean, self.std)
        )
        return ((images.astype(jnp.float32) - mean) / std).astype(self.dtype)

    def _norm(self, layer: str, train: bool) -> Callable[..., BatchNorm]:
        """Returns the batch norm of a layer."""
        starts_anew = layer.endswith("_cross")  # not in any weights to start from
        keeps = layer in self.frozen_layers or (
            self.frozen_batch_stats and not starts_anew
        )
        return functools.partial(
            BatchNorm, train=train and not keeps, axis_name=self.batch_norm_axis
        )

    def _layer(self, layer: type[nn.Module], in_branch: bool) -> Callable[..., Any]:
        """Returns `layer` with its kind of convolution, branched over tasks or not."""
        conv = functools.partial(layers.Conv, dtype=self.dtype, in_branch=in_branch)
        if in_branch:
            layer = units.over_tasks(layer, self._tasks_here)
        return functools.partial(layer, conv=conv)

    def _cross_residual(self, unit_name: str) -> CrossResidual:
        return CrossResidual(
            kind=self.cross_kind,
            start=self.cross_init,
            learned=self.cross_learned,
            task_axis=self._task_axis,
            name=f"{unit_name}_cross",
        )

    def _attention(self, name: str, train: bool) -> StageAttention:
        norm = self._norm(name, train)
        return StageAttention(len(self.classes), norm, self.dtype, name=name)


def build(config: ConfigDict, classes: Mapping[str, int]) -> MultitaskResNet:
    """Builds the network that `config.model` and `config.data` describe.

    Args:
      config: a checked config.
      classes: `{task: K}`.

    Raises:
      UserError: `config.model.branch_from` is not a layer of this network.
    """
    model = config.model
    branched_layers(model.depth, model.branch_from)
    return MultitaskResNet(
        classes=dict(classes),
        depth=model.depth,
        branch_from=model.branch_from,
        cross_kind=model.cross.kind,
        cross_init=model.cross.init,
        cross_learned=model.cross.learned,
        fusion=model.fusion,
        width=model.width,
        stem=model.stem,
        stride_in=model.stride_in,
        mean=tuple(config.data.mean),
        std=tuple(config.data.std),
        dtype=jnp.dtype(model.dtype),
        batch_norm_axis=DATA_AXIS if model.sync_batch_norm else None,
        remat=tuple(model.remat),
        frozen=model.frozen,
        frozen_batch_stats=model.frozen_batch_stats,
        task_devices=config.train.task_devices,
    )


def abstract_variables(network: MultitaskResNet, image_size: int) -> Any:
    """Returns the shapes and dtypes of a network's variables; nothing is computed.

    Args:
      network: the whole of it, on however many devices it is going to be.
      image_size: rows and columns of its pictures.
    """
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.uint8)
    whole = network.clone(task_devices=1)
    return jax.eval_shape(whole.init, jax.random.key(0), images)
