"""Labelled pictures, from CSV files and TFDS data sets to batches."""

from typing import Any

# {"image": [B, H, W, 3] uint8, "labels": {task: [B] int32}, "file": [B] bytes}; a label
# of -1 is missing. Names of files stay on the host.
Batch = dict[str, Any]
