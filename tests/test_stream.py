"""The stream: a pure function of (seed, step), each example once an epoch."""

import gc
import itertools
import os
import re
import resource
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from crl_jax import config as config_lib
from crl_jax import config_check
from crl_jax.data import labels, records, source, stream
from crl_jax.data.quiet import tf
from crl_jax.data.records import Records
from crl_jax.errors import UserError


@pytest.fixture
def plain(small_config):
    """No augmentation, so that a picture's red value tells which one it is."""
    small_config.data.augment = "none"
    small_config.data.flip = False
    return small_config


def open_data(config):
    config = config_check.check(config)
    return source.open_source(config), config


def take(config, steps, first_step=0):
    data, config = open_data(config)
    return list(itertools.islice(stream.train_batches(data, config, first_step), steps))


def numbers(batch):
    return (batch["image"][:, 0, 0, 0] / 8).round().astype(int).tolist()


def by_number(batches):
    """Returns `{number of a picture: the crop of it that was given last}`."""
    crops = {}
    for batch in batches:
        crops |= zip(numbers(batch), batch["image"], strict=True)
    return crops


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("augment", ["random_resized_crop", "pad_and_crop", "none"])
def test_batches_have_the_promised_shapes(small_config, augment):
    small_config.data.augment = augment
    (batch,) = take(small_config, 1)
    assert batch["image"].shape == (8, 16, 16, 3)
    assert batch["image"].dtype == np.uint8
    for of_task in batch["labels"].values():
        assert of_task.shape == (8,)
        assert of_task.dtype == np.int32


@pytest.mark.parametrize("tfds", ["", "digits"])
def test_shards_that_another_process_writes_are_found(small_config, tmp_path, tfds):
    """It may do so after this process has looked, and before it reads."""
    small_config.data.dir = str(tmp_path)
    if tfds:
        small_config.data.tfds, small_config.data.manifest = tfds, ""
        small_config.data.tasks.noun = "noun"
    config = config_check.check(small_config)
    early, other = source.find_source(config), source.find_source(config)
    expected = other.prepared().size("train")
    assert early.prepared().size("train") == expected > 0


def test_resuming_at_a_step_gives_the_same_bits(small_config):
    whole = take(small_config, 7)
    resumed = take(small_config, 3, first_step=4)
    assert_same(whole[4:], resumed)


def test_another_seed_gives_another_order_and_other_crops(small_config):
    a = take(small_config, 2)
    small_config.train.seed = 1
    b = take(small_config, 2)
    assert numbers(a[0]) != numbers(b[0])
    a, b = by_number(a), by_number(b)
    same = [n for n in range(14) if np.array_equal(a[n], b[n])]
    assert len(same) < 2


def test_each_epoch_holds_each_example_once(plain):
    """14 training pictures in batches of 8: an epoch ends within a batch."""
    seen = [n for batch in take(plain, 7) for n in numbers(batch)]
    epochs = [seen[i : i + 14] for i in range(0, 56, 14)]
    assert all(sorted(epoch) == list(range(14)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert epochs[0] != sorted(epochs[0])


@pytest.mark.parametrize("kind", ["balanced", "square_root"])
def test_sampling_by_class_against_expected_frequencies(plain, kind):
    """Numbers n0 to n6 have two training pictures each, but n1 has one."""
    plain.data.sampling, plain.data.sampling_task = kind, "number"
    plain.data.batch_size = 64
    batches = take(plain, 60)
    labels = np.concatenate([batch["labels"]["number"] for batch in batches])
    sizes = np.array([2, 1, 2, 2, 2, 2, 2])
    weights = sizes ** {"balanced": 0.0, "square_root": 0.5}[kind]
    found = np.bincount(labels[labels >= 0], minlength=7) / (labels >= 0).sum()
    # Four standard deviations of a share of 1/7 over 3,840 draws are 0.023.
    np.testing.assert_allclose(found, weights / weights.sum(), atol=0.023)
    np.testing.assert_allclose((labels < 0).mean(), 1 / 14, atol=0.018)
    assert_same(batches[57:], take(plain, 3, first_step=57))


def test_labels_are_read_from_the_shards_once(plain, monkeypatch):
    data, _ = open_data(plain)
    first = labels.read_labels(data, "train[1:9]")
    (kept,) = Path(data.builder.data_dir).glob("labels-train%5B1*.npz")
    with monkeypatch.context() as patch:
        patch.setattr(labels, "Records", None)  # the shards cannot be read
        assert_same(labels.read_labels(data, "train[1:9]"), first)
    kept.write_bytes(kept.read_bytes()[:-30])
    assert_same(labels.read_labels(data, "train[1:9]"), first)


def test_sampling_needs_a_task_of_the_data(plain):
    plain.data.sampling = "balanced"
    with pytest.raises(UserError, match=r"balanced and square_root need a task"):
        config_check.check(plain)
    plain.data.sampling_task = "colour"
    with pytest.raises(UserError, match=r"sampling_task is 'colour'; it can be: hue"):
        config_check.with_tasks(config_check.check(plain), {"hue": 2, "number": 7})


def test_labels_belong_to_their_pictures(plain):
    data, _ = open_data(plain)
    for batch in take(plain, 4):
        for i, n in enumerate(numbers(batch)):
            hue = data.classes["hue"][batch["labels"]["hue"][i]]
            assert hue == ("dark" if n % 2 else "light")
            label = batch["labels"]["number"][i]
            assert label == (-1 if n == 1 else n % 7)


def test_evaluation_counts_each_example_once_and_pads_the_rest(plain):
    data, config = open_data(plain)
    (batch,) = stream.eval_batches(data, config, "test")
    assert batch["file"].tolist() == [
        *(f"{i:02}.png".encode() for i in real_numbers(batch)),
        b"",
    ]
    assert sorted(real_numbers(batch)) == list(range(19, 26))
    assert batch["labels"]["hue"][7] == -1
    assert (batch["labels"]["hue"][:7] >= 0).all()


def test_an_evaluation_traces_its_graph_once(plain, monkeypatch):
    data, config = open_data(plain)
    batches = stream.eval_batches(data, config, "val")
    first = list(batches)
    with monkeypatch.context() as patch:
        patch.setattr(stream, "_parse", None)  # no graph can be made
        again = list(batches)
    assert_same(first, again)


def real_numbers(batch):
    return numbers(batch)[:7]


def test_processes_share_a_batch(small_config, monkeypatch):
    whole = take(small_config, 3)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    parts = []
    for index in range(2):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        parts.append(take(small_config, 3))
    joined = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    assert_same(whole, joined)


@pytest.fixture
def photo(shared_data):
    """A real photograph."""
    return sorted((shared_data / "grocery_store/images/train").iterdir())[5]


@pytest.fixture
def photo_config(photo, tmp_path):
    """Two copies of the photograph, for training."""
    rows = ["file,split,kind", "a.jpg,train,x", "b.jpg,train,y"]
    (tmp_path / "m.csv").write_text("\n".join(rows))
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(photo.read_bytes())
    config = config_lib.default()
    config.data.manifest = str(tmp_path / "m.csv")
    config.data.dir = str(tmp_path / "shards")
    config.data.image_size = 48
    config.data.batch_size = 2
    return config


def test_augmentations_differ_from_epoch_to_epoch(photo_config):
    batches = take(photo_config, 3)
    pictures = [image.tobytes() for batch in batches for image in batch["image"]]
    assert len(set(pictures)) == 6


def test_evaluation_pictures_against_pillow(photo, photo_config):
    """The centre crop, resized, of a real photograph."""
    data, config = open_data(photo_config)
    (batch,) = stream.eval_batches(data, config, "train")
    with Image.open(photo) as image:
        side = round(0.875 * min(image.size))
        left, top = ((s - side) // 2 for s in image.size)
        crop = image.crop((left, top, left + side, top + side))
        expected = np.asarray(crop.resize((48, 48), Image.Resampling.BILINEAR))
    difference = np.abs(batch["image"][0].astype(int) - expected)
    assert difference.mean() < 3.5  # Pillow's BOX: 3.2 to 4.3


def test_records_are_those_of_tfds_whatever_part_of_a_split(plain):
    data, _ = open_data(plain)
    for name in ("train", "train[:50%]", "train[3:9]"):
        split = data.split(name)
        records = Records(split)
        expected = [
            e["file"] for e in data.builder.as_dataset(split=name).as_numpy_iterator()
        ]
        features = data.builder.info.features
        read = [
            features.deserialize_example(r)["file"].numpy()
            for r in records.read(range(len(records)))
        ]
        assert read == expected
        assert len(records) == split.num_examples


def test_streams_that_are_dropped_close_their_shards(plain):
    """`compare` makes many in one process, which may have some 1,024 files open."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("open files are counted in /proc")
    data, config = open_data(plain)

    def open_files_after(count):
        for _ in range(count):
            assert len(list(stream.eval_batches(data, config, "val"))) == 1
            take(plain, 1)
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    before = open_files_after(1)
    for _ in range(50):  # a thread of TensorFlow may hold the last one a little longer
        if (after := open_files_after(2)) <= before:
            break
        time.sleep(0.1)
    assert after <= before


@pytest.fixture
def many_shards(tmp_path):
    """A split of 300 shards, in a process that may have 200 files open."""
    parts = []
    for i in range(300):
        with tf.io.TFRecordWriter(str(tmp_path / f"{i}")) as writer:
            writer.write(b"record")
        parts.append(SimpleNamespace(filename=str(tmp_path / f"{i}"), skip=0, take=-1))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    yield SimpleNamespace(file_instructions=parts)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_shards_than_files_may_be_open(many_shards):
    assert Records(many_shards).read([0, 299]) == [b"record"] * 2


def test_a_limit_of_open_files_is_not_taken_for_damage(many_shards, monkeypatch):
    def refuse(*_):
        raise ValueError

    with monkeypatch.context() as patch:
        patch.setattr(records.resource, "setrlimit", refuse)
        with pytest.raises(UserError, match=r"open files\. Raise the .*`ulimit -n`"):
            Records(many_shards)


def test_a_shard_that_was_cut_is_named(plain, tmp_path):
    plain.data.dir = str(tmp_path)
    data, _ = open_data(plain)
    (shard,) = Path(data.builder.data_dir).glob("*train*")
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(UserError, match=rf"{shard.name}.* is damaged.*byte [\d,]+"):
        Records(data.split("train"))


def test_a_shard_that_was_deleted_is_named(plain, tmp_path):
    plain.data.dir = str(tmp_path)
    data, _ = open_data(plain)
    (shard,) = Path(data.builder.data_dir).glob("*train*")
    shard.unlink()
    with pytest.raises(UserError, match=rf"{shard.name} cannot be read: No such file"):
        Records(data.split("train"))


@pytest.mark.parametrize("name", ["mnist/nope", "mnist:9.9.9", "a b/c", "nope"])
def test_a_tfds_name_that_means_nothing_has_one_line(plain, tmp_path, name):
    plain.data.manifest, plain.data.tfds = "", name
    plain.data.tasks.digit = "label"
    plain.data.dir = str(tmp_path)
    with pytest.raises(UserError, match=rf"config.data.tfds='{name}'") as error:
        open_data(plain)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["dev", "train[:900%]", "train[oops]"])
def test_unknown_split_is_answered_with_the_known_ones(plain, name):
    data, _ = open_data(plain)
    with pytest.raises(UserError, match=r"no split.*train, val, test"):
        data.split(name)


@pytest.mark.parametrize(
    ("train", "val", "test", "shared"),
    [
        ("train", "val", "test", []),
        ("train[:90%]", "train[90%:]", "test", []),
        ("train[:90%]", "train[-1:]", "", []),
        ("train", "train[90%:]", "test", ["val_split=train[90%:]"]),
        ("train[2:9]", "", "train[8:]", ["test_split=train[8:]"]),
        ("train[2:8]", "", "train[8:]", []),
        ("val+train", "val", "val+test", ["val_split=val", "test_split=val+test"]),
        ("train", "val", "train[:0%]", []),
    ],
)
def test_pictures_that_are_trained_on_and_judged_by_are_told(
    plain, train, val, test, shared
):
    data, _ = open_data(plain)
    plain.data.train_split, plain.data.val_split = train, val
    plain.data.test_split = test
    said = data.overlap(plain)
    assert re.findall(r"config.data.((?:val|test)_split=[^ ;]+)", said) == shared
    assert bool(said) == bool(shared)
    if shared:
        assert said.startswith(f"Warning: config.data.train_split={train} shares ")


def test_empty_part_of_a_split(plain):
    data, _ = open_data(plain)
    with pytest.raises(UserError, match=r"Split 'train\[:0%\]' of the data is empty"):
        data.split("train[:0%]")
