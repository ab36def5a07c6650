"""Turns a manifest into TFRecord shards, once.

TFDS writes to a temporary folder and renames it when it is complete, so a folder under
its final name is finished. Another manifest, or an edited one, gets its own folder.
"""

import contextlib
import dataclasses
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from crl_jax.data import beam, parts, pictures, refused
from crl_jax.data.features import FEATURES
from crl_jax.data.manifest import SPLITS, Manifest, read_manifest
from crl_jax.data.quiet import quiet_preparation, tf, tfds
from crl_jax.errors import UserError
from crl_jax.kinds import Kinds
from crl_jax.terminal import console

SHARD_BYTES = 128 * 2**20
ANOTHER_FOLDER = (
    "Choose another folder with --config.data.dir, or --data_dir for a run."
)


@dataclasses.dataclass(eq=False, kw_only=True)
class ManifestConfig(tfds.core.BuilderConfig):
    """What makes one data set of `ManifestBuilder` differ from another."""

    manifest: Manifest = dataclasses.field(repr=False)
    resize: int = 0
    max_undecodable: float = 0.05


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

    `image` holds the bytes that `pictures.encode` returns, `file` the path in the
    manifest, and a label is what `columns.stored` returns. Pictures that cannot be
    decoded are left out and listed in `refused.csv` beside the shards.
    """

    name = "manifest"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        kinds = self.builder_config.manifest.kinds
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "file": tfds.features.Text(),
                }
                | {task: FEATURES[kind.name].make(kind) for task, kind in kinds.items()}
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        manifest = self.builder_config.manifest
        present = [split for split in SPLITS if split in manifest.splits]
        return {split: self._generate_examples(split) for split in present}

    def _generate_examples(self, split: str) -> Any:
        config = self.builder_config
        rows = [row for row, of in enumerate(config.manifest.splits) if of == split]
        arguments = config.manifest, split, rows, config.resize, self._parts
        if self._on_beam:
            return beam.examples(*arguments)
        return _Examples(*arguments, self.refused, config.max_undecodable)

    @property
    def root(self) -> str:
        """Folder of all data sets."""
        return str(self._data_dir_root)

    @property
    def _parts(self) -> Path:
        """Folder for what an interrupted preparation has done."""
        return Path(self.root) / self.name / "parts" / self.builder_config.name

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        self.refused: dict[int, str] = {}
        self._on_beam = download_config.beam_options is not None
        manifest = self.builder_config.manifest
        try:
            self._write_shards(dl_manager, download_config)
            self._check_refused()
        except UserError as error:
            # The user is going to mend these very files.
            self.forget_parts()
            listed = refused.write_so_far(self._refused_so_far, manifest, self.refused)
            raise UserError(f"{error}{listed}") from error
        with contextlib.suppress(OSError):
            self._refused_so_far.unlink()
        if self.refused:
            # `data_dir` is still the temporary folder.
            refused.write(Path(self.data_dir) / "refused.csv", manifest, self.refused)

    def _write_shards(self, dl_manager: Any, download_config: Any) -> None:
        if not self._on_beam:
            super()._download_and_prepare(dl_manager, download_config)
            return
        try:
            super()._download_and_prepare(dl_manager, download_config)
        except Exception:
            # A split without any picture, for one, makes the pipeline fail.
            self.refused = beam.refused(self._parts)
            self._check_refused()
            raise
        self.refused = beam.refused(self._parts)

    def _check_refused(self) -> None:
        config = self.builder_config
        refused.check(config.manifest, self.refused, config.max_undecodable)

    @property
    def _refused_so_far(self) -> Path:
        """List of what a preparation refused that came to nothing."""
        stem = self.builder_config.manifest.path.stem
        return Path(self.root) / self.name / f"refused-{stem}.csv"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Deletes what killed processes left behind, if no other process is at work.

        Their parts stay: what is deleted is what TFDS would begin anew.
        """
        self._parts.mkdir(parents=True, exist_ok=True)
        with (self._parts / "lock").open("w") as file:
            # Some network file systems cannot lock a file.
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for left in Path(self.data_dir).parent.glob("incomplete.*"):
                    shutil.rmtree(left)
                for left in self._parts.glob("*.partial"):
                    left.unlink()
            yield

    def forget_parts(self) -> None:
        """Deletes what only an interrupted preparation would need."""
        shutil.rmtree(self._parts, ignore_errors=True)


class _Examples:
    """The examples of a split; their number gives TFDS's progress bar an end."""

    def __init__(
        self,
        manifest: Manifest,
        split: str,
        rows: list[int],
        resize: int,
        folder: Path,
        refused: dict[int, str],
        max_refused: float,
    ):
        self._manifest = manifest
        self._split = split
        self._rows = rows
        self._resize = resize
        self._folder = folder
        self._refused = refused
        self._max_refused = max_refused

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields keys and examples in the manifest's order, and notes what is refused.

        Raises:
          UserError: too many pictures are refused, or all pictures of the split.
        """
        for row, image in zip(self._rows, self._images(), strict=True):
            if isinstance(image, pictures.BadPicture):
                self._refused[row] = str(image)
                refused.check_share(self._manifest, self._refused, self._max_refused)
                continue
            example = self._manifest.example(row)
            yield example["file"], example | {"image": image}
        refused.check_split(self._manifest, self._refused, self._split)

    def _images(self) -> Iterator[bytes | pictures.BadPicture]:
        self._folder.mkdir(parents=True, exist_ok=True)
        for name, which in parts.spans(len(self._rows)):
            part = self._folder / f"{self._split}-{name}.tfrecord"
            files = [self._manifest.files[row] for row in self._rows[which]]
            paths = [self._manifest.root / file for file in files]
            yield from parts.encoded(part, paths, self._resize)


def find_shards(
    path: str | os.PathLike[str],
    data_dir: str | None = None,
    resize: int = 0,
    tasks: Mapping[str, ConfigDict] | None = None,
    trained: Kinds | None = None,
    max_undecodable: float = ManifestConfig.max_undecodable,
    ignore: str = "",
) -> ManifestBuilder:
    """Returns the data set of a manifest, whether its shards are written or not.

    The manifest is the result's `builder_config.manifest`.

    Args:
      path: of the CSV.
      data_dir: where TFDS keeps data sets; None means its default folder.
      resize: see `pictures.encode`.
      tasks: see `read_manifest`.
      trained: see `read_manifest`.
      max_undecodable: share of the pictures that may be refused.
      ignore: see `read_manifest`.

    Raises:
      UserError: a mistake in the manifest.
    """
    manifest = read_manifest(path, tasks, trained, ignore)
    stem = re.sub(r"[^A-Za-z0-9]+", "_", manifest.path.stem)[:50]
    name = f"{stem}-{manifest.fingerprint}" + (f"-{resize}px" if resize else "")
    config = ManifestConfig(
        name=name, manifest=manifest, resize=resize, max_undecodable=max_undecodable
    )
    with quiet_preparation():
        # Other machines may write the shards, and have different current folders.
        folder = os.path.abspath(data_dir) if data_dir else None
        return ManifestBuilder(config=config, data_dir=folder)


def write_shards(builder: ManifestBuilder, beam_options: Any = None) -> ManifestBuilder:
    """Returns the same data set with its shards, written now if they were missing.

    Args:
      builder: from `find_shards`.
      beam_options: options of Apache Beam, to write the shards on other machines.

    Raises:
      UserError: too many pictures that cannot be used, or a folder that cannot be
        written.
    """
    if os.path.exists(builder.data_dir):
        if not builder.is_prepared():
            raise UserError(f"{builder.data_dir} is damaged. Delete this folder.")
        return _opened_again(builder)  # another process may have just written them
    with quiet_preparation():
        try:
            _write(builder, beam_options)
        except Exception as error:
            finished = _opened_again(builder)
            if finished.is_prepared():  # by another process, which was faster
                return finished
            if isinstance(error, (OSError, tf.errors.OpError)):
                raise UserError(
                    f"The shards cannot be written to {finished.data_dir}: {error}. "
                    f"{ANOTHER_FOLDER}"
                ) from error
            if beam_options and not isinstance(error, UserError):
                # Whatever the runner raises; the parts that are done stay.
                message = f"Apache Beam: {type(error).__name__}: {error}"
                raise UserError(message) from error
            raise
    return builder


def _opened_again(builder: ManifestBuilder) -> ManifestBuilder:
    """Returns the same data set as it is on disk now."""
    with quiet_preparation():
        return ManifestBuilder(config=builder.builder_config, data_dir=builder.root)


def _write(builder: ManifestBuilder, beam_options: Any) -> None:
    manifest = builder.builder_config.manifest
    count = len(manifest.files)
    console.print(
        f"Writing the {count:,} pictures of {manifest.path} as shards ...",
        soft_wrap=True,
    )
    start = time.monotonic()
    with builder.lock():
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                try_download_gcs=False,
                max_shard_size=SHARD_BYTES,
                beam_options=beam_options,
            )
        )
        builder.forget_parts()
    sizes = [f"{name} {s.num_examples:,}" for name, s in builder.info.splits.items()]
    console.print(
        f"Wrote the shards to {builder.data_dir} in {time.monotonic() - start:.0f} s: "
        f"{', '.join(sizes)}.",
        soft_wrap=True,
    )
    if builder.refused:
        console.print(
            f"{len(builder.refused):,} of {count:,} pictures were refused: see "
            f"{builder.data_dir}/refused.csv; once they are mended, delete "
            f"{builder.data_dir}",
            soft_wrap=True,
        )
