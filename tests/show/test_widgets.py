"""The panels of the notebooks without a browser: a control moves, the picture follows."""

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
from cop.paper.entropy import GaussianTokens
from cop.show import figures, figures_widgets, panel, widgets
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


@pytest.fixture
def entropies():
    """Patches in a ring, each correlated with its two neighbours."""
    step = torch.arange(N)
    apart = (step[:, None] - step).abs()
    cov = torch.eye(N) + 0.4 * (torch.minimum(apart, N - apart) == 1)
    return widgets.EntropyMap(GaussianTokens(torch.zeros(N, 1), cov, 0.1), np.zeros((8, 8)), "a ring", [3])


@pytest.fixture
def masks():
    """A target wants the patch after it in image 0, and the one after that in image 1."""
    see = lambda image, target: (np.eye(N)[(target + 1 + image) % N], np.full((2, 2), target / N))  # noqa: E731
    return widgets.MaskMap(see, np.zeros((2, 8, 8)), G, ["coat", "bag"])


@pytest.fixture
def looks():
    """One who expects grey and whose doubt is 1 at every patch not seen yet."""

    def think(image: int, seen: torch.Tensor):
        return np.full((8, 8), 0.5), np.where(np.isin(np.arange(N), seen), 0, 1.0)

    return widgets.LookPlayer(think, np.zeros((B, 8, 8)), random_order(B, N, seeded(0, 2)), ["coat", "bag", "boot"], 2)


def picture(shown) -> np.ndarray:
    """What the live panel shows, as pixels."""
    data = re.search(r'src="data:image/png;base64,([^"]+)"', shown.live.children[-1].value)[1]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def alt(shown) -> str:
    return re.search(r'alt="([^"]*)"', shown.live.children[-1].value)[1]


@pytest.mark.parametrize("name, value, said", [
    ("seen", 9, "9 of 16"), ("left", "raster", "left in the order raster"), ("right", "mine", "right in the order mine"),
    ("image", 1, "bag")])  # fmt: skip
def test_every_control_of_the_player_changes_the_picture_and_its_alt_text(player, name, value, said):
    before = picture(player)
    assert said not in alt(player)
    player.controls[name].value = value
    assert said in alt(player)
    assert not np.array_equal(picture(player), before)
    player.controls[name].value = player.start[name]
    assert np.array_equal(picture(player), before), "the same values draw another picture"


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
    fig = figures_widgets.two_orders([("raster", image, raster), ("mine", image, raster[::-1])], 5, G, "x")
    left, right = ((ax.images[0].get_array() == 0).all(-1)[::2, ::2].ravel() for ax in fig.axes)
    assert left.nonzero()[0].tolist() == [0, 1, 2, 3, 4] and right.nonzero()[0].tolist() == [11, 12, 13, 14, 15]
    frames = [ax.patches[-1].get_xy() for ax in fig.axes]
    assert frames == [(-0.5, 1.5), (5.5, 3.5)]
    none = figures_widgets.two_orders([("mine", image, raster)] * 2, 0, G, "x")
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
def test_a_notebook_gets_the_controls_and_a_headless_run_the_picture(
    player, slider, entropies, masks, monkeypatch, headless, views
):
    monkeypatch.setenv("COP_PROGRESS", headless)
    for shown in (player, slider, entropies, masks):
        data, metadata = shown._repr_mimebundle_()
        assert (panel.VIEW in data) == views
        assert metadata["image/png"]["alt"] == data["text/plain"]
        png, size = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))), metadata["image/png"]
        assert png.width / png.height == pytest.approx(size["width"] / size["height"], rel=0.02)
        assert np.array_equal(np.asarray(png.convert("RGB")), picture(shown)), "the first live picture is another one"
        if views:
            assert data[panel.VIEW]["model_id"] == shown.live.model_id


def test_without_ipywidgets_the_picture_is_there(player, monkeypatch):
    monkeypatch.setenv("COP_PROGRESS", "1")
    monkeypatch.setattr(panel.importlib.util, "find_spec", lambda name: None)
    data, _ = player._repr_mimebundle_()
    assert set(data) == {"text/plain", "image/png"}


def test_play_and_slider_cover_every_number_of_patches(player, slider):
    for shown, fewest in ((player, 0), (slider, 1)):
        play, seen = shown.live.children[1].children
        assert (play.min, play.max, seen.min, seen.max) == (fewest, N, fewest, N)
        for k in (fewest, N):
            shown.controls["seen"].value = k
            assert f"{k} of 16" in alt(shown)


def test_clicks_on_patches_add_and_release_them_and_the_map_shrinks(entropies):
    patches, model = entropies.live.children[0].children[0], entropies.model
    colour = [button.style.button_color for button in patches.children]
    patches.children[5].click()
    assert entropies.controls["seen"].value == (3, 5)
    known = torch.zeros(N, dtype=torch.bool)
    known[[3, 5]] = True
    left, alone = model.left(known), model.left(torch.zeros(N, dtype=torch.bool))
    assert left[[3, 5]].sum() == 0 and torch.allclose(left[[0, 8]], alone[[0, 8]]), (
        "far from the patches seen nothing changes"
    )
    assert 0 < left[4] < left[6] < alone[6], "between two seen neighbours less is left than beside one"
    order = torch.tensor([3, 5, *(k for k in range(N) if k not in (3, 5))])
    assert torch.isclose(left.sum(), model.sum_curve(order[None])[0, 2])
    told = (alone - left).sum() - alone[[3, 5]].sum()
    assert f"take {alone[[3, 5]].sum():.0f} nats with them and tell {told:.0f} about" in alt(entropies)
    changed = [k for k, button in enumerate(patches.children) if button.style.button_color != colour[k]]
    assert changed == [4, 5, 6] and [button.description for button in patches.children].count("✕") == 2
    patches.children[3].click()
    assert entropies.controls["seen"].value == (5,)


def test_a_click_on_a_patch_makes_it_the_target_and_a_menu_changes_the_image(masks):
    pad = masks.live.children[0].children[1]
    before, bright = picture(masks), pad.children[0].style.button_color
    pad.children[6].click()
    assert pad.value == (6,) and "patch 6 of coat, with 1 weights" in alt(masks)
    assert not np.array_equal(picture(masks), before)
    colours = [button.style.button_color for button in pad.children]
    assert [k for k in range(N) if colours[k] != bright] == [7]
    masks.controls["image"].value = 1
    assert "patch 6 of bag" in alt(masks)
    assert [k for k in range(N) if pad.children[k].style.button_color != bright] == [8]


def test_looking_frames_what_comes_next_and_says_what_doubt_is_left(looks):
    looks.live.children[1].children[1].value = 6
    assert "coat after 6 of 16 patches" in alt(looks) and f"{10 / 16:.0%} is left" in alt(looks)
    fig = looks.draw(1, 6)
    frames = [(round(p.get_y() + 0.5), round(p.get_x() + 0.5)) for p in fig.axes[2].patches]
    assert [G * y + x for y, x in frames] == looks.ranking[1, 6:8].tolist()
    assert len(looks.draw(1, N).axes[2].patches) == 0


def test_where_controls_do_not_run_an_animation_moves_and_its_still_is_the_first_picture(looks, monkeypatch):
    monkeypatch.setenv("COP_PROGRESS", "0")
    data, metadata = looks._repr_mimebundle_()
    assert metadata["image/png"]["alt"].endswith("The picture moves from 0 to 8 patches.")
    film = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert film.n_frames == 1 + len(looks.moves) and film.info["loop"] == panel.ROUNDS
    for k, seen in ((0, looks.start["seen"]), (2, looks.moves[1]), (film.n_frames - 1, looks.moves[-1])):
        film.seek(k)
        looks.live.children[1].children[1].value = seen
        assert abs(np.asarray(film.convert("RGB"), int) - picture(looks)).mean() < 4, "another picture than the panel's"
    monkeypatch.setattr(panel, "FRAMES", 2)
    assert Image.open(io.BytesIO(base64.b64decode(looks.animation()[0]))).n_frames == 1 + 3  # 0, 6 and 8


def test_images_of_their_own_may_stand_behind_each_order(player):
    own = {name: np.full((B, 8, 8), k / 4) for k, name in enumerate(player.orders)}
    orders = {name: torch.from_numpy(r.copy()) for name, r in player.orders.items()}
    fig = widgets.OrderPlayer(own, orders, G, player.titles).draw(0, "random", "mine", N)
    assert [float(ax.images[0].get_array().mean()) for ax in fig.axes] == [0.25, 0.75]


def test_bad_input_gives_one_clear_error(player, slider, entropies, masks, looks):
    images, titles = player.images["mine"], player.titles
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
    for match, kind, wrong in (
        ("seen is \\[16\\]; expected patches from 0 to 15", widgets.EntropyMap, (entropies.model, None, "x", [16])),
        ("target is 16; expected a patch from 0 to 15", widgets.MaskMap, (None, masks.images, G, ["a", "b"], 0, 16)),
        ("image is 2; expected a number from 0 to 1", widgets.MaskMap, (None, masks.images, G, ["a", "b"], 2)),
        ("ranking is \\(3, 16\\) for 2 images", widgets.LookPlayer, (None, looks.images[:2], looks.ranking, ["a"], 2)),
    ):
        with pytest.raises(ValueError, match=match):
            kind(*wrong)
