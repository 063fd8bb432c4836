"""Bad input and pixel parity: what PIL gives, or a clear message."""

import numpy as np
import pytest
import torch
from pictures import picture
from PIL import Image

from vpr_lib.data import images as module
from vpr_lib.data.images import ImageError, ImageSet, InputSpec, load_image, read_image, stack_images
from vpr_lib.data.readers.image_files import list_images


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "filter_"), [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)]
)
@pytest.mark.parametrize("size", [(112, 112), (20, 37), (48, 64)])
def test_resize_equals_pil_within_rounding(tmp_path, name, filter_, size):
    path = save(tmp_path / "a.jpg", picture(3), quality=90)
    ours = load_image(path, InputSpec(size, name)).permute(1, 2, 0).numpy().astype(int)
    theirs = np.asarray(Image.open(path).resize(size[::-1], filter_)).astype(int)
    assert np.abs(ours - theirs).max() <= 1


def test_shorter_side_keeps_the_aspect(tmp_path):
    path = save(tmp_path / "a.png", picture(0, 40, 100))
    assert load_image(path, InputSpec((80, 80), resize="shorter_side")).shape == (3, 80, 200)


def test_normalise_is_torchvisions(tmp_path):
    from torchvision.transforms.v2 import functional as v2

    spec, pixels = InputSpec(), torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    expected = v2.normalize(pixels.float() / 255, list(spec.mean), list(spec.std))
    torch.testing.assert_close(spec.normalise(pixels), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("mode", "value"),
    [("L", 77), ("1", 1), ("RGBA", (10, 20, 30, 255)), ("CMYK", (0, 0, 0, 0)), ("LA", (77, 255)), ("P", 5)],
)
def test_every_mode_becomes_rgb(tmp_path, mode, value):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new(mode, (6, 4), value).save(path)
    image = read_image(path)
    assert image.shape == (3, 4, 6) and image.dtype == torch.uint8


def test_transparency_lies_over_white_and_16_bit_is_scaled(tmp_path):
    Image.new("RGBA", (2, 2), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").unique().tolist() == [255]
    Image.fromarray(np.full((2, 2), 257 * 100, np.uint16)).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png").unique().tolist() == [100]


def test_one_pixel_is_an_image(tmp_path):
    path = save(tmp_path / "a.png", np.full((1, 1, 3), 9, np.uint8))
    assert load_image(path, InputSpec((8, 8))).unique().tolist() == [9]


def test_broken_files_say_what_is_wrong(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("hello")
    whole = save(tmp_path / "whole.jpg", picture(1, 200, 200))
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:1500])
    for name, message in [
        ("empty", "the file is empty"),
        ("text", "not an image"),
        ("cut", "damaged"),
        ("none", "no such file"),
    ]:
        with pytest.raises(ImageError, match=message):
            read_image(tmp_path / f"{name}.jpg")


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_have_pils_pixels(tmp_path, monkeypatch, subsampling, mode, progressive):
    path = tmp_path / "a.jpg"
    noisy = picture(2, 61, 83) // 2 + np.random.default_rng(0).integers(0, 128, (61, 83, 3), dtype=np.uint8)
    options = {} if mode == "L" else {"subsampling": subsampling}
    Image.fromarray(noisy).convert(mode).save(path, quality=87, progressive=progressive, **options)
    expected = np.asarray(Image.open(path).convert("RGB"))
    for decoder in (module.decode_jpeg, None):  # None: a torchvision without it
        monkeypatch.setattr(module, "decode_jpeg", decoder)
        pixels = read_image(path)
        assert np.array_equal(pixels.permute(1, 2, 0), expected) and pixels.stride()[0] == 1


def test_stacked_images_keep_their_memory_layout_and_values():
    images = [torch.randint(0, 256, (5, 7, 3), dtype=torch.uint8).permute(2, 0, 1) for _ in range(3)]
    stacked = stack_images(images)
    assert torch.equal(stacked, torch.stack(images)) and stacked.is_contiguous(memory_format=torch.channels_last)
    spec = InputSpec()
    assert torch.equal(spec.normalise(stacked), spec.normalise(torch.stack(images)))
    greys = stacked.float()
    spec.normalise(greys)
    assert torch.equal(greys, stacked.float())  # the input is left alone


def test_huge_images_are_refused_before_decoding(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_PIXELS", 100)
    with pytest.raises(ImageError, match="more than the limit"):
        read_image(save(tmp_path / "a.png", picture(0)))


def test_a_bad_file_does_not_stop_the_loader(tmp_path):
    (tmp_path / "bad.jpg").touch()
    good = save(tmp_path / "good.png", picture(0))
    images = ImageSet([tmp_path / "bad.jpg", good], InputSpec((8, 8)))
    assert isinstance(images[0][0], ImageError) and images[1][0].shape == (3, 8, 8)


def test_augmentation_depends_on_the_seed_alone(tmp_path):
    path = save(tmp_path / "a.png", picture(0))
    images = ImageSet([path], InputSpec((16, 16)), augment=lambda x: torch.randint_like(x, 256), keep=True)
    before = torch.random.get_rng_state()
    assert torch.equal(images[(0, 7)][0], images[(0, 7)][0])
    assert not torch.equal(images[(0, 7)][0], images[(0, 8)][0])
    assert torch.equal(before, torch.random.get_rng_state())


def test_listing_knows_suffixes_spaces_and_unicode(tmp_path):
    for name in ("b c.JPG", "ä.png", "sub/x.jpeg", ".hidden.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list_images(tmp_path) == ["b c.JPG", "sub/x.jpeg", "ä.png"]
    with pytest.raises(FileNotFoundError, match="No folder"):
        list_images(tmp_path / "absent")
