"""Labelled pictures, from CSV files and TFDS data sets to batches."""

from typing import Any

# {"image": [B, H, W, 3] uint8, "labels": {task: [B] int32}}, -1 where a label is
# missing; batches for evaluation also have "file", [B] bytes.
Batch = dict[str, Any]
