"""`save_pretrained` and `from_pretrained`: the same network from a folder, and one clear line for any other."""

import copy
import json
import pickle
from functools import partial

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import cop
from cop.configs import CoMAEConfig, GraphNetConfig, OnePassConfig, PredictorConfig
from cop.paper.cached import CachedPredictor
from cop.paper.comae import CoMAE
from cop.paper.cvit import CViT
from cop.paper.dynamicvit import DynamicViT
from cop.paper.entropy import TokenPredictor
from cop.paper.graphnet import GraphNet
from cop.paper.mar import MAR, MARConfig
from cop.paper.onepass import OnePass

VIT = dict(img_size=16, patch_size=4, in_chans=1, num_classes=4, embed_dim=16, depth=4, num_heads=2, init_values=1e-2)
SMALL = {"enc_dim": 16, "dec_dim": 16, "head_depth": 1}
NETWORKS = {
    "CoMAE": lambda: CoMAE(CoMAEConfig(**SMALL, budget=0.3, betas=(0.8, 0.9)), 4, dim=3),
    "TokenPredictor": lambda: TokenPredictor(16, 3, PredictorConfig(dim=16, depth=1)),
    "CachedPredictor": lambda: CachedPredictor(16, 3, PredictorConfig(dim=16, depth=1)),
    "OnePass": lambda: OnePass(4, 3, OnePassConfig(width=8)),
    "GraphNet": lambda: GraphNet(4, 3, cfg=GraphNetConfig(dim=16)),
    "MAR": lambda: MAR(MARConfig(grid=2, channels=3, num_classes=2, dim=16, depth=1, heads=2, diffloss_width=8),
                       torch.Generator().manual_seed(1)),
    "CViT": lambda: CViT(16, **{k: v for k, v in VIT.items() if k != "img_size"}),
    "DynamicViT": lambda: DynamicViT(**VIT),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_comes_back_from_its_folder(name, tmp_path, capsys):
    model = NETWORKS[name]().eval()
    assert model.save_pretrained(tmp_path) is None and model.save_pretrained(tmp_path) is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert f"from {model.__module__} import {name}" in (tmp_path / "README.md").read_text()
    before = torch.get_rng_state()
    again = type(model).from_pretrained(str(tmp_path))
    assert torch.equal(torch.get_rng_state(), before) and not again.training and capsys.readouterr().out == ""
    assert repr(again) == repr(model) and again.stored_config() == model.stored_config()
    for attribute in ("config", "cfg"):
        assert getattr(again, attribute, None) == getattr(model, attribute, None)  # tuples are tuples again
    for other in (again, copy.deepcopy(again), pickle.loads(pickle.dumps(again))):
        assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
        other.save_pretrained(tmp_path / "copy")
        assert (tmp_path / "copy" / "config.json").read_text() == (tmp_path / "config.json").read_text()


def test_released_networks_give_the_same_results_from_a_folder(tmp_path):
    from cop.lessons import pipeline

    model, tokens = cop.comae("natural")[0], pipeline.sample_tokens("demo", "test", 2)
    demo = cop.comae("demo")[0]
    for network in (model, demo):
        network.save_pretrained(tmp_path / "comae")
    assert torch.equal(cop.CoMAE.from_pretrained(tmp_path / "comae").dependencies(tokens), demo.dependencies(tokens))
    classifier, _ = cop.classifier("demo", "RViT")
    classifier.save_pretrained(tmp_path / "rvit")
    images, first = cop.load_data("demo", "test").batch(slice(2))[0], torch.arange(14).expand(2, -1)
    assert torch.equal(cop.CViT.from_pretrained(tmp_path / "rvit")(images, keep_idx=first), classifier(images, keep_idx=first))


def test_a_vit_is_stored_as_it_is_now(tmp_path):
    model = timm.create_model("cvit_small_patch16_256", depth=1, num_classes=5).eval()
    model.reset_classifier(3)
    model.set_input_size(64)
    model.save_pretrained(tmp_path)
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(CViT.from_pretrained(tmp_path)(images), model(images)) and model(images).shape == (1, 3)
    with pytest.raises(ValueError, match="CViT was built with an argument that config.json cannot hold: .* type partial"):
        CViT(**VIT, norm_layer=partial(nn.LayerNorm, eps=1e-3)).save_pretrained(tmp_path / "partial")


def test_what_does_not_fit_is_refused_in_one_line(tmp_path):
    NETWORKS["CoMAE"]().save_pretrained(tmp_path)
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    text = config.read_text()

    def refused(kind, match, source=tmp_path, network=CoMAE):
        with pytest.raises(kind, match=match) as caught:
            network.from_pretrained(source)
        assert "\n" not in str(caught.value)

    refused(ValueError, r"a network of the kind \['CoMAE'\]; expected OnePass", network=OnePass)
    for changed, match in ((text.replace('"enc_dim"', '"width"'), "unknown field 'width'; the nearest"), (text[:-9], "is no JSON file"),
                           (text.replace('"grid"', '"side"'), "argument"), ("[]", "holds list"), (text.replace("0.3,", '"x",'), "budget is"),
                           (json.dumps(json.loads(text) | {"config": 3}), "config.json does not describe a CoMAE"),
                           (text.replace('"grid": 4', '"grid": 5'), "does not fit CoMAE")):  # fmt: skip
        config.write_text(changed)
        refused(ValueError, match)
    config.write_text(text)
    state = load_file(weights)
    save_file({k: v for k, v in state.items() if k != "encoder.log_tau"}, weights)
    refused(ValueError, r"1 missing \(encoder.log_tau\)")
    weights.write_bytes(weights.read_bytes()[:100])
    refused(ValueError, "cannot be read as a checkpoint")
    weights.unlink()
    refused(FileNotFoundError, "no model.safetensors in ")
    for source in (tmp_path / "none", "./none", "~/a/none", "none"):
        refused(FileNotFoundError, "no folder .*; expected one that save_pretrained wrote, or OWNER/NAME", source)


def test_the_hub_is_asked_for_a_repository_and_its_absence_told(monkeypatch, tmp_path):
    NETWORKS["OnePass"]().save_pretrained(tmp_path)
    asked = []

    def download(repo, name, **options):
        asked.append((repo, name, options))
        if repo == "nobody/none":
            raise RuntimeError("404\nand more")
        return str(tmp_path / name)

    monkeypatch.setattr("cop.paper.hub.hf_hub_download", download)
    OnePass.from_pretrained("owner/name", revision="v1")
    assert asked == [("owner/name", name, {"revision": "v1"}) for name in ("config.json", "model.safetensors")]
    with pytest.raises(FileNotFoundError, match="no folder nobody/none, and no config.json of it from the Hugging Face hub: 404$"):
        OnePass.from_pretrained("nobody/none")
