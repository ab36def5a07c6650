"""Labelled pictures, from CSV files and TFDS data sets to batches."""

from typing import Any

# {"image": [B, H, W, 3] uint8, "labels": {task: [B] or [B, K]}, "file": [B] bytes}.
# The kind of a task says what its labels are and which are missing: labels of a
# categorical task are int32, -1 if missing. File names stay on the host.
Batch = dict[str, Any]
