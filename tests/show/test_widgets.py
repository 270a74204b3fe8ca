"""The panels of notebooks 3 and 5 without a browser: a control moves, the picture follows."""

import base64
import html
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from cop.data.images import ImageSet
from cop.orders import centre_out_order, random_order, raster_order
from cop.paper.cvit import CViT
from cop.show import figures, widgets
from cop.train.loop import seeded, seeded_build

G, N, B = 4, 16, 3


@pytest.fixture
def player():
    images = torch.rand(B, 8, 8, generator=seeded(0, 1)).numpy()
    orders = {"collapse": random_order(B, N, seeded(0, 2)), "random": random_order(B, N, seeded(0, 3)),
              "raster": raster_order(G), "mine": centre_out_order(G)}  # fmt: skip
    return widgets.OrderPlayer(images, orders, G, ["coat", "bag", "<b>boot</b>"])


@pytest.fixture
def slider():
    pixels = torch.randint(0, 256, (B, 1, 8, 8), generator=seeded(0, 4), dtype=torch.uint8)
    data = ImageSet(pixels, torch.tensor([0, 1, 2]), ["coat", "bag", "boot"], "test", "folder")
    sizes = {
        "img_size": 8,
        "patch_size": 2,
        "in_chans": 1,
        "num_classes": 3,
        "embed_dim": 8,
        "depth": 1,
        "num_heads": 2,
    }
    model = seeded_build(lambda: CViT(**sizes), 0)
    with torch.no_grad():
        model.head.weight.normal_(std=3, generator=seeded(0, 5))  # a fresh head is uniform, whatever it is shown
    return widgets.PatchSlider(model.eval(), data, random_order(B, N, seeded(0, 2)))


def picture(panel) -> np.ndarray:
    """What the live panel shows, as pixels."""
    data = re.search(r'src="data:image/png;base64,([^"]+)"', panel.live.children[-1].value)[1]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def alt(panel) -> str:
    return re.search(r'alt="([^"]*)"', panel.live.children[-1].value)[1]


@pytest.mark.parametrize("name, value, said", [
    ("seen", 9, "9 of 16"), ("left", "raster", "left in the order raster"), ("right", "mine", "right in the order mine"),
    ("image", 1, "bag")])  # fmt: skip
def test_every_control_of_the_player_changes_the_picture_and_its_alt_text(player, name, value, said):
    panel, before = player, picture(player)
    assert said not in alt(panel)
    panel.controls[name].value = value
    assert said in alt(panel)
    assert not np.array_equal(picture(panel), before)
    panel.controls[name].value = panel.start[name]
    assert np.array_equal(picture(panel), before), "the same values draw another picture"


def test_a_dropdown_changes_its_own_side_only(player):
    """The raster order's first patches are the top row, and the other side stays as it is."""
    before = picture(player)
    player.controls["left"].value = "raster"
    changed = (picture(player) != before).any((0, 2)).nonzero()[0] / before.shape[1]
    assert len(changed) and changed.max() < 0.5
    player.controls["left"].value, player.controls["right"].value = "collapse", "raster"
    changed = (picture(player) != before).any((0, 2)).nonzero()[0] / before.shape[1]
    assert len(changed) and changed.min() > 0.5


def test_two_orders_shows_the_seen_patches_and_frames_the_newest():
    image = np.zeros((8, 8))
    raster = raster_order(G).numpy()
    fig = figures.two_orders(image, [("raster", raster), ("mine", raster[::-1])], 5, G, "x")
    left, right = ((ax.images[0].get_array() == 0).all(-1)[::2, ::2].ravel() for ax in fig.axes)
    assert left.nonzero()[0].tolist() == [0, 1, 2, 3, 4] and right.nonzero()[0].tolist() == [11, 12, 13, 14, 15]
    frames = [ax.patches[-1].get_xy() for ax in fig.axes]
    assert frames == [(-0.5, 1.5), (5.5, 3.5)]
    none = figures.two_orders(image, [("mine", raster), ("mine", raster)], 0, G, "x")
    assert not any(ax.patches for ax in none.axes)


def test_the_slider_shows_what_the_classifier_says_of_just_these_patches(slider):
    for image, seen in ((0, 1), (2, 5), (2, 16)):
        before = picture(slider)
        slider.controls["image"].value, slider.controls["seen"].value = image, seen
        batch, label = slider.data.batch([image])
        with torch.no_grad():
            p = slider.model(batch, slider.ranking[image : image + 1, :seen]).softmax(-1)[0]
        name = slider.data.class_names
        assert alt(slider) == (f"Test image {image} ({name[int(label)]}) at its first {seen} of 16 patches; the classifier says "
                               f"{name[int(p.argmax())]}, {p.max():.0%}.")  # fmt: skip
        assert not np.array_equal(picture(slider), before)
        bars = [bar.get_width() for bar in slider.draw(image, seen).axes[1].patches]
        assert np.allclose(bars, p)


def test_the_guess_is_teal_if_right_and_pink_if_wrong(slider):
    for image in range(B):
        fig = slider.draw(image, 4)
        guess, label = int(slider.probabilities(image, 4).argmax()), image
        colours = [bar.get_facecolor() for bar in fig.axes[1].patches]
        expected = figures.TEAL if guess == label else figures.PINK
        assert colours[guess] == pytest.approx(tuple(int(expected[i : i + 2], 16) / 255 for i in (1, 3, 5)) + (1,))
        assert [t.get_fontweight() == "bold" for t in fig.axes[1].get_yticklabels()] == [i == label for i in range(B)]


def test_titles_are_text_not_markup(player):
    assert "coat" in alt(player)
    player.controls["image"].value = 2
    assert "<b>" not in player.live.children[-1].value and html.unescape(alt(player)).startswith("<b>boot</b> after")


@pytest.mark.parametrize("headless, views", [("0", False), ("1", True)])
def test_a_notebook_gets_the_controls_and_a_headless_run_the_picture(player, slider, monkeypatch, headless, views):
    monkeypatch.setenv("COP_PROGRESS", headless)
    for panel in (player, slider):
        data, metadata = panel._repr_mimebundle_()
        assert (widgets.VIEW in data) == views
        assert metadata["image/png"]["alt"] == data["text/plain"]
        png, size = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))), metadata["image/png"]
        assert png.width / png.height == pytest.approx(size["width"] / size["height"], rel=0.02)
        assert np.array_equal(np.asarray(png.convert("RGB")), picture(panel)), "the first live picture is another one"
        if views:
            assert data[widgets.VIEW]["model_id"] == panel.live.model_id


def test_without_ipywidgets_the_picture_is_there(player, monkeypatch):
    monkeypatch.setenv("COP_PROGRESS", "1")
    monkeypatch.setattr(widgets.importlib.util, "find_spec", lambda name: None)
    data, _ = player._repr_mimebundle_()
    assert set(data) == {"text/plain", "image/png"}


def test_play_and_slider_cover_every_number_of_patches(player, slider):
    for panel, fewest in ((player, 0), (slider, 1)):
        play, seen = panel.live.children[1].children
        assert (play.min, play.max, seen.min, seen.max) == (fewest, N, fewest, N)
        for k in (fewest, N):
            panel.controls["seen"].value = k
            assert f"{k} of 16" in alt(panel)


def test_bad_input_gives_one_clear_error(player, slider):
    images, titles = player.images, player.titles
    orders = {name: torch.from_numpy(r.copy()) for name, r in player.orders.items()}

    def build(**changed):
        widgets.OrderPlayer(**({"images": images, "orders": orders, "grid": G, "titles": titles} | changed))

    build()
    for match, changed in {
        "unknown order 'zigzag'; expected one of collapse, random, raster, mine": {"left": "zigzag"},
        "images are \\(3, 8, 8\\).*multiple of 3": {"grid": 3},
        "2 titles for 3 images": {"titles": ["a", "b"]},
        "image is 3; expected a number from 0 to 2": {"image": 3},
        "seen is 17; expected a number of patches from 0 to 16": {"seen": 17},
        "order 'mine' ranks 2 images, there are 3": {"orders": orders | {"mine": orders["mine"][:2]}},
        "repeats or misses a patch": {"orders": orders | {"mine": torch.zeros(N, dtype=torch.long)}},
    }.items():
        with pytest.raises(ValueError, match=match):
            build(**changed)
    for match, changed in {
        "seen is 0; expected a number of patches from 1 to 16": {"seen": 0},
        "image is -1; expected a number from 0 to 2": {"image": -1},
        "ranking is \\(2, 16\\) for 3 images": {"ranking": slider.ranking[:2]},
        "bad ranking of shape \\(3, 15\\)": {"ranking": slider.ranking[:, :15]},
    }.items():
        with pytest.raises(ValueError, match=match):
            widgets.PatchSlider(**({"model": slider.model, "data": slider.data, "ranking": slider.ranking} | changed))
