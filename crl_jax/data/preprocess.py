"""From encoded pictures to uint8 arrays of one size, in TensorFlow.

Every random choice is a function of a seed that the caller gives.
"""

from ml_collections import ConfigDict

from crl_jax.data.quiet import tf

# Random resized crop: share of the area, and ratio of columns to rows (Szegedy et al.
# 2015, "Going deeper with convolutions", section 6).
AREA_RANGE = (0.08, 1.0)
ASPECT_RANGE = (3 / 4, 4 / 3)
PAD_SHARE = 1 / 8  # pad-and-crop: padding on each side, of the picture's side


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
        image = _random_resized_crop(encoded, crop_seed, size)
    elif data.augment == "pad_and_crop":
        image = _pad_and_crop(
            _centre_crop(_decode(encoded), size, 1.0), crop_seed, size
        )
    else:
        image = _centre_crop(_decode(encoded), size, data.eval_crop)
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
    return _centre_crop(_decode(encoded), data.image_size, data.eval_crop)


def _decode(encoded: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_image(encoded, channels=3, expand_animations=False)


def _resize(image: tf.Tensor, size: int) -> tf.Tensor:
    image = tf.image.resize(image, (size, size), antialias=True)
    image = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
    return tf.ensure_shape(image, (size, size, 3))


def _centre_crop(image: tf.Tensor, size: int, share: float) -> tf.Tensor:
    """Cuts a centred square of `share` of the shorter side, and resizes it."""
    rows, columns = tf.shape(image)[0], tf.shape(image)[1]
    shorter = tf.cast(tf.minimum(rows, columns), tf.float32)
    side = tf.maximum(tf.cast(tf.round(share * shorter), tf.int32), 1)
    top, left = (rows - side) // 2, (columns - side) // 2
    return _resize(tf.image.crop_to_bounding_box(image, top, left, side, side), size)


def _random_resized_crop(encoded: tf.Tensor, seed: tf.Tensor, size: int) -> tf.Tensor:
    """Cuts a random rectangle before it is decoded (JPEG), and resizes it."""
    is_jpeg = tf.io.is_jpeg(encoded)
    shape = tf.cond(
        is_jpeg,
        lambda: tf.io.extract_jpeg_shape(encoded),
        lambda: tf.shape(_decode(encoded)),
    )
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
    window = tf.concat([begin[:2], extent[:2]], axis=0)
    image = tf.cond(
        is_jpeg,
        lambda: tf.image.decode_and_crop_jpeg(encoded, window, channels=3),
        lambda: tf.slice(_decode(encoded), begin, extent),
    )
    return _resize(image, size)


def _pad_and_crop(image: tf.Tensor, seed: tf.Tensor, size: int) -> tf.Tensor:
    """Reflects the borders outwards and cuts the old size at a random place."""
    pad = round(size * PAD_SHARE)
    image = tf.pad(image, [[pad, pad], [pad, pad], [0, 0]], mode="REFLECT")
    return tf.image.stateless_random_crop(image, (size, size, 3), seed)
