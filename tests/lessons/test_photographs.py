"""Ten odd photographs: each gives a drawing of its own size, or one clear error; a folder goes on after a bad file."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from cop.__main__ import main
from cop.data.pictures import read
from cop.lessons import photographs, pipeline
from cop.profiles import smoke
from cop.show import overlay

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
    (drawn,), left_out = photographs.draw([path], profile)
    assert not left_out and drawn == tmp_path / f"{name}.order.png"
    photo, picture = read(path), Image.open(drawn)
    times = max(1, -(-overlay.SMALLEST * 8 // min(photo.size)))
    assert picture.mode == "RGB" and picture.size == (photo.width * times, photo.height * times)
    assert photographs.draw([tmp_path], profile) == ([drawn], {}), "a drawing is not taken for a photograph"


def test_orientation_is_applied(tmp_path, profile):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    path = save(tmp_path / "phone.jpg", Image.fromarray(pixels(80, 40, 3)), exif=exif)
    assert Image.open(photographs.draw([path], profile)[0][0]).size == (40, 80)


def test_a_film_strip_shows_what_had_been_seen_before_each_choice(tmp_path, profile):
    path = save(tmp_path / "photo.png", Image.fromarray(pixels(80, 64, 3)))
    assert main(["rank", str(path), "--profile", "smoke", "--order", "active", "--strip"]) == 0
    assert photographs.draw([tmp_path], profile, order="active", strip=True)[0] == [
        tmp_path / f"photo.png.order{end}" for end in (".png", ".strip.png")
    ], "neither is taken for a photograph"
    with pytest.raises(ValueError, match="leave out --no-crop"):
        photographs.draw([path], profile, strip=True, crop=False)
    strip = overlay.film_strip(Image.new("RGB", (64, 64), "red"), torch.arange(16), per_step=2, first=0.25, side=48)
    frames = np.asarray(strip)[:, [*range(48), *range(50, 98), *range(100, 148)]].reshape(48, 3, 48, 3)
    red = (frames == (255, 0, 0)).all(-1).sum((0, 2))
    assert strip.width == 148 and red.tolist() == [0, 2 * 144, 4 * 144], "before the first choice, before the second, at the end"
    assert (frames[:12, 1, 24] == 255).all() and not (frames[:, 2] == 255).all(-1).any(), "what is chosen next is framed"


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
        written, left_out = photographs.draw([tmp_path], profile, out=tmp_path / "drawn")
    assert [w.name for w in written] == ["b.png.order.png"] and list(left_out) == [tmp_path / "a.jpg"]
    assert len(caplog.messages) == 1 and "a.jpg" in caplog.text and "Expected a whole file" in caplog.text
    (tmp_path / "empty").mkdir()
    caplog.clear()
    written, left_out = photographs.draw([tmp_path / "nowhere.jpg", tmp_path / "empty", tmp_path / "b.png"], profile)
    assert written == [tmp_path / "b.png.order.png"] and len(left_out) == 2
    assert "no file or folder" in caplog.messages[0] and "no images in" in caplog.messages[1]


def test_photographs_of_one_name_have_drawings_of_their_own(tmp_path, profile, caplog):
    photos = [tmp_path / "a" / "IMG_0001.jpg", tmp_path / "b" / "c" / "IMG_0001.jpg", tmp_path / "b" / "x.png"]
    for i, photo in enumerate(photos):
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32 + 8 * i, 32)).save(photo)
    out, given = tmp_path / "out", [tmp_path / "a", photos[0], tmp_path / "b", tmp_path / "a" / ".." / "b" / "x.png"]
    written, left_out = photographs.draw(given, profile, out=out)
    assert [w.relative_to(out).as_posix() for w in written] == [
        "a/IMG_0001.jpg.order.png", "b/c/IMG_0001.jpg.order.png", "x.png.order.png"] and not left_out  # fmt: skip
    assert [Image.open(w).width for w in written] == [32, 40, 48] and "2 photographs are named" in caplog.text
    assert photographs.draw([tmp_path], profile, out=out)[0] == written, "nothing more is ranked in a second run"


def test_out_may_be_the_file_of_one_photograph(tmp_path, profile, capsys):
    photo, other = ODD["colour.jpg"](tmp_path / "photo.jpg"), ODD["grey.png"](tmp_path / "other.png")
    target, before = tmp_path / "new" / "result.png", other.read_bytes()
    for _ in range(2):  # a drawing may be replaced by the next one
        assert photographs.draw([photo], profile, out=target) == ([target], {}) and Image.open(target).size == (120, 90)
    written, _ = photographs.draw([tmp_path], profile)
    assert [w.name for w in written] == ["other.png.order.png", "photo.jpg.order.png"], "result.png is no photograph"
    command = ["rank", "--profile", "smoke", str(photo)]
    for more, message in (([str(other), "--out", str(target)], "is one file for 2 photographs; give a folder"),
                          (["--out", str(other)], "exists and is no drawing of this command"),
                          (["--out", str(photo)], "is a file; give a folder"),
                          (["--out", str(photo / "x")], "Not a directory")):  # fmt: skip
        assert main(command + more) == 2
        out, err = capsys.readouterr()
        assert not out and err.count("\n") == 1 and err.startswith("cop: ") and message in err and str(tmp_path) in err
    assert other.read_bytes() == before


def test_a_drawing_that_cannot_be_written_is_named_and_the_others_go_on(tmp_path, profile, monkeypatch, caplog):
    photos = [ODD["grey.png"](tmp_path / name) for name in ("a.png", "b.png", "c.png")]
    real = photographs.write

    def write(path, content):
        if path.name.startswith("b"):
            raise PermissionError(13, "Permission denied", str(path.with_name(".hidden.tmp")))
        real(path, content)

    monkeypatch.setattr(photographs, "write", write)
    written, left_out = photographs.draw(photos, profile)
    assert [w.name for w in written] == ["a.png.order.png", "c.png.order.png"] and list(left_out) == [photos[1]]
    assert caplog.messages == [f"cannot write {photos[1]}.order.png, the drawing of {photos[1]}: Permission denied; give --out "
                               "another folder"]  # fmt: skip


def test_command_line(tmp_path, profile, capsys):
    path = ODD["colour.jpg"](tmp_path / "photo.jpg")
    assert main(["rank", str(path), "--profile", "smoke"]) == 0
    assert capsys.readouterr().out.strip() == f"{path}.order.png"
    (tmp_path / "below").mkdir()
    ODD["grey.png"](tmp_path / "below" / "deep.png")
    (tmp_path / "link.jpg").symlink_to("nowhere.jpg")
    assert main(["rank", str(tmp_path), "--profile", "smoke"]) == 1
    out, err = capsys.readouterr()
    assert out.split() == [f"{tmp_path}/below/deep.png.order.png", f"{path}.order.png"]
    assert err.endswith("cop: 2 drawn, 1 left out\n")
    assert main(["rank", str(tmp_path / "none.jpg"), "--profile", "smoke"]) == 2
    assert capsys.readouterr().out == ""


def test_a_cache_that_is_a_file_is_one_line(tmp_path, capsys, monkeypatch):
    path, cache = ODD["grey.png"](tmp_path / "photo.png"), tmp_path / "cache"
    cache.write_text("a file")
    monkeypatch.setenv("COP_CACHE", str(cache))
    assert main(["rank", str(path), "--profile", "smoke"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cop: ")]
    assert len(lines) == 1 and f"{cache}: is a file; expected the folder" in lines[0]
