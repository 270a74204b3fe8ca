"""Training stages, evaluation, tables and costs of notebook 5 on the smoke profile."""

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed

from cop import orders
from cop.configs import as_dict, key
from cop.lessons import classification, classifiers, costs, pipeline
from cop.lessons import first_patches as lesson
from cop.lessons.classification import RATES, SHOWN, Hits, evaluate, hits
from cop.lessons.ordering import ranking_of
from cop.orders import check_ranking, ranks_of
from cop.paper import cvit
from cop.profiles import demo, evening, get_profile, paper, replace
from cop.show import figures_classification as fc
from cop.show import report
from cop.train.loop import seeded

N = 64
FEW = [1, 14, 32, 45, 64]


@pytest.fixture(scope="module")
def profile():
    """The smoke profile with enough steps that the systems differ from one another."""
    p = get_profile("smoke")
    return replace(p, classifier=replace(p.classifier, steps=20, batch_size=16, lr=5e-3, ema=0.8))


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def test_images(profile):
    return pipeline.load_data(profile, "test").batch(slice(None))


def same(a: Hits, b: Hits) -> bool:
    return a.counts == b.counts and np.array_equal(a.top1, b.top1) and np.array_equal(a.top5, b.top5)


@pytest.mark.parametrize("order", orders.registered())
def test_every_order_is_a_permutation_per_image(profile, order):
    r = ranking_of(profile, "test", order)
    assert r.shape == (64, N)
    check_ranking(r, N)
    assert (len(r.unique(dim=0)) == 1) == orders.get(order).shared
    assert torch.equal(ranking_of(profile, "test", order), r), "not the same the second time"


def test_unknown_orders_are_refused(profile):
    with pytest.raises(ValueError, match="unknown order 'spiral'; expected one of collapse, in-strength"):
        ranking_of(profile, "test", "spiral")
    with pytest.raises(ValueError, match="unknown order 'spiral'"):
        classification.classifier(profile, "spiral")


def test_attention_rollout_by_hand(profile, test_images):
    """Explicit attention matrices of every block, head by head, multiplied up."""
    model, _ = classification.classifier(profile, "ViT")
    x = test_images[0][:3]
    found = cvit.attention_rollout(model, x)
    assert found.shape == (3, N) and (found > 0).all() and (found.sum(1) < 1).all()
    with torch.no_grad():
        t, total = model._pos_embed(model.patch_embed(x)), torch.eye(N + 1)
        for block in model.blocks:
            y, heads = block.norm1(t), block.attn.num_heads
            q, k, _ = block.attn.qkv(y).chunk(3, -1)
            d = q.shape[-1] // heads
            maps = [(q[..., h * d : (h + 1) * d] @ k[..., h * d : (h + 1) * d].mT / d**0.5).softmax(-1) for h in range(heads)]
            total = (0.5 * torch.stack(maps).mean(0) + 0.5 * torch.eye(N + 1)) @ total
            t = block(t)
    torch.testing.assert_close(found, total[:, 0, 1:], rtol=1e-4, atol=1e-6)
    assert not any(b.attn._forward_hooks for b in model.blocks), "hooks are left behind"


def test_mirrored_orders_are_those_of_the_mirrored_image():
    r = torch.rand(2, N, generator=seeded(0)).argsort(1)
    flipped = orders.mirrored(r, 8, torch.tensor([True, False]))
    check_ranking(flipped, N)
    maps = ranks_of(flipped).view(2, 8, 8)
    assert torch.equal(maps[0], ranks_of(r)[0].view(8, 8).flip(1)) and torch.equal(flipped[1], r[1])


@pytest.mark.parametrize("order", ["mean order", "centre-out", "low-discrepancy", "variance"])
def test_an_order_for_all_images_is_not_mirrored_with_the_image(profile, order, monkeypatch):
    """Mirrored in half of training it would be another order than the one that is tested."""
    mirroring = replace(profile, data=replace(profile.data, hflip=True), classifier=replace(profile.classifier, steps=2))
    own, seen = ranking_of(mirroring, "train", order), []

    def loss(model, images, labels, ranking, u, **rate):
        seen.append(ranking)
        return cvit.masked_loss(model, images, labels, ranking, u, **rate)

    monkeypatch.setattr(classifiers, "masked_loss", loss)
    classification.classifier(mirroring, order)
    seen = torch.cat(seen).unique(dim=0)
    if order == "variance":
        known = torch.cat([own, orders.mirrored(own, 8, torch.ones(len(own), dtype=torch.bool))])
        assert (seen[:, None] == known).all(-1).any(1).all() and not (seen[:, None] == own).all(-1).any(1).all()
    else:
        assert torch.equal(seen, own[:1])


def test_systems_share_initial_weights_and_differ_by_order_and_seed(profile):
    configs = [classifiers.system_config(profile, s, 0) for s in ("ViT", "RViT", "CViT", "variance", "DynamicViT", "coarser")]
    assert len({key(c) for c in configs}) == 6
    assert key(classifiers.system_config(profile, "CViT", 1)) != key(configs[2])
    a, b = classification.classifier(profile, "CViT")[0], classification.classifier(profile, "variance")[0]
    assert not torch.equal(a.head.weight, b.head.weight)
    with pytest.MonkeyPatch.context() as m:  # without a step both are what they started from
        m.setattr(classifiers, "fit", lambda model, *_, **__: (model, pd.DataFrame({"step": [0], "loss": [0.0]})))
        fresh = replace(profile, classifier=replace(profile.classifier, lr=1e-4))
        states = [classification.classifier(fresh, s)[0].state_dict() for s in ("ViT", "RViT", "CViT", "reversed")]
    assert all(torch.equal(states[0][k], s[k]) for s in states[1:] for k in s)


def test_keeping_everything_gives_the_full_networks_hits(profile, test_images):
    images, labels = test_images
    for system in ("ViT", "RViT", "CViT", "DynamicViT"):
        model, _ = classification.classifier(profile, system)
        with torch.no_grad():
            best = model(images).topk(5).indices
        h = hits(profile, system, counts=FEW)
        assert np.array_equal(h.at(0.0), (best[:, 0] == labels).numpy()), system
        assert np.array_equal(h.at(0.0, top=5), (best == labels[:, None]).any(1).numpy()), system


def test_vit_plus_c_is_vit_at_0_percent_and_pairs_with_it_elsewhere(profile):
    plain, plus = hits(profile, "ViT", "random", counts=FEW), hits(profile, "ViT", "collapse", counts=FEW)
    assert np.array_equal(plain.at(0.0), plus.at(0.0)) and np.array_equal(plain.at(0.0, 5), plus.at(0.0, 5))
    assert not np.array_equal(plain.top1, plus.top1), "the order must matter somewhere"
    table = lesson.compare({"C9": (plus, plain)})
    zero = table[table["at"] == "0%"].iloc[0]
    assert zero.difference == zero.low == zero.high == 0 and zero.p == 1
    half = table[table["at"] == "50%"].iloc[0]
    assert half.difference == pytest.approx(100 * (plus.at(0.5).mean() - plain.at(0.5).mean()))
    assert half.low <= half.difference <= half.high


def test_hits_are_those_of_the_first_patches_one_image_at_a_time(profile, test_images):
    images, labels = test_images
    model, _ = classification.classifier(profile, "CViT")
    h, order = hits(profile, "CViT", counts=FEW), ranking_of(profile, "test", "collapse")
    for i in (0, 5, 40):
        for s, k in enumerate(FEW):
            with torch.no_grad():
                logits = model(images[i : i + 1], order[i : i + 1, :k])[0]
            lead = logits[labels[i]] - logits[torch.arange(len(logits)) != labels[i]].max()
            assert lead > -1e-4 if h.top1[s, i] else lead < 1e-4  # rounding may decide a tie otherwise in another batch
    assert same(hits(profile, "CViT", counts=FEW), h), "the stored hits differ from the computed"
    assert (h.top5 >= h.top1).all()


def test_the_grid_of_table5_and_interpolation():
    counts = classification.tested_counts(N)
    assert counts == list(range(1, N + 1)), "with 64 patches every number of them is evaluated"
    many = classification.tested_counts(256)
    assert many[0] == 3 and many[-1] == 256 and 14 <= len(many) < 20 and many == sorted(set(many))
    assert all(cvit.keep_count(n, r) in classification.tested_counts(n) for r in SHOWN for n in (49, N, 256))
    linear = np.zeros((2, 64), bool)
    linear[1] = True  # no image at K = 1, all at K = 64
    h = Hits((1, 64), linear, linear, N)
    want = [(cvit.keep_count(N, r) - 1) / 63 for r in RATES]
    np.testing.assert_allclose(h.curve(), want)
    assert h.area().mean() == pytest.approx(100 * np.mean(want)) and h.area().shape == (64,)
    with pytest.raises(ValueError, match="mask rate 0.5 keeps 32 patches, evaluated are 1, 64"):
        h.at(0.5)
    assert np.isnan(Hits((14, 64), linear, linear, N).curve([0.99])).all()


def test_dynamicvit_follows_its_published_rule_and_the_matched_one(profile, test_images):
    images, labels = test_images
    model, _ = classification.classifier(profile, "DynamicViT")
    published, matched = hits(profile, "DynamicViT", counts=FEW), hits(profile, "DynamicViT", counts=FEW, matched=True)
    assert matched.counts == (32, 45, 64), "a quarter of the depth sees everything, so fewer tokens are out of reach"
    with torch.no_grad():
        assert np.array_equal(published.at(0.3), (model(images, 45 / 64).argmax(1) == labels).numpy())
        rate = classification.matched_base_rate(N, 45, 4)
        assert np.array_equal(matched.at(0.3), (model(images, rate).argmax(1) == labels).numpy())
    assert rate > 45 / 64


def test_bad_rankings_are_named(profile, test_images):
    images, labels = test_images
    model, _ = classification.classifier(profile, "CViT")
    order = ranking_of(profile, "test", "collapse")
    with pytest.raises(ValueError, match="63 rankings for 64 images"):
        evaluate(model, images, labels, order[1:], FEW)
    with pytest.raises(ValueError, match=r"expected a LongTensor \(B, 64\)"):
        evaluate(model, images, labels, torch.arange(16).expand(64, -1), [4])
    with pytest.raises(ValueError, match="repeats or misses a patch"):
        evaluate(model, images, labels, torch.zeros_like(order), FEW)
    with pytest.raises(ValueError, match=r"counts are \[14\] without a ranking; expected \[64\]"):
        evaluate(model, images, labels, None, [14])
    with pytest.raises(ValueError, match="10000 rankings for 64 images"):
        hits(profile, "CViT", order[:1].expand(10000, -1))


def test_table5_and_verdicts(profile):
    systems = {name: hits(profile, name, counts=FEW) for name in ("ViT", "CViT")}
    table = lesson.tab5.__wrapped__(report.Report("09_test", "smoke", 0), systems)
    assert list(table["system"]) == ["ViT", "", "", "CViT", "", ""] and table.shape == (6, 12)
    assert table.iloc[0]["T1@0%"].startswith(f"{100 * systems['ViT'].at(0.0).mean():.1f} ±")
    assert table.iloc[5]["T1@78%"] == "70.57" and table.iloc[5]["AuC"] == "72.19"
    n = 400
    worse, better = np.zeros((5, n), bool), np.zeros((5, n), bool)
    better[:, :40], worse[:, 40:60] = True, True
    pair = {"better − worse": (Hits(tuple(FEW), better, better, N), Hits(tuple(FEW), worse, worse, N))}
    differences = lesson.compare(pair, rates=(0.0, 0.78))
    assert lesson.verdict(differences, "better − worse", "78%").startswith("better: +5.0 points")
    assert differences["p"].iloc[0] == pytest.approx(0.0134, abs=2e-4)  # two-sided binomial, 40 of 60
    assert differences["holm"].tolist() == pytest.approx([3 * differences["p"].min()] * 3), "a family: two rates and the AuC"
    assert lesson.show_comparisons(differences)["78%"][0].endswith("*")
    family = lesson.compare(pair | {f"nothing {i}": (pair["better − worse"][0],) * 2 for i in range(4)}, rates=(0.78,))
    assert family["p"].iloc[0] < 0.05 < family["holm"].iloc[0] and not lesson.show_comparisons(family)["78%"][0].endswith("*")
    assert lesson.verdict(family, "better − worse", "78%").startswith("no difference found")
    same_twice = lesson.compare({"a": (pair["better − worse"][0],) * 2}, rates=(0.78,))
    assert lesson.verdict(same_twice, "a", "78%").startswith("no difference found")


def test_costs_are_the_published_ones():
    paper = costs.bill("paper")
    assert paper["all"] / 1e9 == pytest.approx(23.197, abs=1e-3)
    assert 1 - paper["kept"] / paper["all"] == pytest.approx(0.787, abs=2e-3)
    assert 600e9 < paper["ranking"] < 722e9  # 256 encoder passes, the first block shared and the last for one token
    row = costs.cost_table({"paper": paper}).iloc[0]
    assert row["saved in attention"] == "95.16%" and row["end to end / whole"] == "31.7×"
    smoke = get_profile("smoke")
    assert costs.bill(smoke)["tokenizer"] == 0 and costs.macs_at(smoke, 64) == costs.bill(smoke)["all"]


def test_throughput_is_measured_once_and_kept():
    first, second = costs.throughput("smoke", rounds=1), costs.throughput("smoke", rounds=1)
    assert first.equals(second) and first["gain"].iloc[-1] == first["ideal"].iloc[-1] == 1
    assert (first["ideal"].diff().dropna() < 0).all() and (first["images_per_s"] > 0).all()


def test_figures_are_drawn_from_real_results(profile, test_images):
    curves = {n: hits(profile, s, o, counts=FEW).curve()[None] for n, s, o in (("ViT", "ViT", "random"), ("CViT", "CViT", None))}
    fig = fc.fig8_accuracy(RATES, curves, {"ViT": None, "CViT": 0.78}, 0.1, [0.5, 0.78])
    assert [line.get_label() for line in fig.axes[0].lines[:1]] == ["ViT"]
    fig = fc.knee_range([0.9, 0.95, 0.99], {"CViT": np.array([[0.88, np.nan, 0.96]]), "ViT": np.array([[0.5, 0.6, 0.7]])})
    line = fig.axes[0].lines[0]
    assert line.get_label() == "CViT" and np.isnan(line.get_ydata()[1]) and line.get_ydata()[2] == 0.96
    fig = fc.order_controls(RATES, {"collapse": curves["CViT"]}, {"collapse": (0.5, 0.4, 0.6)}, 0.78, "a", {}, (0.25, 0.4))
    assert len(fig.axes) == 2
    order, (images, labels) = ranking_of(profile, "test", "collapse"), test_images
    model, _ = classification.classifier(profile, "CViT")
    names = pipeline.load_data(profile, "test").class_names
    said = lesson.guesses(model, images[:1], int(labels[0]), order[0], FEW, names)
    assert all(name in names and 0 < p <= 1 and right == (names.index(name) == int(labels[0])) for name, p, right in said)
    fig = fc.first_patches(np.zeros((32, 32)), order[0].numpy(), 8, FEW, said)
    assert [ax.get_title() for ax in fig.axes] == [f"{k} patches" for k in FEW]


def test_ticks_of_narrow_ranges_are_whole_per_cents():
    """22.5 would be printed as 22, and the next one, 25, as 25."""
    at = {"collapse": (0.24, 0.166, 0.28), "random": (0.26, 0.24, 0.297)}
    fig = fc.order_controls(RATES, {"collapse": np.linspace(0.29, 0.12, len(RATES))[None]}, at, 0.78, "a", {})
    fig.canvas.draw()
    for axis in (fig.axes[0].yaxis, fig.axes[1].xaxis):
        shown = [int(label.get_text().rstrip("%")) for label in axis.get_ticklabels()]
        assert len(shown) > 3 and len(set(np.diff(shown))) == 1


@pytest.mark.parametrize(
    "profile, theirs, head, width",
    [(paper, "vit_base_patch16_224.orig_in21k", 0, 768), (evening, "vit_small_patch16_224.augreg_in21k", 21_843, 384)],
    ids=["paper", "evening"],
)
def test_large_profiles_start_from_named_weights(tmp_path, monkeypatch, profile, theirs, head, width):
    """A synthetic file with timm's names and 224 px shapes, found in the folder of weights; nothing is downloaded."""
    source, name = timm.create_model(theirs, num_classes=head), profile.classifier.pretrained
    torch.nn.init.normal_(source.pos_embed, std=0.02)
    monkeypatch.setenv("COP_WEIGHTS", str(tmp_path))
    save_file(source.state_dict(), tmp_path / f"{name}.safetensors")
    model = classifiers.untrained(lambda: classifiers.build(profile, "CViT"), 0, name)
    assert model.pos_embed.shape == (1, 257, width) and model.head.weight.shape == (profile.data.num_classes, width)
    assert torch.equal(model.blocks[11].mlp.fc2.weight, source.blocks[11].mlp.fc2.weight)
    assert torch.equal(model.pos_embed, resample_abs_pos_embed(source.pos_embed, new_size=(16, 16), num_prefix_tokens=1))
    with pytest.raises(ValueError, match="unknown weights 'vit_huge'"):
        classifiers.untrained(lambda: classifiers.build(demo, "CViT"), 0, "vit_huge")
    assert "pretrained" not in as_dict(demo.classifier) and as_dict(paper.classifier)["pretrained"], "old hashes stay"
