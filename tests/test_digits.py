import sys
from collections import Counter

import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from crl_jax.data import digits
from crl_jax.errors import UserError

SPLITS = {"train": 0.60, "val": 0.15, "test": 0.25}


@pytest.fixture(scope="module")
def examples() -> list[digits.Example]:
    return digits.examples()


@pytest.fixture(scope="module")
def prepared(
    tmp_path_factory: pytest.TempPathFactory,
) -> tfds.core.DatasetBuilder:
    builder = digits.Digits(data_dir=tmp_path_factory.mktemp("digits"))
    builder.download_and_prepare()
    return builder


@pytest.fixture(scope="module")
def glyph() -> np.ndarray:
    return load_digits().images[0]


def test_examples_are_the_same_bit_for_bit_each_time(examples):
    for first, second in zip(examples, digits.examples(), strict=True):
        assert vars(first) | {"image": None} == vars(second) | {"image": None}
        np.testing.assert_array_equal(first.image, second.image)


def test_each_source_digit_is_pictured_once_under_its_name(examples):
    assert len(examples) == 1797
    assert len({example.file for example in examples}) == 1797
    assert len({example.image.tobytes() for example in examples}) == 1797
    target = load_digits().target
    for example in examples:
        index = int(example.file.removeprefix("digit-").removesuffix(".png"))
        assert example.noun == digits.NOUNS[target[index]]


def test_pictures_are_full_colour_of_one_size(examples):
    assert {example.image.shape for example in examples} == {(32, 32, 3)}
    assert {example.image.dtype for example in examples} == {np.dtype(np.uint8)}


def test_anp_is_adjective_and_noun(examples):
    assert all(e.anp == f"{e.adjective}_{e.noun}" for e in examples)
    assert {e.anp for e in examples} == set(digits.ANPS)


def test_part_of_the_grid_exists_and_no_class_is_rare(examples):
    pairs = {(e.adjective, e.noun) for e in examples}
    assert len(pairs) == len(digits.ANPS) == 40
    nouns_of = Counter(adjective for adjective, _ in pairs)
    adjectives_of = Counter(noun for _, noun in pairs)
    assert set(nouns_of) == set(digits.ADJECTIVES)
    assert set(adjectives_of) == set(digits.NOUNS)
    assert min(nouns_of.values()) >= 3
    assert min(adjectives_of.values()) >= 3


def test_splits_are_stratified_by_pair(examples):
    pictures = Counter(e.anp for e in examples)
    in_split = Counter((e.anp, e.split) for e in examples)
    assert {split for _, split in in_split} == set(SPLITS)
    for anp in digits.ANPS:
        for split, share in SPLITS.items():
            assert in_split[anp, split] == pytest.approx(share * pictures[anp], abs=1.5)


def test_prepared_shards_hold_the_examples(examples, prepared):
    assert prepared.info.file_format.value == "tfrecord"
    labels = ("noun", "adjective", "anp")
    by_file = {example.file: example for example in examples}
    found: Counter[str] = Counter()
    for split in SPLITS:
        for row in tfds.as_numpy(prepared.as_dataset(split=split)):
            example = by_file[row["file"].decode()]
            found[example.file] += 1
            assert example.split == split
            np.testing.assert_array_equal(row["image"], example.image)
            for label in labels:
                names = prepared.info.features[label].int2str
                assert names(row[label]) == getattr(example, label)
    assert found == Counter(by_file.keys())


def test_label_names_are_the_modules(prepared):
    features = prepared.info.features
    assert set(features) == {"image", "file", "noun", "adjective", "anp"}
    assert features["noun"].names == list(digits.NOUNS)
    assert features["adjective"].names == list(digits.ADJECTIVES)
    assert features["anp"].names == list(digits.ANPS)


@pytest.mark.parametrize("adjective", digits.ADJECTIVES)
def test_each_adjective_varies_and_differs_from_the_others(glyph, adjective):
    pictures = {
        name: digits.draw(glyph, name, np.random.default_rng(0)).astype(float)
        for name in digits.ADJECTIVES
    }
    again = digits.draw(glyph, adjective, np.random.default_rng(1))
    assert np.abs(pictures[adjective] - again).mean() > 5
    for name in set(pictures) - {adjective}:
        assert np.abs(pictures[adjective] - pictures[name]).mean() > 5


@pytest.mark.parametrize(
    ("adjective", "channel"), [("red", 0), ("green", 1), ("blue", 2)]
)
def test_colours_are_what_they_are_called(glyph, adjective, channel):
    for seed in range(20):
        picture = digits.draw(glyph, adjective, np.random.default_rng(seed))
        ink = picture[picture.max(axis=-1) > 150]
        assert ink.mean(axis=0).argmax() == channel


def test_unknown_adjective_is_refused(glyph):
    with pytest.raises(KeyError, match="sleepy"):
        digits.draw(glyph, "sleepy", np.random.default_rng(0))


def test_without_scikit_learn_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        digits.examples()
