"""The stages and the public API on the smoke profile: anything that holds an image is ranked, bad input is named."""

import subprocess
import sys

import networkx as nx
import numpy as np
import pytest
import torch
from PIL import Image

import cop
from cop.configs import Profile
from cop.data.inputs import read_images
from cop.lessons import classifiers, ordering, pipeline, ranks
from cop.orders import check_ranking, registered
from cop.paper.ranking import to_networkx
from cop.profiles import PROFILES, for_classifiers, get_profile, replace

N = 64


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return cop.load_data("smoke", "test").batch(torch.arange(3))[0]


def test_the_public_api_is_importable_and_documented():
    for name in cop.__all__:
        assert len(getattr(cop, name).__doc__) > 50 and name in dir(cop)
    with pytest.raises(AttributeError, match="no attribute 'ranks'"):
        _ = cop.ranks


def test_the_layouts_of_imagenet_share_what_is_stored():
    paper = PROFILES["paper"]
    names = ("imagenet", "imagenet-hf", "imagenet-wds")
    configs = [pipeline.comae_config(replace(paper, data=replace(paper.data, name=n, root=f"/{n}")), 0) for n in names]
    assert configs[0] == configs[1] == configs[2] == pipeline.comae_config(paper, 0)
    other = replace(paper, data=replace(paper.data, name="folder"))
    assert pipeline.comae_config(other, 0) != configs[0]


HEAVY = "timm torchvision accelerate pandas sklearn scipy networkx matplotlib torch._dynamo sympy torch_fidelity datasets".split()


@pytest.mark.parametrize("code, absent", [
    ("import cop", ["torch", "numpy", "PIL"]),
    ("import cop; cop.rank, cop.load_data, cop.read_images, cop.comae", HEAVY),
    ("import cop, PIL.Image; cop.rank(PIL.Image.new('L', (9, 9)), 'natural')", HEAVY),
    ("from cop.__main__ import main; assert main(['rank', 'nowhere.jpg']) == 2", ["torch"]),
])  # fmt: skip
def test_what_is_not_needed_is_not_imported(code, absent):
    """Modules, not seconds: each of these takes as long as PyTorch or more."""
    code += f"; import sys; found = {set(absent)} & sys.modules.keys(); assert not found, found"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_rank_is_dependencies_then_pagerank_then_a_stable_sort(images):
    model, _ = pipeline.comae("smoke")
    A = model.dependencies(pipeline.tokenizer("smoke").encode(images))
    ranking = cop.rank(images, profile="smoke")
    for b in range(3):
        r = nx.pagerank(to_networkx(A[b]), alpha=0.85, tol=1e-13, max_iter=2000)
        falling = -np.diff([r[n] for n in ranking[b].tolist()])  # scores along the order; networkx's differ in the last digits
        assert falling.min() > -1e-10 and falling.sum() > 1e-4
    check_ranking(ranking, N)
    assert torch.equal(cop.CoMAE.dependencies(model, pipeline.tokenizer("smoke").encode(images)), A)


def test_every_kind_of_image_gives_the_same_order(images, tmp_path, monkeypatch):
    pixels = ((images[0, 0] + 1) * 127.5).round().byte().numpy()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    want = cop.rank(images[:1], profile="smoke")
    grey_rgb = np.stack([pixels] * 3, -1)
    for same in (tmp_path / "a.png", str(tmp_path / "a.png"), tmp_path, Image.fromarray(pixels), [Image.fromarray(pixels)],
                 pixels, grey_rgb, grey_rgb[None], pixels[..., None], pixels[None, ..., None], images[0], [images[0]], "~/a.png",
                 (tmp_path / "a.png").open("rb"), tmp_path.glob("*.png"), (str(p) for p in tmp_path.iterdir()), {tmp_path / "a.png"},
                 np.dstack([grey_rgb, pixels * 0 + 255])):  # fmt: skip
        assert torch.equal(cop.rank(same, profile="smoke"), want), type(same)


def test_rows_are_in_the_order_of_what_is_given(images, tmp_path):
    pictures = [((x[0] + 1) * 127.5).round().byte().numpy() for x in images]
    for name, picture in zip(("c.png", "b/a.png", "a.png"), pictures, strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / name)
    want, profile = read_images(images, "smoke"), get_profile("smoke")
    for several in (pictures, tuple(pictures), list(images), iter(images), [pictures[0], images[1], tmp_path / "a.png"]):
        assert torch.equal(read_images(several, profile), want)
    folder = [str(tmp_path / name) for name in ("a.png", "b/a.png", "c.png")]  # and its subfolders, sorted by path
    assert torch.equal(read_images(tmp_path, profile), want[[2, 1, 0]]) and read_images(tmp_path, profile).files == folder
    assert read_images([pictures[0], tmp_path / "a.png"], profile).files == [None, folder[0]]
    assert torch.equal(read_images({str(tmp_path / "c.png"), str(tmp_path / "a.png")}, profile), want[[2, 0]])


def test_what_a_folder_lacks_is_warned_of(images, tmp_path):
    Image.new("L", (40, 40)).save(tmp_path / "good.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    (tmp_path / "link.jpg").symlink_to("nowhere.jpg")
    with pytest.warns(UserWarning, match=r"^2 left out of .*broken\.jpg.*no image file .*link\.jpg; it is a broken link$") as told:
        assert cop.rank(tmp_path, profile="smoke").files == [str(tmp_path / "good.png")], "which row is which file"
    assert told[0].filename == __file__
    (tmp_path / "good.png").unlink()
    with pytest.raises(ValueError, match=r"broken\.jpg.*link\.jpg"):
        cop.rank(tmp_path, profile="smoke")


def test_a_batch_gives_the_orders_of_its_images(images):
    whole = cop.rank(images, profile="smoke")
    assert torch.equal(torch.cat([cop.rank(x[None], profile="smoke") for x in images]), whole)
    data = cop.load_data("smoke", "test")
    assert torch.equal(cop.rank(data, "smoke")[:3], whole) and torch.equal(cop.rank(data[:3], "smoke"), whole)
    with pytest.raises(ValueError, match=r"images are \(3, 1, 32, 32\) torch.float32; expected a float tensor \(B, 3, 64, 64\)"):
        cop.rank(data[:3], "natural")


def test_bad_images_are_named(tmp_path, images):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 no image")
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        cop.rank(broken, profile="smoke")
    with pytest.raises(FileNotFoundError, match=r"missing\.jpg"):
        cop.rank(tmp_path / "missing.jpg", profile="smoke")
    (tmp_path / "empty").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match="empty"):
        cop.rank(tmp_path / "empty", profile="smoke")
    with pytest.raises(ValueError, match=r"expected a float tensor \(B, 1, 32, 32\)"):
        cop.rank(torch.zeros(1, 3, 32, 32), profile="smoke")
    with pytest.raises(ValueError, match="NaN"):
        cop.rank(images * float("nan"), profile="smoke")
    with pytest.raises(ValueError, match="expected uint8"):
        cop.rank(np.zeros((8, 8)), profile="smoke")
    with pytest.raises(ValueError, match="expected at least one"):
        cop.rank([], profile="smoke")
    for given, message in (
        (b"\xff\xd8" * 1000, "an image is given as bytes"), ([b"\xff\xd8" * 1000], "given as bytes"), (None, "given as NoneType"),
        ({"a": 1}, "given as dict"), (3, "given as int"), ((x for x in ()), "expected at least one"),
        ({1, 2}, "images are a set, which has no order"), ([tmp_path], "is a folder among several images"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message) as error:
            cop.rank(given, profile="smoke")
        assert len(str(error.value)) < 300 and "\n" not in str(error.value)
    for text, advice in (("https://example.org/a.jpg", "download"), (tmp_path / "*.jpg", "patterns are not expanded"), ("", "check")):
        with pytest.raises(FileNotFoundError, match=advice):
            cop.rank(text, profile="smoke")


@pytest.mark.parametrize("factor, offset", [(127.5, 127.5), (0, 7), (2.2, 0.3), (1, -0.1)])
def test_tensors_outside_the_range_are_refused_with_the_range_seen(images, factor, offset):
    x = images * factor + offset
    with pytest.raises(ValueError, match=f"images range from {x.min():.4g} to {x.max():.4g}; expected"):
        cop.rank(x, profile="smoke")
    read_images(images * 1.0005, get_profile("smoke"))  # rounding


@pytest.mark.parametrize("shape", [(3, 40, 50), (5, 3, 40, 50), (40, 50, 5), (40, 50, 2), (3, 40, 3), (1, 40, 50), (40,), (0, 5),
                                   (2, 2, 40, 50, 3)])  # fmt: skip
def test_arrays_of_other_layouts_are_refused(shape):
    with pytest.raises(ValueError, match=r"an array of shape \(.*\) and type uint8; expected uint8 \(H, W\)") as error:
        cop.rank(np.zeros(shape, np.uint8), profile="smoke")
    assert "\n" not in str(error.value)


def test_rankings_are_cached_and_limited_equally_over_classes():
    whole = pipeline.rankings("smoke", "test")
    assert whole.shape == (64, N) and torch.equal(pipeline.rankings("smoke", "test"), whole)
    check_ranking(whole, N)
    data = cop.load_data("smoke", "test")
    some = pipeline.rankings("smoke", "test", limit=20)
    chosen = pipeline.selection(data, 20)
    assert torch.equal(some, whole[chosen]) and data.labels[chosen].bincount().tolist() == [2] * 10
    assert not torch.equal(pipeline.rankings("smoke", "test", by="in_strength"), whole)
    with pytest.raises(ValueError, match="unknown score 'degree'"):
        pipeline.rankings("smoke", "test", by="degree")


def test_two_folders_have_two_tokenizers_and_two_rankings(tmp_path, monkeypatch):
    """The same names and as many images, but others: one may not get what was made for the other."""
    for k, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        for i in range(20):
            pixels = np.random.default_rng(100 * k + i).integers(0, 64 if k else 256, (32, 32), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    smoke = PROFILES["smoke"]
    a, b = (replace(smoke, data=replace(smoke.data, name="folder", root=str(tmp_path / name), limit=None)) for name in "ab")
    means = [pipeline.tokenizer(p).state()["mean"] for p in (a, b)]
    assert means[0] > -0.1 and means[1] < -0.7
    assert not torch.equal(pipeline.rankings(a, "train"), pipeline.rankings(b, "train"))
    (tmp_path / "a").rename(tmp_path / "moved")
    moved = replace(a, data=replace(a.data, root=str(tmp_path / "moved")))
    monkeypatch.setattr(pipeline, "fit_tokens", lambda *_: pytest.fail("fitted again although only the place changed"))
    assert torch.equal(pipeline.tokenizer(moved).state()["mean"], means[0])


def test_orders_are_permutations_of_the_sampled_images():
    zoo = ordering.sample_orders("smoke", "test", 20)
    assert set(zoo) == {name for name, o in registered().items() if o.needs != "classifier" and o.settings != "looking"}
    for name, r in zoo.items():
        assert r.shape == (20, N), name
        check_ranking(r.contiguous(), N)
    assert torch.equal(zoo["reversed"], zoo["collapse"].flip(1))
    assert torch.equal(zoo["mean order"][0], ordering.mean_ranking("smoke"))
    assert len(zoo["mean order"].unique(dim=0)) == 1 and len(zoo["random"].unique(dim=0)) == 20


def test_classifiers_of_some_classes_share_the_comae_of_all():
    some = for_classifiers(replace(PROFILES["smoke"], classifier=replace(PROFILES["smoke"].classifier, class_step=5)))
    assert pipeline.comae_config(some, 0) == pipeline.comae_config(PROFILES["smoke"], 0)
    assert len(pipeline.load_data(some, "test").class_names) == 2 and classifiers.trained(some, "RViT")[0].num_classes == 2
    assert pipeline.images_config(some) != pipeline.images_config(PROFILES["smoke"])
    images = pipeline.load_data(some, "test").batch(torch.arange(3))[0]
    assert torch.equal(pipeline.rankings(some, "test")[:3], ranks.rank(images, "smoke"))


def test_contrast_is_measured_on_pixels():
    """The components of a PCA have unit variance each, so that noise would count as much as an edge."""
    images = torch.randn(2, 3, 64, 64, generator=pipeline.seeded(0))
    grey = ordering.looked_at(pipeline.tokenizer("natural"), images)
    assert grey.shape == (2, 64, 64) and grey[0, 9, 9] == pytest.approx(images[0, :, 9, 9].mean().item(), rel=1e-5)  # row 1, column 1 of patch (1, 1)
    raw, clothes = pipeline.tokenizer("smoke"), images[:, :1, :32, :32]
    assert torch.equal(ordering.looked_at(raw, clothes), raw.encode(clothes))


def test_photographs_are_ranked_by_the_released_encoder_without_any_data(tmp_path, monkeypatch):
    monkeypatch.setenv("COP_CACHE", str(tmp_path))
    monkeypatch.delenv("COP_DATA", raising=False)
    photo = np.random.default_rng(0).integers(0, 256, (70, 100, 3), dtype=np.uint8)
    assert check_ranking(cop.rank(photo), 64).shape == (1, 64)


def test_target_patches_cuts_out_the_reconstruction(images):
    tokens = pipeline.tokenizer("smoke")
    context = tokens.encode(images)
    targets = torch.tensor([[0, 9, 63]]).expand(3, -1)
    truth = context.gather(1, targets[..., None].expand(-1, -1, context.shape[-1]))
    patches = pipeline.target_patches(tokens, context, targets, truth)
    torch.testing.assert_close(patches[:, 0], images[:, :, :4, :4])
    torch.testing.assert_close(patches[:, 1], images[:, :, 4:8, 4:8])
    torch.testing.assert_close(patches[:, 2], images[:, :, 28:, 28:])


def test_stages_train_and_load_the_same_weights():
    for stage in (pipeline.comae, pipeline.predictor):
        (a, first), (b, second) = stage("smoke"), stage("smoke")
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
        assert not a.training and first.provenance == second.provenance and len(first.history)
    other, _ = pipeline.comae("smoke", seed=1)
    assert not torch.equal(other.state_dict()["encoder.log_tau"], torch.tensor(0)) and not torch.equal(
        other.encoder["to_weights"].weight, pipeline.comae("smoke")[0].encoder["to_weights"].weight
    )


def test_unknown_profile_and_every_profile_hangs_together():
    with pytest.raises(ValueError, match="unknown profile 'huge'; expected one of smoke, demo, natural, evening, paper"):
        get_profile("huge")
    for p in PROFILES.values():
        assert isinstance(p, Profile) and p.data.image_size == p.grid * p.tokens.patch_size
        for width, heads in ((p.comae.enc_dim, p.comae.enc_heads), (p.comae.dec_dim, p.comae.dec_heads)):
            assert width % heads == 0 and (width // heads) % 4 == 0, p.name
    assert PROFILES["paper"].num_tokens == 256 and PROFILES["natural"].num_tokens == 64
    assert replace(PROFILES["demo"], name="x").comae == PROFILES["demo"].comae


def test_the_paper_size_comae_takes_a_training_step():
    """Both halves of the paper's CoMAE (12 + 12 blocks, 256 tokens) on one image: finite, gradients everywhere."""
    from cop.paper.comae import CoMAE, comae_loss
    from cop.train.loop import seeded, seeded_build

    p = PROFILES["paper"]
    model = seeded_build(lambda: CoMAE(replace(p.comae, targets_per_image=2), p.grid, p.tokens.dim), 0)
    loss = comae_loss(model, torch.randn(1, 256, 16, generator=seeded(1)), seeded(2))["loss"]
    loss.backward()
    assert torch.isfinite(loss) and all(q.grad is not None and torch.isfinite(q.grad).all() for q in model.parameters())
