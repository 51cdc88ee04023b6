"""One decoding: the same picture by path, as bytes, as a PIL image and as an array gives the same pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from vacsr_jax.data.decoding import decode_image, decode_picture, to_rgb
from vacsr_jax.data.picture_files import readable_formats
from vacsr_jax.data.preprocess import preprocess

RNG = np.random.default_rng(0)
SMOOTH = Image.fromarray(RNG.integers(0, 256, (5, 4, 3), np.uint8)).resize((40, 50), Image.Resampling.BICUBIC)
ORIENTATION = 0x0112


def exif(orientation):
    data = Image.Exif()
    data[ORIENTATION] = orientation
    return data


def sixteen_bit(kind):
    ramp = np.linspace(0, 65535, 30).reshape(5, 6)
    return Image.fromarray(ramp.astype(np.uint16 if kind == "I;16" else np.int32))


def palette_with_transparency():
    image = SMOOTH.quantize(8)
    image.info["transparency"] = bytes([0, 128, *[255] * 6])
    return image


def half_transparent():
    image = SMOOTH.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def frames(mode):
    return [Image.new(mode, (9, 8), color) for color in ("red", "blue", "lime")]


# Name -> how the file is written: image, format, options.
FILES = {
    **{f"EXIF {i} JPEG": (SMOOTH, "JPEG", {"exif": exif(i)}) for i in range(1, 9)},
    **{f"EXIF 6 {kind}": (SMOOTH, kind, {"exif": exif(6)}) for kind in ("PNG", "WEBP", "TIFF")},
    "EXIF 6 MPO": (SMOOTH, "MPO", {"exif": exif(6), "save_all": True, "append_images": [SMOOTH.rotate(90)]}),
    "EXIF 6 RGBA": (half_transparent(), "PNG", {"exif": exif(6)}),
    "16-bit PNG": (sixteen_bit("I;16"), "PNG", {}),
    "16-bit TIFF": (sixteen_bit("I;16"), "TIFF", {}),
    "32-bit TIFF of 16 bits": (sixteen_bit("I"), "TIFF", {}),
    "CMYK JPEG": (SMOOTH.convert("CMYK"), "JPEG", {}),
    "CMYK TIFF": (SMOOTH.convert("CMYK"), "TIFF", {}),
    "palette": (SMOOTH.quantize(9), "PNG", {}),
    "palette with transparency": (palette_with_transparency(), "PNG", {}),
    "grey with a transparent level": (SMOOTH.convert("L"), "PNG", {"transparency": 90}),
    "RGB with a transparent colour": (SMOOTH, "PNG", {"transparency": SMOOTH.getpixel((0, 0))}),
    "LA": (half_transparent().convert("LA"), "PNG", {}),
    "RGBA": (half_transparent(), "PNG", {}),
    "RGBA WebP": (half_transparent(), "WEBP", {"lossless": True}),
    "1 bit": (SMOOTH.convert("1"), "PNG", {}),
    "animated GIF": (frames("RGB")[0], "GIF", {"save_all": True, "append_images": frames("RGB")[1:]}),
    "animated WebP": (frames("RGB")[0], "WEBP", {"save_all": True, "append_images": frames("RGB")[1:]}),
    "animated PNG": (frames("RGBA")[0], "PNG", {"save_all": True, "append_images": frames("RGBA")[1:]}),
    "several pages": (frames("RGB")[0], "TIFF", {"save_all": True, "append_images": frames("RGB")[1:]}),
    "BMP": (SMOOTH, "BMP", {}),
}


def encoded(name):
    image, kind, options = FILES[name]
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("name", FILES)
def test_every_way_to_give_a_picture_gives_the_same_pixels(name, tmp_path):
    data = encoded(name)
    (tmp_path / "x").write_bytes(data)
    expected = decode_image(tmp_path / "x")
    assert expected.dtype == np.uint8
    assert expected.ndim == 3
    ways = {
        "str": str(tmp_path / "x"),
        "bytes": data,
        "bytearray": bytearray(data),
        "file": io.BytesIO(data),
        "opened": Image.open(io.BytesIO(data)),
        "array": expected,
    }
    ways["loaded"] = Image.open(tmp_path / "x")
    ways["loaded"].load()
    for way, given in ways.items():
        np.testing.assert_array_equal(decode_image(given), expected, err_msg=way)
        np.testing.assert_array_equal(decode_image(decode_picture(given)), expected, err_msg=f"{way}, twice")
    squares = [preprocess(x, image_size=16) for x in (ways["opened"], expected, decode_picture(tmp_path / "x"))]
    np.testing.assert_array_equal(squares[0], squares[1])
    np.testing.assert_array_equal(squares[0], squares[2])
    ways["loaded"].close()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_is_what_the_camera_meant(orientation):
    """Against the definition in the EXIF standard: where row 0 and column 0 of the stored picture are shown."""
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    shown = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.T,
        6: stored.T[:, ::-1],
        7: stored.T[::-1, ::-1],
        8: stored.T[::-1],
    }[orientation]
    buffer = io.BytesIO()
    Image.fromarray(stored).save(buffer, "PNG", exif=exif(orientation))
    np.testing.assert_array_equal(decode_image(Image.open(buffer))[..., 0], shown)


def test_a_picture_that_was_opened_as_grey_of_16_bits_is_not_white():
    buffer = io.BytesIO(encoded("16-bit PNG"))
    np.testing.assert_allclose(to_rgb(Image.open(buffer)).convert("L"), np.linspace(0, 255, 30).reshape(5, 6), atol=1)


@pytest.mark.parametrize("value", [0, 9, 77, "6", b"\x06"])
def test_an_orientation_that_does_not_exist_changes_nothing(value, monkeypatch):
    monkeypatch.setattr(Image.Image, "getexif", lambda self: {ORIENTATION: value})
    assert decode_image(SMOOTH).shape in ((50, 40, 3), (40, 50, 3) if value == "6" else ())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_picture():
    for damage in (b"MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 10, b"MM", b"no exif at all", b"II*\0\xff\xff\xff\xff"):
        buffer = io.BytesIO()
        SMOOTH.save(buffer, "JPEG", exif=b"Exif\0\0" + damage)
        assert decode_image(buffer.getvalue()).shape == (50, 40, 3)


def test_the_current_frame_of_an_open_animation_is_taken():
    image = Image.open(io.BytesIO(encoded("animated WebP")))
    image.seek(1)
    assert decode_image(image)[4, 4].argmax() == 2  # blue
    assert decode_image(encoded("animated WebP"))[4, 4].argmax() == 0  # red


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA", "YCbCr", "HSV", "RGBX"])
def test_rare_modes_have_the_colours_of_rgb(mode):
    grey = Image.new("RGB", (6, 5), (90, 90, 90))
    through = {"La": "LA", "RGBa": "RGBA", "PA": "LA"}.get(mode)
    image = (grey.convert(through) if through else grey).convert(mode)
    assert image.mode == mode
    np.testing.assert_allclose(decode_image(image), np.full((5, 6, 3), 90), atol=1)


WRONG = {
    "floats in 0..1": (np.zeros((9, 8, 3), np.float32), "got float32 .* convert floats in 0 to 1 by"),
    "floats in 0..255": (np.full((9, 8, 3), 200.0), "got float64 .* floats in 0 to 255 without the factor"),
    "channels first": (np.zeros((3, 9, 8), np.uint8), r"channels come last: pass x.transpose\(1, 2, 0\)"),
    "float channels first": (np.zeros((3, 9, 8), np.float32), "channels come last"),
    "RGBA": (np.zeros((9, 8, 4), np.uint8), r"got uint8 \[9, 8, 4\], .* as a PIL image"),
    "16 bits": (np.zeros((9, 8), np.uint16), "got uint16 .* as a PIL image"),
    "several": (np.zeros((2, 9, 8, 3), np.uint8), "looks like several images"),
    "bool": (np.zeros((9, 8), bool), "got bool"),
    "objects": (np.array(["a.png"], object), "got object"),
    "vector": (np.zeros(9, np.uint8), r"got uint8 \[9\]"),
    "nothing": (None, "got NoneType, expected a PIL image or a uint8 array"),
    "number": (3, "got int"),
    "dict": ({"bytes": b"", "path": "a.png"}, "got dict"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_array_that_could_mean_several_pictures_is_refused_with_the_way_out(name):
    image, message = WRONG[name]
    with pytest.raises(ValueError, match=f"^image: {message}|^image: got .* {message}"):
        decode_image(image)


def test_the_way_out_works():
    rgba = np.asarray(half_transparent())
    np.testing.assert_array_equal(decode_image(Image.fromarray(rgba)), decode_image(half_transparent()))
    grey = np.asarray(sixteen_bit("I;16"))
    np.testing.assert_array_equal(decode_image(Image.fromarray(grey)), decode_image(sixteen_bit("I;16")))


class Tensor:
    """What a tensor of another library gives numpy."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        if self.array is None:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")
        return self.array


def test_tensors_are_arrays():
    import jax.numpy as jnp

    pixels = np.asarray(SMOOTH)
    np.testing.assert_array_equal(decode_image(Tensor(pixels)), pixels)
    np.testing.assert_array_equal(decode_image(jnp.asarray(pixels)), pixels)
    with pytest.raises(ValueError, match="channels come last"):
        decode_image(Tensor(pixels.transpose(2, 0, 1)))
    with pytest.raises(ValueError, match=r"got Tensor, which numpy cannot read .*Tensor.cpu"):
        decode_image(Tensor(None))


def test_torch_tensors_are_arrays():
    torch = pytest.importorskip("torch")
    pixels = np.array(SMOOTH)
    np.testing.assert_array_equal(decode_image(torch.from_numpy(pixels)), pixels)


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_new_formats_are_read_where_they_can_be(kind):
    if kind not in readable_formats():
        pytest.skip(f"{kind} cannot be decoded here")
    buffer = io.BytesIO()
    SMOOTH.save(buffer, kind, quality=95, exif=exif(6).tobytes())
    turned = decode_image(buffer.getvalue())
    assert turned.shape == (40, 50, 3)
    assert np.abs(turned.astype(int) - np.rot90(np.asarray(SMOOTH), -1)).mean() < 8


def test_postscript_is_not_opened():
    with pytest.raises(Exception, match="cannot identify"):
        decode_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n")
