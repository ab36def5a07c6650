"""Pictures without labels, as the network would see them in evaluation."""

import contextlib
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from crl_jax.data import Batch, ahead, pictures, preprocess
from crl_jax.data.quiet import tf
from crl_jax.errors import UserError

# A file, its content, or `[rows, columns, 3]` uint8.
Picture = str | Path | bytes | np.ndarray


def find(paths: Iterable[Path]) -> list[Path]:
    """Returns the files among `paths`, and the pictures in the folders among them.

    Folders are searched recursively, in the order of their names, for files with one of
    `pictures.SUFFIXES`; files and folders whose name begins with a dot are left out.
    Links to folders are followed, each folder once. A file that is itself in `paths` is
    always taken.

    Raises:
      UserError: a folder has no picture, or cannot be read.
    """
    found: list[Path] = []
    for path in paths:
        inside = _in_folder(path) if os.path.isdir(path) else [path]
        if not inside:
            raise UserError(
                f"The folder {path} has no pictures ({', '.join(pictures.SUFFIXES)})."
            )
        found += inside
    return found


def _in_folder(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise UserError(f"The folder {error.filename}: {error.strerror}.")

    found: list[Path] = []
    seen: set[tuple[int, int]] = set()  # device and inode of each folder
    waiting = [folder]  # ... and the links to folders found on the way
    for start in waiting:
        for parent, folders, files in os.walk(start, onerror=refuse):
            status = os.stat(parent)
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            inside = (Path(parent, name) for name in folders)
            waiting += [path for path in inside if path.is_symlink()]
            found += [
                Path(parent, f) for f in files if f.lower().endswith(pictures.SUFFIXES)
            ]
    return sorted(path for path in found if not path.name.startswith("."))


def check(picture: Any) -> Picture:
    """Returns one picture as `batches` takes it.

    Args:
      picture: a path, the bytes of a file, or what NumPy turns into
        `[rows, columns, 3]` uint8, such as a Pillow image in RGB.

    Raises:
      UserError: it is none of these.
    """
    if isinstance(picture, (str, Path, bytes)):
        return picture
    array = np.asarray(picture)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3:
        raise UserError(
            f"A picture is {array.dtype} {list(array.shape)}: give [rows, columns, 3] "
            "uint8, a path or the bytes of a file."
        )
    if 0 in array.shape:
        raise UserError("A picture has no pixels.")
    return array


def batches(
    items: Sequence[Picture], data: ConfigDict, batch_size: int
) -> Iterator[Batch]:
    """Yields pictures in order, scaled as in shards and cut as in evaluation.

    They are decoded on all cores.

    Args:
      items: from `check`.
      data: `config.data` of a checked config.
      batch_size: B.

    Returns:
      `{"image": [B, H, W, 3] uint8, "error": [B] bytes}`; if there is an error, the
      picture means nothing. The last batch may be shorter.
    """
    size = data.image_size
    decode = _decoder(size, data.eval_crop)
    no_picture = np.zeros((size, size, 3), np.uint8)

    def read(item: Picture) -> tuple[np.ndarray, bytes]:
        try:
            if isinstance(item, np.ndarray):
                if data.resize:
                    image = pictures.scaled(Image.fromarray(item), data.resize)
                    item = np.asarray(image)
                encoded = tf.io.encode_png(item, compression=0)
            else:
                encoded = tf.constant(pictures.encode(item, data.resize, False))
            return decode(encoded).numpy(), b""
        except pictures.BadPicture as error:
            return no_picture, str(error).encode("utf-8")
        except tf.errors.InvalidArgumentError:  # what only Pillow forgives
            return no_picture, b"cannot be decoded"

    found = ahead.in_order(read, items, 3 * batch_size)
    with contextlib.closing(found):
        while part := [of.result() for of in itertools.islice(found, batch_size)]:
            images, errors = zip(*part, strict=True)
            yield {"image": np.stack(images), "error": np.array(errors, object)}


@functools.cache
def _decoder(size: int, crop: float) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns `preprocess.eval_image` traced, which takes longer than many pictures."""
    data = ConfigDict({"image_size": size, "eval_crop": crop})
    image = tf.function(
        lambda encoded: preprocess.eval_image(encoded, data), autograph=False
    )
    return image.get_concrete_function(tf.TensorSpec((), tf.string))
