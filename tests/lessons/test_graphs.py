"""Which graph an order is of, and whether in one pass: the same choice in profile, `cop.rank` and command line."""

import logging

import pytest
import torch
from PIL import Image

import cop
from cop.__main__ import main
from cop.configs import as_dict, key
from cop.lessons import measured, ordering, pipeline
from cop.orders import check_ranking
from cop.paper.measured import measured_graph
from cop.paper.ranking import pagerank
from cop.profiles import demo, replace, smoke
from cop.show import overlay
from cop.train import artefacts
from cop.train.loop import seeded

pytestmark = pytest.mark.usefixtures("own_cache")
MEASURED = pipeline.with_graph(smoke, "measured")


@pytest.fixture(scope="module")
def images():
    return pipeline.load_data(smoke, "test").batch(slice(12))[0]


def test_the_measured_graph_is_a_choice_that_keys_tell_apart(images):
    assert "graph" not in as_dict(demo.ranking), "nothing that is stored is renamed"
    assert key(pipeline.rankings_config(smoke, "test", 0)) != key(pipeline.rankings_config(MEASURED, "test", 0))
    for name in ("collapse", "in-strength", "reversed", "mean order"):
        keys = [key(pipeline.order_config(p, ordering.get(name), 0)) for p in (smoke, MEASURED)]
        assert keys[0] != keys[1]
    A = measured_graph(pipeline.predictor("smoke", device="cpu")[0], pipeline.tokenizer("smoke").encode(images))
    want = cop.collapse_order(pagerank(A))
    assert torch.equal(cop.rank(images, "smoke", device="cpu", graph="measured", exact=True), want)
    assert torch.equal(cop.rank(images, "smoke ranking.graph=measured", device="cpu", exact=True), want)
    assert torch.equal(cop.rank(images, "smoke", device="cpu", order="measured", exact=True), want), "whatever the profile's"
    assert torch.equal(ordering.ranking_of(MEASURED, "test", "collapse", device="cpu")[:12], want)
    assert torch.equal(ordering.ranking_of(smoke, "test", "measured", device="cpu")[:12], want)
    reverse = cop.rank(images, "smoke", device="cpu", graph="measured", exact=True, order="reversed")
    assert torch.equal(reverse, want.flip(-1))
    assert not torch.equal(cop.rank(images, "smoke", device="cpu", exact=True), want)
    with pytest.raises(ValueError, match="unknown graph 'attention'; expected one of comae, measured"):
        cop.rank(images, "smoke", graph="attention")


@pytest.mark.parametrize("graph", ["comae", "measured"])
def test_one_pass_is_taken_where_it_is_stored(graph, images, caplog, monkeypatch, tmp_path):
    monkeypatch.setenv("COP_CACHE", str(tmp_path))
    profile = pipeline.with_graph(smoke, graph)
    with caplog.at_level(logging.INFO):
        exact = cop.rank(images, profile, device="cpu")
    assert f"no one-pass ranker of graph '{graph}' is stored for profile smoke and seed 0" in caplog.text
    assert not [f for f in tmp_path.iterdir() if f.name.startswith(("onepass", "graphnet"))], "and none is trained"
    model = {"comae": measured.graphnet, "measured": measured.onepass}[graph](profile, device="cpu")[0]
    tokens = pipeline.tokenizer("smoke").encode(images)
    with torch.no_grad():
        fast = cop.collapse_order(pagerank(model(tokens) if graph == "comae" else model.graph(tokens)))
    assert torch.equal(cop.rank(images, smoke, device="cpu", graph=graph), fast) and not torch.equal(fast, exact)
    assert torch.equal(cop.rank(images, smoke, device="cpu", graph=graph, exact=True), exact)


def test_whole_photographs_are_ranked_on_grids_of_their_own(tmp_path, capsys):
    sizes = {"a.png": (90, 40), "b.png": (32, 200), "c.png": (1, 1), "d.png": (2, 300)}
    for i, (name, size) in enumerate(sizes.items()):
        noise = torch.randint(0, 256, (size[1], size[0], 3), generator=seeded(i), dtype=torch.uint8)
        Image.fromarray(noise.numpy()).save(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no one-pass ranker of kind 'offsets' is stored for profile smoke and seed 0"):
        cop.rank(tmp_path, "smoke", graph="measured", crop=False)
    model = measured.onepass("smoke", kind="offsets", device="cpu")[0]
    found = cop.rank(tmp_path, "smoke", device="cpu", graph="measured", crop=False)
    assert [o.grid for o in found] == [(8, 18), (50, 8), (8, 8), (128, 8)], "the last one is squeezed to 16 times its width"
    assert [o.file for o in found] == [str(tmp_path / name) for name in sizes]
    for order in found:
        check_ranking(order, order.grid[0] * order.grid[1])
    x = cop.rank(torch.zeros(1, 20, 64), "smoke", device="cpu", graph="measured", crop=False)[0]
    tokens, grid = pipeline.tokenizer("smoke").encode_grid(torch.zeros(1, 1, 20, 64))
    assert x.grid == grid == (5, 16) and torch.equal(x, cop.collapse_order(pagerank(model.graph(tokens, grid)))[0])
    for bad in ({}, {"graph": "measured", "exact": True}, {"graph": "measured", "order": "raster"}):
        with pytest.raises(ValueError, match="crop=False with order .* expected graph='measured' and exact=False"):
            cop.rank(tmp_path, "smoke", crop=False, **bad)
    command = ["rank", str(tmp_path), "--profile", "smoke", "--graph", "measured", "--no-crop", "--out", str(tmp_path / "out")]
    assert main(command) == 0 and len(capsys.readouterr().out.split()) == 4
    drawn = Image.open(tmp_path / "out" / "a.png.order.png")
    assert drawn.size == (90, 40) and drawn.getpixel((0, 0)) != Image.open(tmp_path / "a.png").convert("RGB").getpixel((0, 0))
    assert main(["rank", str(tmp_path / "a.png"), "--profile", "smoke", "--no-crop"]) == 2
    assert "crop=False with order 'collapse', graph='comae'" in capsys.readouterr().err


def test_the_overlay_of_a_grid_covers_the_photograph():
    photo = Image.new("RGB", (90, 40), "black")
    drawn = overlay.overlay(photo, torch.tensor([1, 0, 2, 3, 4, 5]), first=0.2, grid=(2, 3))
    assert drawn.size == (90, 40) and drawn.getpixel((30, 5)) == (255, 255, 255) != drawn.getpixel((89, 39)) != (0, 0, 0)
    with pytest.raises(ValueError, match="ranking has 6 patches; expected 2 x 4"):
        overlay.overlay(photo, torch.arange(6), grid=(2, 4))


def test_images_without_content_have_an_order(images):
    one_pixel, flat = Image.new("RGB", (1, 1), "red"), Image.new("L", (50, 70), 128)
    measured.onepass("smoke", device="cpu"), measured.graphnet("smoke", device="cpu")
    for graph in pipeline.GRAPHS:
        for exact in (False, True):
            check_ranking(cop.rank([one_pixel, flat], "smoke", device="cpu", graph=graph, exact=exact), 64)


@pytest.mark.parametrize("stage", ["onepass", "graphnet", "predictor"])
def test_weights_of_another_grid_are_one_error_that_names_both(stage, images, tmp_path, monkeypatch):
    """Foreign weights under the name of the right ones, as after a change of the code."""
    monkeypatch.setenv("COP_CACHE", str(tmp_path))
    other = replace(smoke, data=replace(smoke.data, image_size=28), predictor=replace(smoke.predictor, steps=1))
    made = getattr(pipeline if stage == "predictor" else measured, stage)(other, device="cpu")[1]
    config = (pipeline if stage == "predictor" else measured).__dict__[f"{stage}_config"](smoke, 0)
    artefacts._write(tmp_path / f"{stage}-{key(config)}", made.tensors, None, made.provenance | {"config": config})
    with pytest.raises((ValueError, RuntimeError), match=r"grid 7.*grid 8|49.*64") as error:
        cop.rank(images, smoke, device="cpu", graph="comae" if stage == "graphnet" else "measured")
    assert "\n" not in str(error.value)
