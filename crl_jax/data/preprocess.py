"""From encoded pictures to uint8 arrays of one size, in TensorFlow.

Every random choice is a function of a seed that the caller gives.
"""

import functools
from collections.abc import Callable

from ml_collections import ConfigDict

from crl_jax.data.quiet import tf

# Random resized crop: share of the area, and ratio of columns to rows (Szegedy et al.
# 2015, "Going deeper with convolutions", section 6). TensorFlow draws the height, not
# the area, evenly: of a square picture the mean area is 0.40, and 0.48 in torchvision.
AREA_RANGE = (0.08, 1.0)
ASPECT_RANGE = (3 / 4, 4 / 3)
PAD_SHARE = 1 / 8  # pad-and-crop: padding at each edge, as a share of the side


def train_image(encoded: tf.Tensor, seed: tf.Tensor, data: ConfigDict) -> tf.Tensor:
    """Decodes a picture and augments it as `data.augment` and `data.flip` say.

    Args:
      encoded: JPEG, PNG, BMP or GIF bytes, `[]`.
      seed: `[2]` int64; it decides the crop and the flip.
      data: `config.data` of a checked config.

    Returns:
      `[H, W, 3]` uint8, where H = W = `data.image_size`.
    """
    crop_seed, flip_seed = tf.unstack(tf.random.split(seed, 2))
    size = data.image_size
    if data.augment == "random_resized_crop":
        image = _cut(encoded, functools.partial(_random_window, seed=crop_seed), size)
    else:
        image = eval_image(encoded, data)
    if data.augment == "pad_and_crop":
        image = _pad_and_crop(image, crop_seed, size)
    if data.flip:
        image = tf.image.stateless_random_flip_left_right(image, flip_seed)
    return image


def eval_image(encoded: tf.Tensor, data: ConfigDict) -> tf.Tensor:
    """Decodes a picture and resizes the centre crop of share `data.eval_crop`.

    Args:
      encoded: JPEG, PNG, BMP or GIF bytes, `[]`.
      data: `config.data` of a checked config.

    Returns:
      `[H, W, 3]` uint8, where H = W = `data.image_size`.
    """
    return _centre_cut(encoded, data.image_size, data.eval_crop)


def _resize(image: tf.Tensor, size: int) -> tf.Tensor:
    """Resizes a picture, with as much smoothing as its scale needs.

    Args:
      image: `[rows, columns, 3]` uint8.
      size: H = W of the result.

    Returns:
      `[H, W, 3]` uint8.
    """
    # A bilinear sample mixes 2x2 pixels, so it misses none up to a factor of two.
    # Beyond that, `area` takes the mean of what each new pixel covers; it costs twice
    # as much, and enlarges without smoothing.
    image = tf.cond(
        tf.reduce_max(tf.shape(image)[:2]) <= 2 * size,
        lambda: tf.image.resize(image, (size, size), "bilinear"),
        lambda: tf.image.resize(image, (size, size), "area"),
    )
    return tf.ensure_shape(tf.cast(image + 0.5, tf.uint8), (size, size, 3))


def _cut(
    encoded: tf.Tensor, choose: Callable[[tf.Tensor], tf.Tensor], size: int
) -> tf.Tensor:
    """Decodes a window of a picture, and resizes it.

    Args:
      encoded: bytes of the picture, `[]`.
      choose: from `[rows, columns, channels]` to `[top, left, rows, columns]`, int32.
      size: H = W of the result.
    """

    def jpeg() -> tf.Tensor:
        window = choose(tf.io.extract_jpeg_shape(encoded))
        # A JPEG can be decoded at a half, a quarter or an eighth of its size.
        halvings = tf.reduce_sum(
            tf.cast(
                tf.reduce_min(window[2:]) >= [2 * size, 4 * size, 8 * size], tf.int32
            )
        )
        return tf.switch_case(
            halvings,
            [functools.partial(_decode_jpeg, encoded, window, 2**n) for n in range(4)],
        )

    def other() -> tf.Tensor:
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        return tf.image.crop_to_bounding_box(
            image, *tf.unstack(choose(tf.shape(image)))
        )

    return _resize(tf.cond(tf.io.is_jpeg(encoded), jpeg, other), size)


def _decode_jpeg(encoded: tf.Tensor, window: tf.Tensor, ratio: int) -> tf.Tensor:
    """Decodes a window, to within a pixel, at `1 / ratio` of its size."""
    return tf.image.decode_and_crop_jpeg(
        encoded,
        window // ratio,
        channels=3,
        ratio=ratio,
        dct_method="INTEGER_ACCURATE",  # Pillow's; as fast as TensorFlow's choice
    )


def _centre_cut(encoded: tf.Tensor, size: int, share: float) -> tf.Tensor:
    """Cuts a centred square of `share` of the shorter side, and resizes it."""

    def choose(shape: tf.Tensor) -> tf.Tensor:
        shorter = tf.cast(tf.minimum(shape[0], shape[1]), tf.float32)
        side = tf.maximum(tf.cast(tf.round(share * shorter), tf.int32), 1)
        return tf.stack([(shape[0] - side) // 2, (shape[1] - side) // 2, side, side])

    return _cut(encoded, choose, size)


def _random_window(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        [shape[0], shape[1], 3],
        bounding_boxes=tf.zeros((1, 0, 4)),
        seed=seed,
        min_object_covered=0.0,
        area_range=AREA_RANGE,
        aspect_ratio_range=ASPECT_RANGE,
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], extent[:2]], axis=0)


def _pad_and_crop(image: tf.Tensor, seed: tf.Tensor, size: int) -> tf.Tensor:
    """Reflects the borders outwards and cuts out the old size at a random place."""
    pad = round(size * PAD_SHARE)
    image = tf.pad(image, [[pad, pad], [pad, pad], [0, 0]], mode="REFLECT")
    return tf.image.stateless_random_crop(image, (size, size, 3), seed)
