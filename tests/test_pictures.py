"""`pictures.encode`, against what Pillow and TensorFlow make of the same files."""

import csv
import io
import random
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED
from PIL import Image, ImageOps

from crl_jax.data import pictures
from crl_jax.data.quiet import tf

HARD = SHARED / "bad_images"

# What becomes of the hard files; all others are encoded anew.
UNCHANGED = {
    *("pil_sample_rgb.jpg", "hopper_gray.jpg", "flower.jpg", "truncated_app14.jpg"),
    *("truncated_exif_dpi.jpg", "broken_exif_dpi.jpg", "invalid-exif.jpg"),
    *("exif-dpi-zerodivision.jpg", "exif_gps_typeerror.jpg", "multiple_exif.jpg"),
    *("junk_jpeg_header.jpg", "jpeg_ff00_header.jpg", "photoshop-200dpi-broken.jpg"),
    *("hopper_16bit_qtables.jpg", "icc-after-SOF.jpg", "sugarshack_bad_mpo_header.jpg"),
    *("hopper_idat_after_image_end.png", "photo_bitrot.jpg", "photo_trailing_junk.jpg"),
    *("photo_is_png.jpg", "photo_is_jpg.png", "photo_no_extension", "photo_1x1.jpg"),
    *("photo_UPPER é 图.JPG", "photo_progressive.jpg", "photo_2x1500.jpg"),
}
REFUSED = {
    "truncated_jpeg.jpg": "truncated",
    "ultrahdr.jpg": "truncated",
    "broken.png": "not a whole",
    "broken_data_stream.png": "unrecognized data",
    "truncated_image.png": "truncated",
    "truncated_end_chunk.png": "Truncated",
    "png_decompression_dos.png": "too large",
    "unknown_compression_method.png": "not a whole",
    "apng_num_frames_zero.png": "cannot load",
    "zero_width.gif": "not a whole",
    "decompression_bomb.gif": "64,000,000 pixels",
    "decompression_bomb.ico": "not a whole",
    "bmp_badwidth.bmp": "64,000,000 pixels",
    "crash-86214e58da443d2b80820cff9677a38a33dcbbca.tif": "decoder error",
    "photo_half.jpg": "truncated",
    "photo_header_only.jpg": "Truncated",
    "empty.jpg": "is empty",
    "html_error_page.jpg": "not a whole",
    "text.png": "not a whole",
    "soi_only.jpg": "not a whole",
    "bomb_12000x12000_1bit.png": "32,000,000 pixels",
    "bomb_30000x30000_1bit.png": "64,000,000 pixels",
    "bomb_header_60000x60000.png": "64,000,000 pixels",
    "zero_size.png": "not a whole",
}

RED_AND_BLUE = np.zeros((40, 60, 3), np.uint8)
RED_AND_BLUE[:20] = (200, 30, 30)
RED_AND_BLUE[:, :30, 2] = 220


@pytest.fixture(autouse=True)
def _no_warning_escapes(recwarn):
    warnings.simplefilter("always")
    yield
    assert [w for w in recwarn if "PIL" in w.filename] == []


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(RED_AND_BLUE)


def hard_files() -> list[str]:
    if not HARD.exists():
        return []
    with (HARD / "manifest.csv").open(encoding="utf-8") as file:
        return [row["file"] for row in csv.DictReader(file)]


def by_tensorflow(encoded: bytes) -> np.ndarray:
    return tf.io.decode_image(encoded, channels=3, expand_animations=False).numpy()


def by_pillow(path: Path) -> Image.Image:
    with warnings.catch_warnings(action="ignore"):
        return ImageOps.exif_transpose(Image.open(path))


def saved(tmp_path: Path, picture: Image.Image, kind: str, **options) -> Path:
    path = tmp_path / "picture"
    picture.save(path, kind, **options)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(pictures.BadPicture) as caught:
        pictures.encode(path)
    reason = str(caught.value)
    assert "\n" not in reason
    assert str(path) not in reason
    return reason


def test_hard_files_are_at_hand():
    if not HARD.exists():
        pytest.skip(f"no hard files at {HARD}")
    assert len(hard_files()) == 92
    assert set(hard_files()) >= UNCHANGED | set(REFUSED)


@pytest.mark.parametrize("name", hard_files())
def test_a_hard_file_is_refused_or_decodes_alike(name):
    path = HARD / name
    if name in REFUSED:
        assert REFUSED[name] in refusal(path)
        return
    encoded = pictures.encode(path)
    assert (encoded == path.read_bytes()) == (name in UNCHANGED)
    assert encoded.startswith((b"\xff\xd8", b"\x89PNG"))
    upright = by_pillow(path)
    assert by_tensorflow(encoded).shape == (upright.height, upright.width, 3)
    if upright.mode in ("RGB", "L", "CMYK") and not upright.has_transparency_data:
        expected = np.asarray(upright.convert("RGB"), np.float32)
        assert np.abs(by_tensorflow(encoded) - expected).mean() < 6


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("PNG", {"bits": 8})],
)
def test_a_plain_photograph_keeps_its_bytes(tmp_path, picture, mode, kind, options):
    path = saved(tmp_path, picture.convert(mode), kind, **options)
    assert pictures.encode(path) == path.read_bytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_is_made_upright(tmp_path, picture, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, picture, kind, exif=exif)
    encoded = pictures.encode(path)
    expected = np.asarray(by_pillow(path), np.float32)
    assert np.abs(by_tensorflow(encoded) - expected).mean() < 3
    stored = Image.open(io.BytesIO(encoded))
    assert stored.getexif().get(0x0112, 1) not in range(2, 9)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, kind):
    values = np.linspace(0, 65535, 2400).astype(np.uint16).reshape(40, 60)
    encoded = pictures.encode(saved(tmp_path, Image.fromarray(values), kind))
    np.testing.assert_array_equal(by_tensorflow(encoded)[..., 0], values >> 8)


def test_a_16_bit_transparent_grey_becomes_white(tmp_path):
    values = np.full((40, 60), 5000, np.uint16)
    values[:20] = 300
    path = saved(tmp_path, Image.fromarray(values), "PNG", transparency=300)
    pixels = by_tensorflow(pictures.encode(path))
    assert (pixels[:20] == 255).all()
    assert (pixels[20:] == 5000 >> 8).all()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_unknown_range_are_refused(tmp_path, picture, mode):
    path = saved(tmp_path, picture.convert("L").convert(mode), "TIFF")
    assert "32-bit pixels" in refusal(path)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_become_white(tmp_path, picture, mode):
    picture = picture.convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, 30, 40))
    if mode == "LA":
        picture = picture.convert("LA")
    if mode == "P":
        picture = picture.quantize(4)
    pixels = by_tensorflow(pictures.encode(saved(tmp_path, picture, "PNG")))
    assert (pixels[:, :30] == 255).all()
    assert not (pixels[:, 30:] == 255).any()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_picture_counts(tmp_path, picture, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    others = [ImageOps.invert(picture)] * 2
    path = saved(
        tmp_path, picture, kind, save_all=True, append_images=others, **options
    )
    encoded = pictures.encode(path)
    assert encoded.startswith(b"\x89PNG")
    np.testing.assert_array_equal(by_tensorflow(encoded), RED_AND_BLUE)
    assert getattr(Image.open(io.BytesIO(encoded)), "n_frames", 1) == 1


@pytest.mark.parametrize(
    ("kind", "options", "start"),
    [
        ("TIFF", {}, b"\x89PNG"),
        ("BMP", {}, b"\x89PNG"),
        ("WEBP", {"lossless": True}, b"\x89PNG"),
        ("WEBP", {"quality": 90}, b"\xff\xd8"),
    ],
)
def test_what_was_lossless_stays_so(tmp_path, picture, kind, options, start):
    path = saved(tmp_path, picture, kind, **options)
    encoded = pictures.encode(path)
    assert encoded.startswith(start)
    if start == b"\x89PNG":
        np.testing.assert_array_equal(by_tensorflow(encoded), RED_AND_BLUE)


def test_what_is_encoded_anew_carries_pixels_only(tmp_path, picture):
    picture = picture.quantize(4)
    path = saved(tmp_path, picture, "PNG", icc_profile=b"a profile", dpi=(300, 300))
    assert not Image.open(io.BytesIO(pictures.encode(path))).info


@pytest.mark.parametrize("kind", ["PDF", "EPS", "JPEG2000", "ICO"])
def test_other_kinds_are_refused(tmp_path, picture, kind):
    assert "not a whole JPEG" in refusal(saved(tmp_path, picture, kind))


def test_size_is_judged_before_pixels_are_decoded(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("1", (9000, 9000)), "PNG")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    assert "32,000,000 pixels" in refusal(path)


def test_a_file_that_is_too_long_is_not_read(tmp_path):
    with (tmp_path / "long.jpg").open("wb") as file:
        file.truncate(10**9)  # a hole; takes no room on the disk
    assert "128,000,000 bytes" in refusal(tmp_path / "long.jpg")


def test_files_that_cannot_be_read_are_refused(tmp_path):
    assert "No such file" in refusal(tmp_path / "gone.jpg")
    assert "directory" in refusal(tmp_path)


def test_what_pillow_forgives_but_tensorflow_does_not_is_encoded_anew(
    tmp_path, picture
):
    path = saved(tmp_path, picture, "JPEG")
    # A segment in the middle of the pixels that claims to be longer than the file.
    damaged = bytearray(path.read_bytes())
    damaged[-40:-36] = b"\xff\xe9\xff\xf0"
    path.write_bytes(damaged)
    assert by_pillow(path).size == picture.size
    with pytest.raises(tf.errors.InvalidArgumentError):
        by_tensorflow(bytes(damaged))
    assert by_tensorflow(pictures.encode(path)).shape == RED_AND_BLUE.shape

    path = saved(tmp_path, picture, "PNG")
    path.write_bytes(path.read_bytes()[:-12])  # without its last chunk
    with pytest.raises(tf.errors.InvalidArgumentError):
        by_tensorflow(path.read_bytes())
    np.testing.assert_array_equal(by_tensorflow(pictures.encode(path)), RED_AND_BLUE)


@pytest.mark.parametrize("what", ["a second header", "an unknown chunk"])
def test_chunks_of_a_png_that_only_pillow_passes_over(tmp_path, picture, what):
    path = saved(tmp_path, picture, "PNG")
    whole = path.read_bytes()
    chunk = whole[12:29] if what == "a second header" else b"ABCDxx"
    length, checksum = len(chunk) - 4, zlib.crc32(chunk)
    more = struct.pack(">I", length) + chunk + struct.pack(">I", checksum)
    path.write_bytes(whole[:33] + more + whole[33:])
    with pytest.raises(tf.errors.InvalidArgumentError):
        by_tensorflow(path.read_bytes())
    np.testing.assert_array_equal(by_tensorflow(pictures.encode(path)), RED_AND_BLUE)


def test_a_side_that_is_too_long_for_a_png(tmp_path):
    assert "more than 1,000,000 pixels" in refusal(
        saved(tmp_path, Image.new("1", (1_000_001, 2)), "TIFF")
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF"])
def test_random_damage_is_refused_or_decodes(tmp_path, picture, kind):
    whole = saved(tmp_path, picture, kind).read_bytes()
    path, rng = tmp_path / "damaged", random.Random(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(
            whole[: rng.choice([len(whole), rng.randrange(len(whole))])]
        )
        for _ in range(rng.randrange(4)):
            if damaged:
                damaged[rng.randrange(len(damaged))] = rng.choice(
                    [255, rng.randrange(256)]
                )
        path.write_bytes(damaged)
        try:
            by_tensorflow(pictures.encode(path))
        except pictures.BadPicture:
            refused += 1
    assert 0 < refused < 150


def test_what_is_not_made_small_has_the_same_pixels(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.tile(RED_AND_BLUE, (20, 20, 1))), "TIFF")
    small, large = pictures.encode(path), pictures.encode(path, compress=False)
    assert len(small) < len(large)
    np.testing.assert_array_equal(by_tensorflow(small), by_tensorflow(large))


def test_threads_agree_and_leave_the_warning_filters_alone():
    if not HARD.exists():
        pytest.skip(f"no hard files at {HARD}")
    paths = [HARD / name for name in hard_files()]

    def outcome(path: Path) -> bytes | str:
        try:
            return pictures.encode(path)
        except pictures.BadPicture as error:
            return str(error)

    filters = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(outcome, paths))
    assert warnings.filters == filters
    assert together == [outcome(path) for path in paths]
