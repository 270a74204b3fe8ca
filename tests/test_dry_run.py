"""A dry run keeps every size and only shrinks counts; it writes stamped figures to a folder of its own, and nothing else."""

import csv
from functools import partial

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from safetensors import safe_open

from cop import paths, runner
from cop.configs import DataConfig
from cop.data.loading import load_data
from cop.data.sets.synthetic import synthetic
from cop.lessons import gallery
from cop.lessons.classifiers import build
from cop.lessons.generation import mar_sizes
from cop.lessons.pipeline import tokenizer
from cop.paper.comae import CoMAE
from cop.paper.entropy import TokenPredictor
from cop.paper.kl16 import KL16
from cop.paper.mar import MAR
from cop.profiles import PROFILES, dry_run, get_profile, natural, paper, smoke
from cop.scale import rehearsal
from cop.show import figures, report


def shapes(module: torch.nn.Module) -> dict[str, tuple]:
    """Shapes of all weights but those that there is one of per class."""
    of_classes = ("head.", "class_emb.")
    return {k: tuple(v.shape) for k, v in module.state_dict().items() if not k.startswith(of_classes)}


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_networks_and_tokens_keep_their_sizes(profile):
    dry = dry_run(profile)
    assert (dry.num_tokens, dry.tokens, dry.ranking) == (profile.num_tokens, profile.tokens, profile.ranking)
    with torch.device("meta"):
        for make in (lambda p: CoMAE(p.comae, p.grid, p.tokens.dim), lambda p: build(p, "CViT"),
                     lambda p: build(p, "DynamicViT"), lambda p: MAR(mar_sizes(p)),
                     lambda p: TokenPredictor(p.num_tokens, p.tokens.dim, p.predictor)):  # fmt: skip
            assert shapes(make(dry)) == shapes(make(profile))


def test_counts_shrink_and_names_lead_to_it():
    dry = get_profile("paper-dry-run")
    assert dry == dry_run(paper) and dry.name == "paper-dry-run" and get_profile(dry) is dry
    g = dry.generation
    assert (dry.comae.steps, dry.predictor.steps, dry.classifier.steps, g.steps, g.fine_tune_steps) == (2, 1, 1, 1, 1)
    assert dry.data.limit == dry.data.num_classes == g.count == 2 and g.checkpoint is None
    assert len(g.cfg_sweep) == 3 and g.cfg_scale != 1  # Table 3 has three rows; guidance takes its own path
    rows = get_profile("evening-dry-run").generation.checkpoint_classes
    assert rows is None and get_profile("paper") is paper  # there are no weights whose rows they could be
    with pytest.raises(ValueError, match="unknown profile 'huge'; expected one of smoke"):
        get_profile("huge-dry-run")


def test_synthetic_images_are_fixed_distinct_and_of_the_true_size():
    config = DataConfig("synthetic", image_size=64, channels=3, num_classes=5, limit=7)
    data = synthetic(config, "train")
    images, labels, names = data.images, data.labels, data.class_names
    assert images.shape == (7, 3, 64, 64) and images.dtype == torch.uint8 and labels.tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert len(names) == 5 and torch.equal(images, synthetic(config, "train").images)
    few = synthetic(DataConfig("synthetic", image_size=64, channels=3, num_classes=5, limit=3), "train").images
    assert torch.equal(few, images[:3])
    everything = torch.cat([images, synthetic(config, "val").images, synthetic(config, "test").images]).flatten(1).float()
    assert len(everything.unique(dim=0)) == 21 and everything.std(1).min() > 20
    assert len(synthetic(DataConfig("synthetic", num_classes=4), "val")) == 4


@pytest.mark.parametrize("profile", [smoke, natural])
def test_every_profile_reads_and_tokenises_them(profile, own_cache):
    dry = dry_run(profile)
    data = load_data(dry, "train")
    tokens = tokenizer(dry)
    assert len(data) == 2 and data.labels.tolist() == [0, 1]
    assert tokens.encode(data.batch([0, 1])[0]).shape == (2, dry.num_tokens, dry.tokens.dim)


def test_a_notebook_writes_stamped_figures_to_its_own_folder_and_nothing_else(tmp_path, monkeypatch):
    for name in ("build", "figures"):
        monkeypatch.setattr(paths, name, tmp_path / name)
    monkeypatch.setenv("COP_FIGURES", str(tmp_path / "figures"))
    monkeypatch.setenv("COP_CACHE", str(tmp_path / "users-cache"))
    (done,) = runner.run("smoke", only="02", dry_run=True)
    folder = tmp_path / "figures" / "smoke-dry-run"
    assert [f.name for f in (tmp_path / "figures").iterdir()] == ["smoke-dry-run"]  # nor a gallery
    drawn = list(folder.glob("*.svg"))
    assert len(drawn) > 2 and all("DRY RUN" in f.read_text() for f in drawn)
    assert (folder / "tab1.md").read_text().startswith("DRY RUN")
    with open(folder / "fig6.csv") as f:
        assert len(list(csv.reader(f))) == 2  # a heading, and the two steps as one row
    assert done.is_relative_to(tmp_path / "build" / "smoke-dry-run") and not (tmp_path / "users-cache").exists()
    assert {f.name.split("-")[0] for f in (tmp_path / "build" / "smoke-dry-run" / "cache").iterdir()} == {
        "comae",
        "masks",
        "tokens",
    }
    assert "smoke" not in gallery.gallery(tmp_path / "figures")


def test_a_dry_run_cannot_be_kept():
    for how in ({"profile": "smoke", "dry_run": True}, {"profile": "smoke-dry-run"}):
        with pytest.raises(ValueError, match="a dry run's outputs mean nothing"):
            runner.run(**how, keep=True)


def test_random_weights_of_kl16_only_where_there_are_none(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "build", tmp_path / "build")
    monkeypatch.setenv("COP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COP_WEIGHTS", raising=False)
    monkeypatch.delenv("COP_KL16", raising=False)
    monkeypatch.setattr(rehearsal, "KL16", partial(KL16, width=32))
    dry = dry_run(paper)
    own = rehearsal.place_of_dry_run(dry, fresh=True)
    assert "random ones are drawn" in capsys.readouterr().err
    with safe_open(own["COP_KL16"], "pt") as file:
        assert set(file.keys()) == set(KL16(32).state_dict())
    assert set(rehearsal.place_of_dry_run(dry_run(smoke), fresh=True)) == {"COP_CACHE"}  # raw patches need none

    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "kl16.ckpt").touch()
    assert rehearsal.place_of_dry_run(dry, fresh=True)["COP_KL16"] == str(tmp_path / "cache" / "kl16.ckpt")
    monkeypatch.setenv("COP_KL16", "/elsewhere")
    assert "COP_KL16" not in rehearsal.place_of_dry_run(dry, fresh=True) and not capsys.readouterr().err


def test_the_stamp_shows_and_moves_nothing():
    def pixels(fig) -> np.ndarray:
        canvas = FigureCanvasAgg(fig)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)

    fig = figures.shares({"a": {"p": 0.5, "q": 0.2, "r": 0.3}}, "title")
    before, panels = pixels(fig), [ax.get_position().bounds for ax in fig.axes]
    report.stamp(fig)
    changed = (pixels(fig) != before).any(-1)
    assert changed.mean() > 0.02
    np.testing.assert_allclose([ax.get_position().bounds for ax in fig.axes], panels)
    assert not changed[:, 0].any() and not changed[:, -1].any()  # it fits
