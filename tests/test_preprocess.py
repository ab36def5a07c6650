"""Crops and sizes of pictures, against what Pillow makes of the same photographs."""

import io

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from sklearn.datasets import load_sample_image

from crl_jax.data import preprocess
from crl_jax.data.quiet import tf

# Scale, and largest mean difference to Pillow's BILINEAR, of 0-255. Pillow's own BOX
# is 2.7 to 5.7 away from it for china.jpg, which is full of fine detail.
DISTANCES = {
    "china.jpg": {0.8: 0.3, 1.2: 2.0, 1.9: 5.5, 2.5: 3.0, 6.0: 3.0},
    "flower.jpg": {0.8: 0.3, 1.2: 0.6, 1.9: 1.6, 2.5: 1.1, 6.0: 1.8},
}
SIDE = 416  # of the photographs, in pixels; a multiple of eight


@pytest.fixture(params=DISTANCES)
def photo(request) -> tuple[str, Image.Image]:
    square = load_sample_image(request.param)[:SIDE, 100 : 100 + SIDE]
    return request.param, Image.fromarray(square)


def encoded(image: Image.Image, kind: str) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return content.getvalue()


def evaluated(content: bytes, size: int) -> np.ndarray:
    data = ConfigDict({"image_size": size, "eval_crop": 1.0})
    return preprocess.eval_image(tf.constant(content), data).numpy().astype(int)


def by_pillow(content: bytes, size: int) -> np.ndarray:
    image = Image.open(io.BytesIO(content))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)).astype(int)


@pytest.mark.parametrize("scale", [0.8, 1.2, 1.9, 2.5, 6.0])
def test_sizes_against_pillow(photo, scale):
    name, image = photo
    content, size = encoded(image, "PNG"), round(SIDE / scale)
    difference = evaluated(content, size) - by_pillow(content, size)
    assert np.abs(difference).mean() < DISTANCES[name][scale]
    assert np.abs(difference.mean()) < 0.3  # no shift in brightness


@pytest.mark.parametrize("scale", [2.5, 4.5, 8.0])
def test_a_jpeg_that_is_decoded_smaller_looks_the_same(photo, scale):
    _, image = photo
    content, size = encoded(image, "JPEG"), round(SIDE / scale)
    difference = evaluated(content, size) - by_pillow(content, size)
    assert np.abs(difference).mean() < 4
    assert np.abs(difference.mean()) < 0.3


def test_a_jpeg_is_decoded_as_pillow_does(photo):
    content = encoded(photo[1], "JPEG")
    np.testing.assert_array_equal(evaluated(content, SIDE), by_pillow(content, SIDE))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("size", [16, 52, 64, 100])
def test_fine_detail_is_averaged_not_sampled(kind, size):
    """Noise, scaled down by s, keeps about 1 / s of its deviation."""
    noise = np.random.default_rng(0).integers(0, 256, (512, 512)).astype(np.uint8)
    content = encoded(Image.fromarray(noise).convert("RGB"), kind)
    expected = by_pillow(content, size).std()  # BILINEAR smooths more than a mean
    assert evaluated(content, size).std() < 1.8 * expected


def test_pad_and_crop_moves_the_picture_that_evaluation_sees(photo):
    content = tf.constant(encoded(photo[1], "PNG"))
    data = ConfigDict({"image_size": 16, "eval_crop": 0.6, "flip": False})
    data.augment = "pad_and_crop"
    seen = preprocess.eval_image(content, data).numpy()
    padded = np.pad(seen, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    windows = {
        padded[top : top + 16, left : left + 16].tobytes()
        for top in range(5)
        for left in range(5)
    }
    for seed in range(8):
        image = preprocess.train_image(content, tf.constant([0, seed], tf.int64), data)
        assert image.numpy().tobytes() in windows


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (33, 2000), (17, 9)])
def test_extreme_shapes(kind, shape):
    image = Image.new("RGB", shape, (200, 30, 90))
    content = tf.constant(encoded(image, kind))
    for augment in ("random_resized_crop", "pad_and_crop", "none"):
        data = ConfigDict(
            {"image_size": 16, "eval_crop": 0.875, "augment": augment, "flip": True}
        )
        for seed in range(4):
            seen = preprocess.train_image(
                content, tf.constant([0, seed], tf.int64), data
            )
            assert seen.shape == (16, 16, 3)
            assert np.abs(seen.numpy().astype(int) - [200, 30, 90]).max() < 6
