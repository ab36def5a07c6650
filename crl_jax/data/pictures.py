"""A picture file as upright 8-bit JPEG or PNG bytes, which any reader can decode.

Plain photographs keep their own bytes. Others are decoded by Pillow, turned as their
EXIF orientation says, converted to RGB (what is transparent becomes white) and encoded
anew: as PNG if the file was lossless, otherwise as JPEG. Only the first frame of an
animation counts.
"""

import contextlib
import io
import os
import re
import threading
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

# About how much memory a picture takes while it is encoded anew: two copies of its
# pixels, and what the decoder holds. The decoder of WebP holds several more copies.
_BYTES_A_PIXEL = {"JPEG": 8, "MPO": 8, "WEBP": 25}
_BYTES_A_PIXEL_ELSE = 16
MAX_MEMORY = 512_000_000  # of all threads together: a JPEG of 64 megapixels
MAX_PIXELS = MAX_MEMORY // min(_BYTES_A_PIXEL.values())
_MAX_SIDE = 1_000_000  # libpng decodes no longer ones

_MAX_BYTES = 128_000_000  # of a file
_QUALITY = 95  # of JPEG

# No others: some of Pillow's decoders start programs.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")
# Of their file names, in lower case.
SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jpeg"),
    *(".jpg", ".png", ".tif", ".tiff", ".webp"),
)
_LOSSY = ("JPEG", "MPO", "WEBP", "AVIF")  # MPO: several JPEGs in one file

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# The C library gives blocks of more than 32 MB back to the system once they are free;
# Pillow's usual ones, of 16 MB, would pile up.
Image.core.set_block_size(64 * 2**20)


class BadPicture(Exception):
    """A file that is refused; the message is one short phrase that says why."""


class _NoWarnings:
    """Ignores warnings while any thread is inside.

    `warnings.catch_warnings` sets the filters of the whole process; threads that leave
    it in a different order than they entered it would leave the wrong ones behind.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._filters = warnings.catch_warnings(action="ignore")
                self._filters.__enter__()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._filters.__exit__(None, None, None)


_no_warnings = _NoWarnings()


class _Memory:
    """Lets threads go on while together they need no more than a limit."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, amount: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: amount <= self._free)
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()


_memory = _Memory(MAX_MEMORY)


def encode(
    picture: str | os.PathLike[str] | bytes, resize: int = 0, compress: bool = True
) -> bytes:
    """Returns a picture as JPEG or PNG bytes: upright, 8 bits, RGB or greyscale.

    Args:
      picture: path of the file, or its content.
      resize: limit of the shorter side in pixels, to which a larger picture is scaled
        down; 0 leaves every size as it is.
      compress: whether a picture that becomes a PNG is made small, which takes long.

    TensorFlow decodes these bytes to the rows and columns that Pillow gives for the
    upright picture. Several threads may call this at the same time: those with large
    pictures wait for each other, so that together they take about `MAX_MEMORY`.

    Raises:
      BadPicture: the file cannot be decoded completely, or is too large.
    """
    data = picture if isinstance(picture, bytes) else _read(Path(picture))
    _check_size(len(data))
    try:
        with _no_warnings:
            return _encode(data, resize, compress)
    except BadPicture:
        raise
    except Image.UnidentifiedImageError:
        raise BadPicture(f"is not a whole {', '.join(FORMATS)} file") from None
    except Image.DecompressionBombError:
        raise _too_many(MAX_PIXELS) from None
    except Exception as error:  # broken data makes decoders raise almost anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise BadPicture(f"cannot be decoded: {reason}") from error


def _read(path: Path) -> bytes:
    try:
        _check_size(path.stat().st_size)
        return path.read_bytes()
    except OSError as error:
        raise BadPicture(f"cannot be read: {error.strerror}") from error


def _check_size(count: int) -> None:
    if count == 0:
        raise BadPicture("is empty")
    if count > _MAX_BYTES:
        raise BadPicture(f"has more than {_MAX_BYTES:,} bytes")


def _too_many(pixels: int) -> BadPicture:
    return BadPicture(f"has more than {pixels:,} pixels: scale it down")


def _encode(data: bytes, resize: int, compress: bool) -> bytes:
    image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    # From the header; nothing is decoded yet.
    cost = _BYTES_A_PIXEL.get(image.format or "", _BYTES_A_PIXEL_ELSE)
    pixels = image.width * image.height
    if pixels > MAX_MEMORY // cost:
        raise _too_many(MAX_MEMORY // cost)
    if pixels == 0:
        raise BadPicture("has no pixels")
    if max(image.size) > _MAX_SIDE:
        raise BadPicture(f"has a side of more than {_MAX_SIDE:,} pixels")
    scale = min(resize / min(image.size), 1.0) if resize else 1.0
    keep = scale == 1 and _is_plain_jpeg(image, data)
    if keep:
        # Decoding at an eighth of the size is as thorough a check, in half the time.
        image.draft(image.mode, (1, 1))
    elif scale < 1:
        # A JPEG can be decoded at a half, a quarter or an eighth of its size.
        image.draft(
            image.mode, (round(image.width * scale), round(image.height * scale))
        )
    if not image.info.get("progressive"):  # if it is, libjpeg holds all of it anyway
        pixels = image.width * image.height
    with _memory.taken(pixels * cost):
        image.load()
        if keep or (scale == 1 and _is_plain_png(image, data)):
            return data
        return _encoded_anew(image, data, resize, compress)


def _encoded_anew(
    image: Image.Image, data: bytes, resize: int, compress: bool
) -> bytes:
    # A lossless WebP has a chunk of this name.
    lossy = image.format in _LOSSY and b"VP8L" not in data
    # Each step lets go of the previous picture.
    image = _upright(image)
    image = scaled(_rgb(image), resize)
    image.info = {}  # an old colour profile, transparency or comment
    encoded = io.BytesIO()
    if lossy:
        image.save(encoded, "JPEG", quality=_QUALITY)
    else:
        image.save(encoded, "PNG", compress_level=6 if compress else 0)
    return encoded.getvalue()


def scaled(image: Image.Image, resize: int) -> Image.Image:
    """Returns a decoded picture scaled as in `encode`, with the same `resize`."""
    if not 0 < resize < min(image.size):
        return image
    scale = resize / min(image.size)
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    return image.resize(size, Image.Resampling.LANCZOS)


def _is_plain_jpeg(image: Image.Image, data: bytes) -> bool:
    return (
        image.format in ("JPEG", "MPO")
        and image.mode in ("RGB", "L")
        and _orientation(image) not in _UPRIGHT
        and _ends_as_jpeg(data)
    )


def _is_plain_png(image: Image.Image, data: bytes) -> bool:
    """Says whether a loaded image is a still 8-bit PNG, RGB or L, without any flaw."""
    return (
        image.format == "PNG"
        and image.mode in ("RGB", "L")
        and data[24] == 8  # bits, in the header
        and not image.has_transparency_data
        and getattr(image, "n_frames", 1) == 1
        and _orientation(image) not in _UPRIGHT
        and _is_whole_png(data)
    )


def _ends_as_jpeg(data: bytes) -> bool:
    """Says whether the markers of a baseline or progressive JPEG lead to its end.

    Pillow stops once it has all rows; TensorFlow reads on, and refuses a file whose
    last segment is longer than what is left.
    """
    marker, position = re.compile(rb"\xff+([^\x00\xff])"), 2
    while match := marker.search(data, position):
        code, position = match[1][0], match.end()
        if code == 0xD9:  # end of image
            return True
        if code in (0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xD0)):  # rare processes
            return False
        if code != 0x01 and not 0xD0 <= code <= 0xD7:  # otherwise it has no length
            position += int.from_bytes(data[position : position + 2], "big")
    return False


def _is_whole_png(data: bytes) -> bool:
    """Says whether all chunks of a PNG are there, known and have the right checksums.

    Pillow neither checks the checksums of pixels nor looks for the last chunk, and it
    passes over unknown chunks that a reader must understand (a capital letter).
    """
    position = 8
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        chunk = data[position + 4 : end]
        if zlib.crc32(chunk) != int.from_bytes(data[end : end + 4], "big"):
            return False
        if chunk[:4] == b"IEND":
            return True
        known = (b"PLTE", b"IDAT") if position > 8 else (b"IHDR",)
        if chunk[:1].isupper() and chunk[:4] not in known:
            return False
        position = end + 4
    return False


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1


def _upright(image: Image.Image) -> Image.Image:
    turn = _UPRIGHT.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow would clip the values at 255.
        values = np.asarray(image)
        grey = (values >> 8).astype(np.uint8)
        grey[values == image.info.get("transparency")] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("I", "F"):
        raise BadPicture("has 32-bit pixels, whose range is unknown")
    if image.has_transparency_data:
        if image.mode != "RGBA":
            image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")
