"""Where labelled pictures come from: a manifest or a TFDS data set, as shards."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from crl_jax.config import default_task
from crl_jax.data import builder as manifest_builder
from crl_jax.data import digits, doubts, splits
from crl_jax.data.features import FEATURES
from crl_jax.data.manifest import Manifest
from crl_jax.data.quiet import quiet_preparation, tfds
from crl_jax.errors import UserError
from crl_jax.kinds import (
    Categorical,
    Kind,
    Kinds,
    Regression,
    class_names,
    class_of,
    widths,
)


@dataclass(frozen=True)
class Source:
    """A TFDS data set, and which of its features are the tasks.

    Attributes:
      builder: of the data set.
      kinds: of each task, with its class names in the order of the labels.
      image: name of the feature that holds the picture.
      labels: `{task: name of the feature that holds its label}`.
      file: name of the feature that holds a picture's name; None: its number is its
        name.
      identity: a name that changes if the pictures, labels or sizes do.
      manifest: the list that it is made from, if there is one.
    """

    builder: tfds.core.DatasetBuilder
    kinds: Kinds
    image: str
    labels: Mapping[str, str]
    file: str | None
    identity: str
    manifest: Manifest | None = None

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """`{task: class names}`, which are empty for a regression."""
        return class_names(self.kinds)

    @property
    def widths(self) -> dict[str, int]:
        """Number of outputs per task, `{task: K}`."""
        return widths(self.kinds)

    @property
    def splits(self) -> splits.Splits:
        """Which splits there are; before preparation only a manifest can tell."""
        known = self.builder.info.splits
        if known or self.manifest is None:
            return known
        return {
            split: tfds.core.SplitInfo(name=split, shard_lengths=[count], num_bytes=0)
            for split, count in self.manifest.counts.items()
        }

    def prepared(self, beam_options: Any = None) -> "Source":
        """Returns the same data, with its shards, written now if they were missing.

        Args:
          beam_options: see `builder.write_shards`; only for a manifest.

        Raises:
          UserError: a mistake in the data, or a folder that cannot be written.
        """
        if self.manifest is not None:
            shards = manifest_builder.write_shards(self.builder, beam_options)
            return dataclasses.replace(self, builder=shards)
        try:
            with quiet_preparation():
                self.builder.download_and_prepare(file_format="tfrecord")
        except Exception as error:  # whatever the network or the data set's code raises
            about_a_file = getattr(
                error, "filename", None
            )  # not so if the network failed
            mend = f" {manifest_builder.ANOTHER_FOLDER}" if about_a_file else ""
            raise UserError(
                f"The TFDS data set {self.builder.name!r} could not be prepared in "
                f"{self.builder.data_dir}: {_one_line(error)}.{mend}"
            ) from error
        if self.builder.info.splits:
            return self
        # Another process wrote them after this one had looked.
        shards = tfds.builder_from_directory(str(self.builder.data_dir))
        return dataclasses.replace(self, builder=shards)

    def split(self, name: str) -> tfds.core.SplitInfo:
        """Returns a split of prepared data.

        Args:
          name: a TFDS split string, such as `test` or `train[:90%]`.

        Raises:
          UserError: the data has no such split, or it is empty.
        """
        self.check_split(name)
        return self.builder.info.splits[name]

    def check_split(self, name: str, otherwise: str = "") -> None:
        """Raises UserError if there is no such split, or no example in it.

        Nothing is checked as long as the splits are not known.

        Args:
          name: as for `split`.
          otherwise: see `splits.check`.
        """
        if self.splits:
            splits.check(name, self.splits, otherwise)

    def overlap(self, config: ConfigDict) -> str:
        """Returns a warning if val or test of prepared data has pictures of train."""
        return splits.overlap(config, self.builder.info.splits)

    def share(self, a: str, b: str) -> bool:
        """Returns whether two splits are known to have a picture in common."""
        return bool(self.splits) and splits.share(a, b, self.splits)

    def doubts(self) -> list[str]:
        """Returns a line for what a list may not have meant as it is read."""
        if self.manifest is None:
            return []
        return doubts.about_labels(self.kinds, self.manifest.labels)

    def check(self, config: ConfigDict) -> None:
        """Raises UserError if the data does not allow what `config` asks of it."""
        data = config.data
        self.check_split(data.train_split)
        for field in ("val_split", "test_split"):
            if data[field]:
                self.check_split(
                    data[field],
                    " The rest of that is config.data.train_split=train[:90%]; set "
                    f"config.data.{field} to '' to go without one.",
                )
        manifest, best_by = self.manifest, config.train.best_by
        if manifest is None or best_by not in manifest.tasks:
            return
        # Only the shards know which examples a part of a split has.
        whole = data.val_split in manifest.counts
        if whole and not manifest.labelled(data.val_split, best_by):
            raise UserError(
                f"config.train.best_by={best_by}: {manifest.path} has no label of "
                f"{best_by} in {data.val_split} to choose the best checkpoint by. "
                "Label some pictures, or choose by another task or by mean."
            )

    def size(self, split: str) -> int:
        """Returns the number of examples of a split."""
        return self.split(split).num_examples


def find_source(config: ConfigDict, trained: Kinds | None = None) -> Source:
    """Returns the data of a checked config; nothing is written or downloaded yet.

    Args:
      config: names the data.
      trained: kinds of a network that is evaluated on a manifest; see `read_manifest`.

    Raises:
      UserError: the config names no data, or there is a mistake in what it names.
    """
    data = config.data
    if data.manifest:
        builder = manifest_builder.find_shards(
            data.manifest,
            data.dir or None,
            data.resize,
            config.tasks,
            trained,
            data.max_undecodable,
            data.ignore,
        )
        manifest = builder.builder_config.manifest
        size = f", at most {data.resize} px" if data.resize else ""
        return Source(
            builder,
            kinds=manifest.kinds,
            image="image",
            labels={task: task for task in manifest.kinds},
            file="file",
            identity=f"manifest {manifest.fingerprint}{size}",
            manifest=manifest,
        )
    builder = _tfds_builder(config)
    return Source(
        builder,
        kinds=_kinds(builder, config),
        image=_image_feature(builder),
        labels=dict(data.tasks),
        file=_file_feature(builder),
        identity=builder.info.full_name,
    )


def open_source(config: ConfigDict) -> Source:
    """Returns the data of a checked config, with its shards written.

    Raises:
      UserError: as `find_source` and `Source.prepared` say.
    """
    return find_source(config).prepared()


def _tfds_builder(config: ConfigDict) -> tfds.core.DatasetBuilder:
    data = config.data
    if not data.tfds:
        raise UserError(
            "The config does not say which data to use: set "
            "config.data.manifest=FILE.csv, or config.data.tfds=NAME with "
            "config.data.tasks.TASK=FEATURE."
        )
    folder = data.dir or None
    if data.tfds == digits.Digits.name:
        return digits.Digits(data_dir=folder, file_format="tfrecord")
    try:
        return tfds.builder(data.tfds, data_dir=folder, file_format="tfrecord")
    except tfds.core.registered.DatasetNotFoundError as error:
        raise UserError(
            f"config.data.tfds={data.tfds!r}: TFDS has no such data set; `python -c "
            '"import tensorflow_datasets as t; print(t.list_builders())"` lists them.'
        ) from error
    except Exception as error:  # such as: no such version, shards of another format
        raise UserError(
            f"config.data.tfds={data.tfds!r} cannot be opened: {_one_line(error)}"
        ) from error


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _kinds(builder: tfds.core.DatasetBuilder, config: ConfigDict) -> dict[str, Kind]:
    """Returns the kinds of the tasks, from the label features of a TFDS data set."""
    features, labels = builder.info.features, dict(config.data.tasks)
    if not labels:
        usable = _label_features(features, Categorical)
        raise UserError(
            "config.data.tasks is empty: name the label features that are tasks, such "
            f"as config.data.tasks.TASK={next(iter(usable), 'FEATURE')}. "
            f"{builder.name!r} has: {', '.join(usable)}."
        )
    found: dict[str, Kind] = {}
    for task, feature in labels.items():
        kind = class_of(config, task)
        if kind is Regression:
            raise UserError(
                f"config.tasks.{task}.kind=regression needs a manifest, whose column "
                f"{task!r} holds numbers: TFDS data sets have only tasks of classes."
            )
        usable = _label_features(features, kind)
        if feature not in usable:
            what = "a class label" if kind is Categorical else "a list of class labels"
            raise UserError(
                f"config.data.tasks.{task}={feature!r} is not {what} of "
                f"{builder.name!r}; it has: {', '.join(usable)}."
            )
        settings = config.tasks.get(task, default_task())
        found[task] = kind.of(settings, usable[feature])
    return found


def _label_features(features: Any, kind: type[Kind]) -> dict[str, tuple[str, ...]]:
    """Returns the class names of each feature that can be a task of this kind."""
    names = {name: FEATURES[kind.name].names(f) for name, f in features.items()}
    return {name: of for name, of in names.items() if of is not None}


def _file_feature(builder: tfds.core.DatasetBuilder) -> str | None:
    features = dict(builder.info.features.items())
    return "file" if isinstance(features.get("file"), tfds.features.Text) else None


def _image_feature(builder: tfds.core.DatasetBuilder) -> str:
    features = builder.info.features
    images = [n for n, f in features.items() if isinstance(f, tfds.features.Image)]
    if len(images) != 1:
        raise UserError(
            f"{builder.name!r} has {len(images)} picture features; exactly one is "
            "needed."
        )
    return images[0]
