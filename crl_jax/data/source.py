"""Where labelled pictures come from: a manifest or a TFDS data set, as shards."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from ml_collections import ConfigDict

from crl_jax.data import builder as manifest_builder
from crl_jax.data import digits, manifest
from crl_jax.data.quiet import quiet_preparation, tfds
from crl_jax.errors import UserError


@dataclass(frozen=True)
class Source:
    """A prepared TFDS data set, and which of its features are the tasks.

    Attributes:
      builder: of the data set, its shards written.
      classes: `{task: class names}` in the order of the labels.
      image: name of the feature that holds the picture.
      labels: `{task: name of the feature that holds its label}`.
    """

    builder: tfds.core.DatasetBuilder
    classes: Mapping[str, tuple[str, ...]]
    image: str
    labels: Mapping[str, str]

    @property
    def num_classes(self) -> dict[str, int]:
        """Number of classes a task, `{task: K}`."""
        return {task: len(names) for task, names in self.classes.items()}

    def split(self, name: str) -> tfds.core.SplitInfo:
        """Returns a split.

        Args:
          name: a TFDS split string, such as `test` or `train[:90%]`.

        Raises:
          UserError: the data has no such split, or it is empty.
        """
        try:
            split = self.builder.info.splits[name]
        except (KeyError, ValueError, AssertionError) as error:
            raise UserError(
                f"The data has no split {name!r}; it has "
                f"{', '.join(self.builder.info.splits)}. A part of one is written "
                "train[:90%]; '' as config.data.val_split or test_split goes "
                "without."
            ) from error
        if not split.num_examples:
            raise UserError(f"Split {name!r} of the data is empty.")
        return split

    def check_splits(self, config: ConfigDict) -> None:
        """Raises UserError if a split that `config.data` names cannot be used."""
        data = config.data
        self.split(data.train_split)
        for name in filter(None, (data.val_split, data.test_split)):
            self.split(name)

    def size(self, split: str) -> int:
        """Returns the number of examples of a split."""
        return self.split(split).num_examples


def open_source(config: ConfigDict) -> Source:
    """Returns the data of a checked config, prepared as shards if it is not yet.

    Raises:
      UserError: the config names no data, or there is a mistake in them.
    """
    data = config.data
    if data.manifest:
        builder = manifest_builder.prepare_manifest(
            data.manifest, os.path.expanduser(data.dir) or None, data.resize
        )
        tasks = builder.builder_config.manifest.tasks
        return Source(builder, tasks, "image", {task: task for task in tasks})
    builder = _tfds_builder(config)
    try:
        with quiet_preparation():
            builder.download_and_prepare(file_format="tfrecord")
    except Exception as error:  # whatever the network or the data set's code raises
        mend = "Choose another folder with config.data.dir."
        about_a_file = getattr(error, "filename", None)  # not so if it is the network
        raise UserError(
            f"The TFDS data set {data.tfds!r} could not be prepared: "
            f"{type(error).__name__}: {error}{f'. {mend}' if about_a_file else ''}"
        ) from error
    classes = _classes(builder, dict(data.tasks))
    return Source(builder, classes, _image_feature(builder), dict(data.tasks))


def read_classes(config: ConfigDict) -> dict[str, int]:
    """Returns `{task: K}` from a checked config's data, before any shard exists."""
    if config.data.manifest:
        classes = manifest.read_manifest(config.data.manifest).tasks
    else:
        classes = _classes(_tfds_builder(config), dict(config.data.tasks))
    return {task: len(names) for task, names in classes.items()}


def _tfds_builder(config: ConfigDict) -> tfds.core.DatasetBuilder:
    data = config.data
    if not data.tfds:
        raise UserError(
            "The config names no data: set config.data.manifest=FILE.csv, or "
            "config.data.tfds=NAME with config.data.tasks.TASK=FEATURE."
        )
    folder = os.path.expanduser(data.dir) or None
    if data.tfds == digits.Digits.name:
        return digits.Digits(data_dir=folder, file_format="tfrecord")
    try:
        return tfds.builder(data.tfds, data_dir=folder, file_format="tfrecord")
    except tfds.core.registered.DatasetNotFoundError as error:
        raise UserError(
            f"config.data.tfds={data.tfds!r}: TFDS has no such data set; `python -c "
            '"import tensorflow_datasets as t; print(t.list_builders())"` lists them.'
        ) from error


def _classes(
    builder: tfds.core.DatasetBuilder, labels: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """Returns `{task: class names}` from the label features of a TFDS data set."""
    features = builder.info.features
    usable = [n for n, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    if not labels:
        raise UserError(
            "config.data.tasks is empty: name the label features that are tasks, such "
            f"as config.data.tasks.TASK={usable[0] if usable else 'FEATURE'}. "
            f"{builder.name!r} has: {', '.join(usable)}."
        )
    for task, feature in labels.items():
        if feature not in usable:
            raise UserError(
                f"config.data.tasks.{task}={feature!r} is not a class label of "
                f"{builder.name!r}; it has: {', '.join(usable)}."
            )
    return {task: tuple(features[feature].names) for task, feature in labels.items()}


def _image_feature(builder: tfds.core.DatasetBuilder) -> str:
    features = builder.info.features
    images = [n for n, f in features.items() if isinstance(f, tfds.features.Image)]
    if len(images) != 1:
        raise UserError(
            f"{builder.name!r} has {len(images)} picture features; exactly one is "
            "needed."
        )
    return images[0]
