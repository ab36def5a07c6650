"""What a random crop cuts, read from a picture whose colours are its coordinates."""

import io

import numpy as np
from PIL import Image

from crl_jax.config import default
from crl_jax.data import preprocess
from crl_jax.data.quiet import tf

SIDE = 200  # of the picture
SIZE = 8  # of what comes out


def coordinates():
    """A PNG whose red is the column and whose green is the row."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    image = np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def crops(count):
    """Rows and columns of random crops, in pixels of the picture: `[count, 2]`."""
    config = default().data
    config.image_size, config.flip, config.augment = SIZE, False, "random_resized_crop"
    encoded = tf.constant(coordinates())
    seeds = np.stack([np.arange(count), np.full(count, 7)], axis=1)
    images = (
        tf.data.Dataset.from_tensor_slices(seeds)
        .map(lambda seed: preprocess.train_image(encoded, seed, config))
        .batch(count)
        .get_single_element()
        .numpy()
        .astype(float)
    )
    # First and last centre are SIZE - 1 of SIZE parts of the crop apart.
    columns = images[:, :, -1, 0].mean(1) - images[:, :, 0, 0].mean(1)
    rows = images[:, -1, :, 1].mean(1) - images[:, 0, :, 1].mean(1)
    return np.stack([rows, columns], axis=1) * SIZE / (SIZE - 1)


def test_random_crops_have_areas_from_8_percent_up_and_ratios_from_3_4_to_4_3():
    sides = crops(400)
    areas = sides.prod(axis=1) / SIDE**2
    assert 0.06 < areas.min() < 0.12
    assert areas.max() > 0.85
    assert 0.36 < areas.mean() < 0.45  # 0.48 in torchvision, as it says there
    ratios = sides[:, 1] / sides[:, 0]
    assert 0.7 < ratios.min() < 0.8
    assert 1.25 < ratios.max() < 1.45
