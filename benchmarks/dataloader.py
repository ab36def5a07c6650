"""The speed of PyTorch's DataLoader with Pillow, for `benchmarks.input`.

  python benchmarks/dataloader.py FOLDER SIZE BATCH SECONDS WORKERS

prints images/s and CPU milliseconds per image. It is a process of its own, because its
workers begin by importing the main module.
"""

import math
import random
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image


class Pictures(torch.utils.data.Dataset):
    """Random resized crops and flips of JPEGs, as torchvision makes them."""

    def __init__(self, folder: str, size: int) -> None:
        self._paths = sorted(Path(folder).glob("*.jpg"))
        self._size = size

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> torch.Tensor:
        with Image.open(self._paths[number]) as file:
            image = file.convert("RGB").crop(random_window(*file.size))
        image = image.resize((self._size, self._size), Image.Resampling.BILINEAR)
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(image))


def random_window(width: int, height: int) -> tuple[int, int, int, int]:
    """Returns (left, top, right, bottom) as torchvision's `RandomResizedCrop` does."""
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1.0)
        aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return left, top, left + w, top + h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def main(folder: str, size: int, batch: int, seconds: float, workers: int) -> None:
    """Prints the speed after the workers have started."""
    pictures = Pictures(folder, size)
    loader = torch.utils.data.DataLoader(
        pictures,
        batch,
        sampler=torch.utils.data.RandomSampler(pictures, num_samples=10**9),
        num_workers=workers,
        drop_last=True,
    )
    batches = iter(loader)
    for _ in range(2 * workers):  # what each worker has ready
        next(batches)
    family = [psutil.Process(), *psutil.Process().children()]
    cpu, start, count = cpu_seconds(family), time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        count += len(next(batches))
    wall = time.perf_counter() - start
    print(count / wall, 1e3 * (cpu_seconds(family) - cpu) / count)


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """Returns the CPU time that processes have taken."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


if __name__ == "__main__":
    folder, size, batch, seconds, workers = sys.argv[1:]
    main(folder, int(size), int(batch), float(seconds), int(workers))
