"""`crl_jax.models.MultitaskResNet` in PyTorch, written plainly, to compare with."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from crl_jax.models import MultitaskResNet
from crl_jax.models.architecture import ARCHITECTURES, branched_layers, unit_names
from crl_jax.models.units import BottleneckUnit


class Unit(nn.Module):
    """A basic or bottleneck unit, with the stride in the 3x3 convolution."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        self.bottleneck = bottleneck
        outputs = 4 * width if bottleneck else width
        if bottleneck:
            self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
            self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
            self.norm3 = nn.BatchNorm2d(outputs)
        else:
            self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.projects = stride != 1 or inputs != outputs
        if self.projects:
            self.projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.projection_norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the residual and the shortcut."""
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        if self.bottleneck:
            y = self.norm3(self.conv3(F.relu(y, inplace=True)))
        return y, self.projection_norm(self.projection(x)) if self.projects else x


class TorchNetwork(nn.Module):
    """An X-ResNet with the large stem and fixed scalar cross weights.

    Layers are named as in `MultitaskResNet`; a branched layer is a list.
    """

    def __init__(self, network: MultitaskResNet) -> None:
        super().__init__()
        unit_class, stages = ARCHITECTURES[network.depth]
        bottleneck = unit_class is BottleneckUnit
        tasks = len(network.classes)
        branched = branched_layers(network.depth, network.branch_from)
        self.cross = network.cross_init
        self.register_buffer("mean", 255 * torch.tensor(network.mean)[:, None, None])
        self.register_buffer("std", 255 * torch.tensor(network.std)[:, None, None])
        self.stem = nn.ModuleDict(
            {"conv": nn.Conv2d(3, 64, 7, 2, 3, bias=False), "norm": nn.BatchNorm2d(64)}
        )
        self.units = nn.ModuleDict()
        inputs = 64
        for stage, names in enumerate(unit_names(stages)):
            width = 64 * 2**stage
            for name in names:
                stride = 2 if stage > 0 and name == names[0] else 1
                copies = tasks if name in branched else 1
                units = [Unit(inputs, width, stride, bottleneck) for _ in range(copies)]
                self.units[name] = nn.ModuleList(units)
                inputs = 4 * width if bottleneck else width
        self.head = nn.ModuleDict(
            {task: nn.Linear(inputs, count) for task, count in network.classes.items()}
        )

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns `{task: [B, K]}` of images, `[B, 3, H, W]` from 0 to 255."""
        x = (images.float() - self.mean) / self.std
        x = F.relu(self.stem["norm"](self.stem["conv"](x)), inplace=True)
        xs = [F.max_pool2d(x, 3, 2, 1)]
        tasks = len(self.head)
        for units in self.units.values():
            if len(units) > len(xs):
                xs = xs * len(units)
            residuals, shortcuts = zip(
                *(unit(x) for unit, x in zip(units, xs, strict=True)), strict=True
            )
            if len(units) == tasks > 1:
                shortcuts = self._mix(shortcuts)
            xs = [F.relu(r + s) for r, s in zip(residuals, shortcuts, strict=True)]
        xs = xs * tasks if len(xs) < tasks else xs
        return {
            task: head(x.mean((2, 3)))
            for (task, head), x in zip(self.head.items(), xs, strict=True)
        }

    def _mix(self, shortcuts: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        """Adds to each shortcut the others times the cross weight."""
        total = self.cross * sum(shortcuts[1:], start=shortcuts[0])
        return [torch.add(total, s, alpha=1 - self.cross) for s in shortcuts]

    def load(self, variables: Mapping[str, Any]) -> None:
        """Copies the variables of a `MultitaskResNet` that has the large stem."""
        params, stats = variables["params"], variables["batch_stats"]
        _load_layer(self.stem, params["stem"], stats["stem"])
        for name, copies in self.units.items():
            for task, unit in enumerate(copies):
                own = [params[name], stats[name]]
                if len(copies) > 1:
                    own = [_of_task(tree, task) for tree in own]
                _load_layer(unit, *own)
        for task, head in self.head.items():
            _copy(head.weight, params["head"][task]["kernel"].T)
            _copy(head.bias, params["head"][task]["bias"])


def _of_task(tree: Mapping[str, Any], task: int) -> dict[str, Any]:
    return {
        name: _of_task(leaf, task) if isinstance(leaf, Mapping) else leaf[task]
        for name, leaf in tree.items()
    }


def _load_layer(
    layer: nn.Module, params: Mapping[str, Any], stats: Mapping[str, Any]
) -> None:
    for name, module in layer.named_children():
        if isinstance(module, nn.Conv2d):
            _copy(module.weight, params[name]["kernel"].transpose(3, 2, 0, 1))
        elif isinstance(module, nn.BatchNorm2d):
            _copy(module.weight, params[name]["scale"])
            _copy(module.bias, params[name]["bias"])
            _copy(module.running_mean, stats[name]["mean"])
            _copy(module.running_var, stats[name]["var"])


def _copy(target: torch.Tensor | None, source: Any) -> None:
    assert target is not None
    with torch.no_grad():
        target.copy_(torch.from_numpy(np.array(source)))
