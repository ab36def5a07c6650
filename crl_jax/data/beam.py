"""Examples of a manifest, made by Apache Beam on as many machines as its runner has.

All machines must see the pictures, and the folder of the shards, under the same paths.
A worker gets the name of a part (see `parts`); a JSON file beside the part says which
pictures it holds, since a pipeline is no place for half a million paths.
"""

import json
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from crl_jax.data import parts, pictures
from crl_jax.data.manifest import Manifest
from crl_jax.errors import UserError


def pipeline_options(arguments: str) -> Any:
    """Returns Beam's `PipelineOptions`.

    Args:
      arguments: as Beam documents them, such as
        `--runner=FlinkRunner --flink_master=HOST:8081`.

    Raises:
      UserError: Beam is not installed, or no runner is named.
    """
    try:
        from apache_beam.options.pipeline_options import (
            PipelineOptions,
            StandardOptions,
        )
    except ImportError as error:
        raise UserError(
            "Apache Beam is not installed. In an environment of its own: "
            'pip install ".[beam]".'
        ) from error
    try:
        options = PipelineOptions(shlex.split(arguments))
    except ValueError as error:
        raise UserError(f"--beam={arguments!r}: {error}.") from error
    if options.view_as(StandardOptions).runner is None:
        raise UserError(
            f"--beam={arguments!r} names no runner: begin with --runner=FlinkRunner, "
            "SparkRunner, DataflowRunner or DirectRunner (this machine)."
        )
    return options


def examples(
    manifest: Manifest, split: str, rows: Sequence[int], resize: int, folder: Path
) -> Any:
    """Returns a `beam.PTransform` that yields `(key, example)`.

    Args:
      manifest: of the pictures.
      split: name of the split.
      rows: the split's rows in the manifest.
      resize: see `pictures.encode`.
      folder: for the parts.
    """
    import apache_beam as beam

    folder.mkdir(parents=True, exist_ok=True)
    root = os.path.abspath(manifest.root)
    jobs = []
    for name, which in parts.spans(len(rows)):
        job = {
            "root": root,
            "resize": resize,
            "rows": rows[which],
            "examples": [manifest.example(row) for row in rows[which]],
        }
        path = os.path.abspath(folder / f"{split}-{name}.json")
        Path(path).write_text(json.dumps(job), "utf-8")
        jobs.append(path)
    # Without the reshuffle one worker would do all jobs.
    return beam.Create(jobs) | beam.Reshuffle() | beam.FlatMap(_examples_of)


def _examples_of(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the examples of a job, and leaves a list of what is refused."""
    job = json.loads(Path(path).read_text("utf-8"))
    part = Path(path).with_suffix(".tfrecord")
    files = [Path(job["root"], example["file"]) for example in job["examples"]]
    images = parts.encoded(part, files, job["resize"])
    bad = {}
    for row, example, image in zip(job["rows"], job["examples"], images, strict=True):
        if isinstance(image, pictures.BadPicture):
            bad[row] = str(image)
        else:
            yield example["file"], example | {"image": image}
    Path(path).with_suffix(".refused").write_text(json.dumps(bad), "utf-8")


def refused(folder: Path) -> dict[int, str]:
    """Returns what the workers refused, `{row of the manifest: reason}`."""
    found: dict[int, str] = {}
    for path in sorted(folder.glob("*.refused")):
        content = json.loads(path.read_text("utf-8"))
        found |= {int(row): reason for row, reason in content.items()}
    return found
