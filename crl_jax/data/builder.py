"""Turns a manifest into TFRecord shards, once.

TFDS writes to a temporary folder and renames it when it is whole, so what is there is
finished. Another manifest, or an edited one, gets a folder of its own.
"""

import csv
import dataclasses
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from crl_jax.data import parts, pictures
from crl_jax.data.manifest import SPLITS, Manifest, first_few, read_manifest
from crl_jax.data.quiet import quiet_preparation, tfds
from crl_jax.errors import UserError

MAX_REFUSED = 0.05  # share of the pictures

SHARD_BYTES = 128 * 2**20


@dataclasses.dataclass(eq=False, kw_only=True)
class ManifestConfig(tfds.core.BuilderConfig):
    """What makes one data set of `ManifestBuilder` differ from another."""

    manifest: Manifest = dataclasses.field(repr=False)
    resize: int = 0


class LocalBuilder(
    tfds.core.GeneratorBasedBuilder,
    skip_registration=True,  # type: ignore[call-arg]
):
    """A builder that downloads nothing, so that TFDS has no sizes to print."""

    def _log_download_bytes(self) -> None:
        pass

    def _log_download_done(self) -> None:
        pass


class ManifestBuilder(LocalBuilder, skip_registration=True):  # type: ignore[call-arg]
    """The pictures of a manifest as examples `{image, file, <task>: label, ...}`.

    `image` holds the bytes of `pictures.encode`, `file` the path in the manifest; a
    label is int64, -1 where it is missing. Pictures that cannot be decoded are left
    out and listed in `refused.csv` beside the shards.
    """

    name = "manifest"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        tasks = self.builder_config.manifest.tasks
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "file": tfds.features.Text(),
                }
                | {t: tfds.features.ClassLabel(names=n) for t, n in tasks.items()}
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, "_Examples"]:
        manifest = self.builder_config.manifest
        present = [split for split in SPLITS if split in manifest.splits]
        return {split: self._generate_examples(split) for split in present}

    def _generate_examples(self, split: str) -> "_Examples":
        return _Examples(self.builder_config, split, self._parts, self.refused)

    @property
    def root(self) -> str:
        """Folder of all data sets."""
        return str(self._data_dir_root)

    @property
    def _parts(self) -> Path:
        """Folder for what an interrupted preparation has done."""
        return Path(self.root) / self.name / "parts" / self.builder_config.name

    def _download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        self.refused: list[tuple[str, str]] = []
        super()._download_and_prepare(*args, **kwargs)
        if self.refused:
            # `data_dir` is still the temporary folder.
            path = Path(self.data_dir) / "refused.csv"
            with path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([("file", "reason"), *self.refused])

    def forget_parts(self) -> None:
        """Deletes what only an interrupted preparation would need."""
        shutil.rmtree(self._parts, ignore_errors=True)


class _Examples:
    """The examples of a split; its length gives TFDS's progress bar an end."""

    def __init__(
        self,
        config: ManifestConfig,
        split: str,
        folder: Path,
        refused: list[tuple[str, str]],
    ):
        self._manifest = config.manifest
        self._resize = config.resize
        self._split = split
        self._folder = folder
        self._rows = [i for i, s in enumerate(config.manifest.splits) if s == split]
        self._refused = refused

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields key and example in the manifest's order, and notes what is refused.

        Raises:
          UserError: too many pictures are refused, or all of the split.
        """
        manifest, accepted = self._manifest, 0
        paths = [manifest.root / manifest.files[row] for row in self._rows]
        images = parts.encoded(paths, self._resize, self._folder, self._split)
        for row, image in zip(self._rows, images, strict=True):
            file = manifest.files[row]
            if isinstance(image, pictures.BadPicture):
                self._refused.append((file, str(image)))
                if len(self._refused) > MAX_REFUSED * len(manifest.files):
                    self._fail(f"more than {MAX_REFUSED:.0%} of the pictures")
                continue
            accepted += 1
            labels = {task: int(of[row]) for task, of in manifest.labels.items()}
            yield file, {"image": image, "file": file} | labels
        if not accepted:
            self._fail(f"all pictures of {self._split}")

    def _fail(self, which: str) -> NoReturn:
        # The user is going to mend these very files.
        shutil.rmtree(self._folder, ignore_errors=True)
        found = first_few(self._refused, " ".join)
        raise UserError(
            f"{self._manifest.path}: {which} cannot be used: {found}. Mend these files "
            "or delete their rows."
        )


def find_shards(
    path: str | os.PathLike[str], data_dir: str | None = None, resize: int = 0
) -> ManifestBuilder:
    """Returns the data set of a manifest, whether its shards are written or not.

    The manifest is `builder_config.manifest` of what is returned.

    Args:
      path: of the CSV.
      data_dir: where TFDS keeps data sets; None means its default folder.
      resize: see `pictures.encode`.

    Raises:
      UserError: a mistake in the manifest.
    """
    manifest = read_manifest(path)
    stem = re.sub(r"[^A-Za-z0-9]+", "_", manifest.path.stem)[:50]
    name = f"{stem}-{manifest.fingerprint}" + (f"-{resize}px" if resize else "")
    config = ManifestConfig(name=name, manifest=manifest, resize=resize)
    with quiet_preparation():
        return ManifestBuilder(config=config, data_dir=data_dir)


def write_shards(builder: ManifestBuilder) -> ManifestBuilder:
    """Returns the same data set with its shards, written now if they were not there.

    Raises:
      UserError: too many pictures that cannot be used, or a folder that cannot be
        written.
    """
    if os.path.exists(builder.data_dir):
        if not builder.is_prepared():
            raise UserError(f"{builder.data_dir} is damaged. Delete this folder.")
        return builder
    with quiet_preparation():
        try:
            _write(builder)
        except Exception as error:
            finished = ManifestBuilder(
                config=builder.builder_config, data_dir=builder.root
            )
            if finished.is_prepared():  # by another process, which was faster
                return finished
            if isinstance(error, OSError):
                raise UserError(
                    f"The shards cannot be written to {finished.data_dir}: {error}. "
                    "Choose another folder with config.data.dir."
                ) from error
            raise
    return builder


def _write(builder: ManifestBuilder) -> None:
    manifest = builder.builder_config.manifest
    count = len(manifest.files)
    print(
        f"Writing the {count:,} pictures of {manifest.path} as shards ...", flush=True
    )
    start = time.monotonic()
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(
            try_download_gcs=False, max_shard_size=SHARD_BYTES
        )
    )
    builder.forget_parts()
    sizes = [f"{name} {s.num_examples:,}" for name, s in builder.info.splits.items()]
    print(
        f"Shards are in {builder.data_dir} after {time.monotonic() - start:.0f} s: "
        f"{', '.join(sizes)}."
    )
    if builder.refused:
        print(
            f"{len(builder.refused):,} of {count:,} pictures were refused: see "
            f"{builder.data_dir}/refused.csv"
        )
