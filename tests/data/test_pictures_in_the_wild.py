"""Pictures as people have them: turned, deep, in any format, behind links; read right, or said to be left out."""

import base64
import io
import os
import resource
import struct
import zlib

import numpy as np
import pytest
import torch
from pictures import picture
from PIL import Image, features

from vpr_lib.data import images as images_module
from vpr_lib.data.audit import inspect_file
from vpr_lib.data.images import ImageError, InputSpec, load_image, read_image
from vpr_lib.data.pixels import to_8_bits
from vpr_lib.data.readers.image_files import IMAGE_SUFFIXES, list_images
from vpr_lib.models.zoo import build_model
from vpr_lib.widgets.thumbnails import thumbnail

GREY = np.linspace(0, 255, 60 * 40).reshape(40, 60).round().astype(np.uint8)


def pixels_of(path, **options):
    return read_image(path, **options).permute(1, 2, 0).numpy()


def close(found, expected, off=1):
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= off


# ---- orientation

TURNS = {  # EXIF orientation -> how a program shows the stored frame
    2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1], 5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a.transpose(1, 0, 2), 2), 8: lambda a: np.rot90(a, 1),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", TURNS)
def test_every_orientation_is_turned_upright(tmp_path, orientation, kind):
    stored, exif = picture(3, 20, 40), Image.Exif()
    exif[274] = orientation
    path, plain = tmp_path / f"turned.{kind}", tmp_path / f"plain.{kind}"
    options = {"lossless": True} if kind == "webp" else {}
    Image.fromarray(stored).save(path, exif=exif, **options)
    Image.fromarray(stored).save(plain, **options)
    frame = pixels_of(plain)
    close(pixels_of(path), TURNS[orientation](frame), off=2)
    if kind != "tif":  # PIL turns those itself
        close(pixels_of(path, upright=False), frame)
        assert "turned by its EXIF orientation" in inspect_file(str(path))[5]


@pytest.mark.parametrize("orientation", [0, 1, 9, 77])
def test_no_orientation_changes_nothing(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(picture(3, 20, 40)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (3, 20, 40)


def test_the_raw_frame_is_an_option_of_the_input_and_so_of_the_key(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(picture(3, 20, 40)).save(tmp_path / "a.jpg", exif=exif)
    upright, raw = InputSpec((20, 40)), InputSpec((20, 40), upright=False)
    assert not torch.equal(load_image(tmp_path / "a.jpg", upright), load_image(tmp_path / "a.jpg", raw))
    assert f"{upright}" != f"{raw}"
    model = build_model("pixels")
    model.config = model.config.model_copy(update={"upright": False})
    assert not model.input_spec.upright and not model.query_spec.upright


# ---- more than 8 bits


@pytest.mark.parametrize(("bits", "factor"), [(10, 4), (12, 16), (14, 64), (16, 257)])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_cameras_that_store_their_bits_unscaled(tmp_path, bits, factor, suffix):
    Image.fromarray(GREY.astype(np.uint16) * factor).save(tmp_path / f"a.{suffix}")
    found = pixels_of(tmp_path / f"a.{suffix}")
    close(found, np.repeat(GREY[..., None], 3, 2))
    assert len(np.unique(found)) > 250


@pytest.mark.parametrize(("start", "step"), [(21_000, 1), (29_315, 2), (7_000, 3), (0, 1)])
def test_thermal_counts_keep_their_levels(tmp_path, start, step):
    Image.fromarray(GREY.astype(np.uint16) * step + start).save(tmp_path / "a.png")
    close(pixels_of(tmp_path / "a.png")[..., 0], GREY)


@pytest.mark.parametrize(
    ("dtype", "scale", "shift"),
    [
        (np.float32, 1, 0), (np.float32, 1 / 255, 0), (np.float32, 100, 0), (np.float32, 1, -128), (np.float32, 0.01, 7),
        (np.int32, 1, 0), (np.int32, 257, 0), (np.int32, 1, -128), (np.int32, 1000, -50_000), (np.int32, 1000, 0),
    ],
)  # fmt: skip
def test_floating_point_and_signed_tiff(tmp_path, dtype, scale, shift):
    Image.fromarray((GREY.astype(np.float64) * scale + shift).astype(dtype)).save(tmp_path / "a.tif")
    close(pixels_of(tmp_path / "a.tif")[..., 0], GREY)  # nothing wraps round


def test_pixels_that_are_no_numbers():
    values = GREY.astype(np.float32) / 255
    values[0, 0], values[1, 1] = np.nan, np.inf
    assert len(np.unique(to_8_bits(values))) > 250
    with pytest.raises(ValueError, match="no pixel is a finite number"):
        to_8_bits(np.full((3, 3), np.nan, np.float32))


def test_flat_pictures():
    assert (
        to_8_bits(np.zeros((2, 2), np.uint16)).max() == 0 and to_8_bits(np.full((2, 2), 65_535, np.uint16)).min() == 255
    )
    assert to_8_bits(np.full((2, 2), -5, np.int32)).max() == 0


@pytest.mark.parametrize("orientation", [1, 6])
def test_twelve_bits_in_sixteen_bit_colours(tmp_path, orientation):
    rgb = picture(5, 8, 9).astype(np.uint16) * 16
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rgb)
    chunk = lambda name, data: struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    header = struct.pack(">IIBBBBB", 9, 8, 16, 2, 0, 0, 0)
    exif = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 274, 3, 1, orientation, 0, 0)
    parts = {b"IHDR": header, b"eXIf": exif, b"IDAT": zlib.compress(rows), b"IEND": b""}
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts.items()))
    close(pixels_of(tmp_path / "a.png", upright=False), picture(5, 8, 9))
    close(pixels_of(tmp_path / "a.png"), TURNS.get(orientation, np.asarray)(picture(5, 8, 9)))


def tiff(path, values, order, orientation=1, compressed=False):
    """A TIFF of 16-bit colours (H, W, 3), as cameras write and PIL does not."""
    rows = values.astype(f"{order}u2").tobytes()
    rows = zlib.compress(rows) if compressed else rows
    tags = {256: (3, values.shape[1]), 257: (3, values.shape[0]), 258: (3, 16, 16, 16), 259: (3, 8 if compressed else 1),
            262: (3, 2), 273: (4, 8), 274: (3, orientation), 277: (3, 3), 278: (3, values.shape[0]), 279: (4, len(rows))}  # fmt: skip
    bits = 8 + len(rows)
    entries = b""
    for tag, (kind, *numbers) in tags.items():
        cell = (
            struct.pack(f"{order}I", bits)
            if len(numbers) > 1
            else struct.pack(f"{order}{'HxxI'[:3] if kind == 3 else 'I'}", *numbers)
        )
        entries += struct.pack(f"{order}HHI", tag, kind, len(numbers)) + cell
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", bits + 6)
    path.write_bytes(start + rows + struct.pack(f"{order}HHHH", 16, 16, 16, len(tags)) + entries + bytes(4))
    return path


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("factor", [16, 64, 257])
def test_sixteen_bit_colours_of_a_tiff(tmp_path, order, compressed, orientation, factor):
    stored = picture(5, 8, 9).copy()
    stored[0, 0] = 255
    path = tiff(tmp_path / "a.tif", stored.astype(np.uint16) * factor, order, orientation, compressed)
    close(pixels_of(path), TURNS.get(orientation, np.asarray)(stored))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["L", "I;16", "RGB", "RGBA", "F"])
def test_turned_tiffs_that_are_not_compressed(tmp_path, mode, orientation):
    stored, exif, turn = picture(3, 20, 40), Image.Exif(), TURNS.get(orientation, np.asarray)
    exif[274] = orientation
    if mode in ("L", "I;16", "F"):
        stored = np.repeat(stored[..., :1], 3, 2)
    made = {"L": stored[..., 0], "I;16": stored[..., 0].astype(np.uint16) * 257, "F": stored[..., 0].astype(np.float32),
            "RGB": stored, "RGBA": np.dstack([stored, np.full((20, 40), 255, np.uint8)])}[mode]  # fmt: skip
    Image.fromarray(made).save(tmp_path / "a.tif", exif=exif)
    close(pixels_of(tmp_path / "a.tif"), turn(stored))
    page = Image.open(io.BytesIO(base64.b64decode(thumbnail(str(tmp_path / "a.tif"), 20).split(",")[1])))
    small = Image.fromarray(np.ascontiguousarray(turn(stored))).resize(page.size, Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(page.convert("L")).astype(int) - np.asarray(small.convert("L"))).mean() < 10


def grey_tiff(path, values, order="<", photometric=1, bits=16):
    """A TIFF of one sample as scanners write and PIL does not."""
    tags = {256: values.shape[1], 257: values.shape[0], 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: values.shape[0],
            279: values.nbytes}  # fmt: skip
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, number) for tag, number in tags.items())
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8 + values.nbytes)
    path.write_bytes(start + values.tobytes() + struct.pack(f"{order}H", len(tags)) + entries + bytes(4))
    return path


def test_a_tiff_whose_white_is_zero_and_one_without_sign(tmp_path):
    close(pixels_of(grey_tiff(tmp_path / "a.tif", 65_535 - GREY.astype("<u2") * 257, photometric=0))[..., 0], GREY)
    close(pixels_of(grey_tiff(tmp_path / "b.tif", GREY.astype("<u4") * 16_843_009, bits=32))[..., 0], GREY)


def test_sixteen_bits_in_separate_planes_are_refused(tmp_path):
    tiff(tmp_path / "a.tif", picture(5, 8, 9).astype(np.uint16) * 257, "<")
    data, offsets = (tmp_path / "a.tif").read_bytes(), struct.pack("<III", 8, 152, 296)
    data = data.replace(struct.pack("<HHII", 273, 4, 1, 8), struct.pack("<HHII", 273, 4, 3, len(data)))
    lengths = struct.pack("<III", 144, 144, 144)
    data = data.replace(struct.pack("<HHII", 279, 4, 1, 432), struct.pack("<HHII", 279, 4, 3, len(data) + 12))
    data = data.replace(struct.pack("<HHIHxx", 274, 3, 1, 1), struct.pack("<HHIHxx", 284, 3, 1, 2))
    (tmp_path / "a.tif").write_bytes(data + offsets + lengths)
    with pytest.raises(ImageError, match="more than 8 bits in separate planes"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("alpha", [0, 1, 128, 255])
@pytest.mark.parametrize("suffix", ["png", "webp", "tga"])
def test_one_transparency_over_a_whole_picture_says_nothing(tmp_path, alpha, suffix):
    image = Image.fromarray(picture(3))
    image.putalpha(alpha)
    image.save(tmp_path / f"a.{suffix}", **({"lossless": True, "exact": True} if suffix == "webp" else {}))
    close(pixels_of(tmp_path / f"a.{suffix}"), picture(3))


@pytest.mark.parametrize("suffix", ["png", "webp", "avif", "jpg"])
def test_an_unfinished_copy_is_damaged(tmp_path, suffix):
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(picture(3, 120, 160)).save(path)
    data = path.read_bytes()
    path.write_bytes(data + bytes(64) if suffix != "avif" else data)  # what is appended does no harm
    assert read_image(path).shape == (3, 120, 160)
    path.write_bytes(data[: len(data) * 2 // 3] + bytes(len(data) - len(data) * 2 // 3))
    with pytest.raises(ImageError, match="damaged"):
        read_image(path)
    assert "damaged" in inspect_file(str(path))[-1]


# ---- formats


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_listed_suffix_is_read(tmp_path, suffix):
    kinds = {".jfif": "JPEG", ".jpe": "JPEG", ".apng": "PNG", ".hif": "HEIF", ".heic": "HEIF", ".heif": "HEIF", ".dib": "DIB",
             ".jpx": "JPEG2000", ".j2k": "JPEG2000", ".jp2": "JPEG2000", ".mpo": "MPO", ".pbm": "PPM", ".pnm": "PPM"}  # fmt: skip
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    path = tmp_path / f"a{suffix.upper()}"
    images_module.know_heif(path)
    image = Image.fromarray(picture(2, 48, 64))
    (image.convert("1") if suffix == ".pbm" else image).save(path, kinds.get(suffix))
    assert list_images(tmp_path) == [path.name]
    if suffix not in (".pbm", ".gif"):
        assert np.abs(pixels_of(path).astype(int) - picture(2, 48, 64)).mean() < 12
    assert read_image(path).shape == (3, 48, 64)
    assert inspect_file(str(path))[3:5] == (64, 48)


def test_what_nothing_decodes_is_counted(tmp_path, caplog):
    for name in ("a.png", "b.NEF", "c.nef", "d.mp4", "notes.txt", ".hidden.cr2"):
        (tmp_path / name).write_bytes(b"x")
    assert list_images(tmp_path) == ["a.png"]
    assert "3 files are left out, for nothing here decodes them: .mp4 1, .nef 2" in caplog.text


def test_the_announced_pixel_limit_is_the_one_that_acts(tmp_path, monkeypatch):
    assert Image.MAX_IMAGE_PIXELS == images_module.MAX_PIXELS
    monkeypatch.setattr(images_module, "MAX_PIXELS", 100)
    Image.fromarray(picture(0)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="64x48 pixels, more than the limit of 100"):
        read_image(tmp_path / "a.png")


# ---- folders


def test_links_are_followed_once(tmp_path):
    for name in ("real/a.png", "elsewhere/sub/b.png", "elsewhere/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(0)).save(tmp_path / name)
    (tmp_path / "real/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "real/file.png").symlink_to(tmp_path / "elsewhere/c.png")
    (tmp_path / "real/up").symlink_to(tmp_path / "real")  # a circle
    (tmp_path / "real/gone").symlink_to(tmp_path / "nothing")
    assert list_images(tmp_path / "real") == ["a.png", "file.png", "link/c.png", "link/sub/b.png"]
    (tmp_path / "top").symlink_to(tmp_path / "real")
    assert len(list_images(tmp_path / "top")) == 4


def test_a_name_that_is_not_utf8_is_named(tmp_path):
    open(os.fsencode(str(tmp_path)) + b"/caf\xe9.png", "wb").close()
    with pytest.raises(ValueError, match=r"1 names are not UTF-8, for instance 'caf\\udce9\.png'"):
        list_images(tmp_path)


def test_too_many_open_files_is_no_damage(tmp_path):
    Image.fromarray(picture(0)).save(tmp_path / "a.png")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 200), hard))
        while True:
            try:
                held.append(open(os.devnull))  # noqa: SIM115
            except OSError:
                break
        with pytest.raises(OSError, match="this says nothing about the picture"):
            read_image(tmp_path / "a.png")
    finally:
        for file in held:
            file.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_link_to_nothing_is_missed_by_name(tmp_path):
    """As git-annex leaves pictures that were not fetched."""
    Image.fromarray(picture(1)).save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "objects" / "b")
    assert list_images(tmp_path) == ["a.png", "b.png"]
    with pytest.raises(ImageError, match=r"b\.png: no such file"):
        read_image(tmp_path / "b.png")


def test_a_folder_that_cannot_be_looked_into_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def guarded(place):
        if str(place).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(PermissionError, match="closed"):
        list_images(tmp_path)


# ---- JPEGs and their end

FILM = b"\0\0\0\x18ftypmp42" + b"\xff\xda\0\x03\0" * 9  # behind the pictures of a telephone; looks like a scan


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}])
@pytest.mark.parametrize("behind", [b"", FILM, FILM + bytes(20)])
def test_what_lies_behind_a_jpeg_is_no_damage(tmp_path, options, behind):
    Image.fromarray(picture(4, 90, 120)).save(tmp_path / "a.jpg", **options)
    plain = pixels_of(tmp_path / "a.jpg")
    with (tmp_path / "a.jpg").open("ab") as file:
        file.write(behind)
    assert inspect_file(str(tmp_path / "a.jpg"))[-1] == ""
    assert (pixels_of(tmp_path / "a.jpg") == plain).all()


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_jpeg_that_ends_in_zeros_is_no_picture(tmp_path, progressive, share):
    Image.fromarray(picture(4, 90, 120)).save(tmp_path / "a.jpg", progressive=progressive)
    data = (tmp_path / "a.jpg").read_bytes()
    kept = int(share * len(data))
    (tmp_path / "a.jpg").write_bytes(data[:kept] + bytes(len(data) - kept))
    with pytest.raises(ImageError, match=r"a\.jpg: damaged"):
        read_image(tmp_path / "a.jpg")
    assert "damaged" in inspect_file(str(tmp_path / "a.jpg"))[-1]
