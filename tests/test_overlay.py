"""Ten odd photographs: each gives a drawing of its own size, or one clear error; a folder goes on after a bad file."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from cop import overlay, pipeline
from cop.__main__ import main
from cop.images import read
from cop.profiles import smoke

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    """The smoke profile with a cache of its own, so that its CoMAE is trained once for this module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COP_CACHE", str(tmp_path_factory.mktemp("cache")))
        pipeline.comae(smoke)
        yield smoke


def pixels(width, height, *channels):
    return RNG.integers(0, 256, (height, width, *channels), dtype=np.uint8)


def save(path, image, **options):
    image.save(path, **options)
    return path


ODD = {
    "colour.jpg": lambda p: save(p, Image.fromarray(pixels(120, 90, 3))),
    "grey.png": lambda p: save(p, Image.fromarray(pixels(64, 64))),
    "sixteen_bit.png": lambda p: save(p, Image.fromarray(pixels(50, 40).astype(np.uint16) * 257)),
    "transparent.png": lambda p: save(p, Image.fromarray(pixels(70, 50, 4))),
    "palette.gif": lambda p: save(p, Image.fromarray(pixels(48, 60, 3)).quantize(16)),
    "cmyk.jpg": lambda p: save(p, Image.fromarray(pixels(60, 60, 4), "CMYK")),
    "panorama.webp": lambda p: save(p, Image.fromarray(pixels(900, 40, 3))),
    "one_pixel.bmp": lambda p: save(p, Image.fromarray(pixels(1, 1, 3))),
    "large.png": lambda p: save(p, Image.new("RGB", (5000, 4000), "teal"), compress_level=1),
    "bilevel.tif": lambda p: save(p, Image.fromarray(pixels(33, 47) > 127)),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_photographs_are_drawn_at_their_own_size(name, tmp_path, profile):
    path = ODD[name](tmp_path / name)
    (drawn,) = overlay.draw([path], profile)
    assert drawn == tmp_path / f"{name}.order.png"
    photo, picture = read(path), Image.open(drawn)
    times = max(1, -(-overlay.SMALLEST * 8 // min(photo.size)))
    assert picture.mode == "RGB" and picture.size == (photo.width * times, photo.height * times)
    assert overlay.draw([tmp_path], profile) == [drawn], "a drawing is not taken for a photograph"


def test_orientation_is_applied(tmp_path, profile):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    path = save(tmp_path / "phone.jpg", Image.fromarray(pixels(80, 40, 3)), exif=exif)
    assert Image.open(overlay.draw([path], profile)[0]).size == (40, 80)


def test_tints_and_frames_stand_where_the_ranking_says():
    photo = Image.new("RGB", (100, 64), "black")
    ranking = torch.tensor([2, 0, 1, 3])
    drawn = np.asarray(overlay.overlay(photo, ranking, first=0.25)).astype(int)
    assert (drawn[:, :18] == 0).all() and (drawn[:, 82:] == 0).all(), "outside the centre square nothing changes"
    square = drawn[:, 18:82]
    first, last = square[48, 16], square[48, 48]  # patch 2, lower left; patch 3, lower right
    assert first[0] > 100 and first[1] > 100 > first[2], "the first is yellow"
    assert last[2] > last[1] and (square[32, 5] == 255).all(), "the last is blue, and the first is framed"
    assert not (square[:32] == 255).all(-1).any()
    with pytest.raises(ValueError, match="ranking has 3 patches; expected a square number"):
        overlay.overlay(photo, torch.arange(3))


def test_a_bad_file_is_named_and_the_others_go_on(tmp_path, profile, caplog):
    ODD["grey.png"](tmp_path / "b.png")
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff not a photograph")
    with caplog.at_level(logging.ERROR):
        written = overlay.draw([tmp_path], profile, out=tmp_path / "drawn")
    assert [w.name for w in written] == ["b.png.order.png"]
    assert len(caplog.messages) == 1 and "a.jpg" in caplog.text and "Expected a whole file" in caplog.text
    with pytest.raises(FileNotFoundError, match="no file or folder .*nowhere.jpg"):
        overlay.draw([tmp_path / "nowhere.jpg"], profile)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no images in .*empty"):
        overlay.draw([tmp_path / "empty"], profile)


def test_command_line(tmp_path, profile, capsys):
    path = ODD["colour.jpg"](tmp_path / "photo.jpg")
    assert main(["rank", str(path), "--profile", "smoke"]) == 0
    assert capsys.readouterr().out.strip() == f"{path}.order.png"
    assert main(["rank", str(tmp_path / "none.jpg"), "--profile", "smoke"]) == 2
    assert "no file or folder" in capsys.readouterr().err
