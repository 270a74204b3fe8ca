"""`python -m cop app`: its functions, without a server."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

import cop
from cop import __main__
from cop.lessons import app, measured, pipeline

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))


def ranked(order: str, weights: str = "", profile: str = "natural") -> torch.Tensor:
    return app.loaded(profile, order, weights)(cop.read_images(PHOTO, profile))


def test_orders_are_those_of_cop_rank_and_of_networks_of_ones_own(tmp_path):
    for name, (order, graph) in app.ORDERS.items():
        assert torch.equal(ranked(name), cop.rank(PHOTO, "natural", order=order, graph=graph)), name
    for name, model, graph in (("onepass", measured.onepass("natural")[0], "measured"), ("predictor", pipeline.predictor("natural")[0], "measured"),
                               ("graphnet", measured.graphnet("natural")[0], "comae")):  # fmt: skip
        model.save_pretrained(tmp_path / name)
        want = cop.rank(PHOTO, "natural", graph=graph, exact=name == "predictor")
        assert torch.equal(ranked(app.OWN, str(tmp_path / name)), want), name
    cop.comae("demo")[0].save_pretrained(tmp_path / "comae")
    assert torch.equal(ranked(app.OWN, str(tmp_path / "comae"), "demo"), cop.rank(PHOTO, "demo", exact=True))
    cop.classifier("demo", "RViT")[0].save_pretrained(tmp_path / "rvit")
    with pytest.raises(ValueError, match=r"rvit holds \['CViT'\], which has no graph; expected one of CoMAE, "):
        ranked(app.OWN, str(tmp_path / "rvit"))


@pytest.mark.parametrize("percent, count", [(1, 1), (22, 14), (100, 64)])
def test_the_drawing_shows_the_first_patches_and_greys_the_others(percent, count):
    ranking = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    (seen, whole), line = app.drawn(PHOTO, ranking, percent)
    assert line == f"{count} of 64 patches" and seen.size == whole.size == (88, 88)
    grey = (np.asarray(seen) == (70, 70, 78)).all(-1).reshape(8, 11, 8, 11).all((1, 3)).flatten()
    assert sorted(np.flatnonzero(~grey)) == sorted(ranking[:count].tolist())


def test_without_gradio_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert __main__.main(["app"]) == 2
    assert capsys.readouterr().err == "cop: python -m cop app needs Gradio, which is not installed: pip install 'gradio>=5'\n"
