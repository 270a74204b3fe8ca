"""Tokens: shapes and places of patches, exact round trips, unit standard deviation, bad input."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cop.configs import DataConfig, Profile, TokenConfig
from cop.data import tokens as tokens_module
from cop.data.images import ImageSet
from cop.data.loading import load_data
from cop.data.tokens import (
    Components,
    KL16Tokens,
    PCAPatches,
    RawPatches,
    fit_tokens,
    patch_statistics,
    tokens_from_state,
)
from cop.paper.kl16 import KL16
from cop.paper.patches import check_tokens, edge_strength, patchify, unpatchify
from cop.profiles import demo, natural, paper

D = 4 * 4 * 3


def colour_profile(kind="pca", dim=D):
    return Profile("test", data=DataConfig(image_size=16, channels=3), tokens=TokenConfig(kind, 4, dim))


@pytest.fixture(scope="module")
def colour():
    """300 smooth colour images: neighbouring pixels and channels agree, so components differ in variance."""
    rng = np.random.default_rng(0)
    coarse = rng.normal(size=(300, 3, 5, 5)) + rng.normal(size=(300, 1, 5, 5))
    smooth = torch.nn.functional.interpolate(torch.from_numpy(coarse), size=16, mode="bilinear")
    pixels = 120 + 40 * smooth + 4 * torch.from_numpy(rng.normal(size=(300, 3, 16, 16)))
    pixels = pixels.clamp(0, 255).to(torch.uint8)
    return ImageSet(pixels, torch.arange(300) % 10, list("abcdefghij"), "train", "smooth")


@pytest.fixture(scope="module")
def fashion():
    return load_data("demo", "train")


# ------------------------------------------------------------------------------------------ patches


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
def test_patchify_and_back(B, C, grid, p):
    images = torch.arange(B * C * (grid * p) ** 2).reshape(B, C, grid * p, grid * p)
    patches = patchify(images, p)
    assert patches.shape == (B, grid**2, p * p * C)
    assert torch.equal(unpatchify(patches, p, C), images)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.data())
def test_patches_are_row_major(rows, columns, C, p, data):
    images = torch.arange(C * rows * columns * p * p).reshape(1, C, rows * p, columns * p)
    r, c = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    patch = images[0, :, r * p : (r + 1) * p, c * p : (c + 1) * p]  # (C, p, p)
    assert torch.equal(patchify(images, p)[0, r * columns + c], patch.permute(1, 2, 0).flatten())


# ------------------------------------------------------------------------------------------ raw


def test_edge_strength_by_hand():
    images = torch.zeros(1, 3, 8, 8)
    images[..., 4:] = torch.tensor([0.0, 3.0, 3.0]).view(3, 1, 1)  # grey: a step of 2 between columns 3 and 4
    edges = edge_strength(images, 2).view(4, 4)  # central differences: 1 in columns 3 and 4, so half of patch columns 1, 2
    torch.testing.assert_close(edges, torch.tensor([0.0, 0.5, 0.5, 0.0]).expand(4, 4))
    torch.testing.assert_close(edge_strength(images.mT, 2).view(4, 4), edges.T)


def test_raw_is_exact_and_of_unit_std(fashion):
    tokens = fit_tokens(demo, fashion, limit=10_000)
    images = fashion.batch(slice(None))[0]
    encoded = tokens.encode(images)
    assert (tokens.grid, tokens.num_tokens, tokens.dim) == (8, 64, 16) and encoded.dtype == torch.float32
    assert encoded.double().mean().item() == pytest.approx(0, abs=1e-5)
    assert encoded.double().std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert (tokens.decode(encoded) - images).abs().max() < 1e-6


def test_the_default_fit_is_close_to_the_whole_training_split(fashion):
    some, every = fit_tokens(demo, fashion), fit_tokens(demo, fashion, limit=len(fashion))
    assert some.mean == pytest.approx(every.mean, abs=0.01) and some.std == pytest.approx(every.std, rel=0.01)
    again = fit_tokens(demo, fashion).state()
    assert all(torch.equal(again[k], v) for k, v in some.state().items())  # deterministic


# ------------------------------------------------------------------------------------------ PCA


def test_pca_whitens_every_component(colour):
    tokens = fit_tokens(colour_profile(dim=8), colour)
    encoded = tokens.encode(colour.batch(slice(None))[0]).flatten(0, 1).double()  # (M, 8)
    assert encoded.shape == (300 * 16, 8)
    torch.testing.assert_close(encoded.mean(0), torch.zeros(8).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(encoded.T @ encoded / len(encoded), torch.eye(8).double(), atol=1e-3, rtol=0)


def test_components_keep_their_own_variances_under_one_standard_deviation(colour):
    tokens, whitened = (fit_tokens(colour_profile(kind, 5), colour) for kind in ("components", "pca"))
    x = tokens.encode(colour.batch(torch.arange(300))[0])
    assert x.std().item() == pytest.approx(1, abs=0.01)
    found = x.flatten(0, 1).double().var(0, correction=0)
    torch.testing.assert_close(found / found.sum(), tokens.variance / tokens.variance.sum(), rtol=0.01, atol=1e-4)
    torch.testing.assert_close(tokens.decode(x), whitened.decode(whitened.encode(colour.batch(torch.arange(300))[0])), rtol=0, atol=1e-4)


def test_tokens_of_any_grid_are_those_of_its_patches(colour):
    images = colour.batch(torch.arange(4))[0]
    tokens = fit_tokens(colour_profile("components", 5), colour)
    wide, shape = tokens.encode_grid(torch.cat([images[:2], images[2:]], 3))
    assert shape == (4, 8) and wide.shape == (2, 32, 5)
    whole = tokens.encode(images).unflatten(1, (4, 4))
    torch.testing.assert_close(wide.unflatten(1, shape), torch.cat([whole[:2], whole[2:]], 2))
    with pytest.raises(ValueError, match=r"\(4, 3, 16, 15\).*multiples of 4 px"):
        tokens.encode_grid(images[..., 1:])


def test_pca_agrees_with_the_svd(colour):
    tokens = fit_tokens(colour_profile(dim=8), colour)
    patches = patchify(colour.batch(slice(None))[0], 4).flatten(0, 1).double()
    _, singular, components = np.linalg.svd((patches - patches.mean(0)).numpy(), full_matrices=False)
    np.testing.assert_allclose(tokens.explained_variance, (singular**2 / (singular**2).sum())[:8], rtol=1e-6)
    np.testing.assert_allclose((tokens.basis.T.numpy() * components[:8]).sum(1) ** 2, 1, atol=1e-6)
    assert (tokens.explained_variance.diff() <= 0).all()


def test_pca_of_full_dimension_is_exact(colour):
    tokens = fit_tokens(colour_profile(), colour)
    images = colour.batch(slice(0, 50))[0]
    assert tokens.explained_variance.sum().item() == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(tokens.decode(tokens.encode(images)), images, atol=1e-5, rtol=0)


def test_pca_loses_what_it_says(colour):
    tokens = fit_tokens(colour_profile(dim=3), colour)
    images = colour.batch(slice(None))[0]
    patches = patchify(images, 4).flatten(0, 1).double()
    lost = (tokens.decode(tokens.encode(images)) - images).double().square().mean() / patches.var(0).mean()
    stated = 1 - tokens.explained_variance.sum().item()
    assert 0.01 < stated < 0.9 and lost.item() == pytest.approx(stated, rel=1e-3)


# ------------------------------------------------------------------------------------------ state and KL-16


@pytest.mark.parametrize("kind, dim", [("raw", D), ("pca", 5), ("components", 5)])
def test_state_restores_the_same_tokens(colour, kind, dim, tmp_path):
    from safetensors.torch import load_file, save_file

    profile = colour_profile(kind, dim)
    tokens = fit_tokens(profile, colour)
    save_file(tokens.state(), tmp_path / "tokens.safetensors")
    again = tokens_from_state(profile, load_file(tmp_path / "tokens.safetensors"))
    images = colour.batch(slice(0, 5))[0]
    assert type(again) is type(tokens) is {"raw": RawPatches, "pca": PCAPatches, "components": Components}[kind]
    torch.testing.assert_close(again.encode(images), tokens.encode(images), rtol=1e-5, atol=1e-5)
    for name, value in tokens.state().items():  # every stored number, and the layout that a product's last bits depend on
        assert torch.equal(again.state()[name], value) and again.state()[name].stride() == value.stride(), name
    assert kind == "raw" or tokens.basis.is_contiguous() and again.basis.is_contiguous()
    other_kind = "pca" if kind == "raw" else "raw"
    for other in (colour_profile(kind, dim - 1), colour_profile(other_kind, dim), demo):
        with pytest.raises(ValueError, match="Fit them again"):
            tokens_from_state(other, tokens.state())
    for foreign in ({}, {"geometry": tokens.state()["geometry"]}, tokens.state() | {"more": torch.zeros(1)}):
        with pytest.raises(ValueError, match="Fit them again"):
            tokens_from_state(profile, foreign)


def test_kl16_adapter_has_the_interface():
    torch.manual_seed(0)
    model = KL16(width=32, image_side=32)
    tokens = KL16Tokens(model)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    encoded = tokens.encode(images)
    assert (tokens.grid, tokens.num_tokens, tokens.dim) == (2, 4, 16) and encoded.shape == (2, 4, 16)
    assert torch.equal(encoded, model.encode(images)) and not encoded.requires_grad
    assert tokens.decode(encoded).shape == images.shape
    with pytest.raises(ValueError, match="float tensor"):
        tokens.encode(images[:, :1])


def test_kl16_without_weights_says_what_to_get(tmp_path, monkeypatch, colour):
    monkeypatch.setenv("COP_CACHE", str(tmp_path))
    monkeypatch.delenv("COP_KL16", raising=False)
    with pytest.raises(FileNotFoundError, match="weights; none at .*kl16.safetensors.*Download kl16.ckpt"):
        fit_tokens(paper, colour)
    monkeypatch.setenv("COP_KL16", str(tmp_path / "elsewhere.ckpt"))
    with pytest.raises(FileNotFoundError, match="elsewhere.ckpt"):
        fit_tokens(paper, colour)
    (tmp_path / "elsewhere.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="elsewhere.ckpt"):
        fit_tokens(paper, colour)


# ------------------------------------------------------------------------------------------ bad input


def test_check_tokens():
    good = torch.zeros(2, 64, 16)
    check_tokens(good, 8, 16)
    check_tokens(good.double(), 8, 16)
    nan, infinite = good.clone(), good.clone()
    nan[1, 3, 5], infinite[0, 0, 0] = float("nan"), float("inf")
    cases = [(nan, r"tokens\[1, 3, 5\] is nan"), (infinite, r"tokens\[0, 0, 0\] is inf"),
             (good.long(), "int64"), (good.numpy(), "ndarray"), (good[0], "expected .B, 64, 16."),
             (good[:, :60], "60"), (good[..., :8], "8 x 8 patches of 16")]  # fmt: skip
    for tokens, message in cases:
        with pytest.raises(ValueError, match=message):
            check_tokens(tokens, 8, 16)


def test_patch_errors():
    with pytest.raises(ValueError, match="30 x 32 px are not divisible into patches of 4 px"):
        patchify(torch.zeros(1, 1, 30, 32), 4)
    with pytest.raises(ValueError, match="patches of 0 px"):
        patchify(torch.zeros(1, 1, 32, 32), 0)
    with pytest.raises(ValueError, match=r"expected \(B, C, H, W\)"):
        patchify(torch.zeros(32, 32), 4)
    for shape in ((1, 63, 16), (1, 64, 15), (64, 16)):
        with pytest.raises(ValueError, match="square number"):
            unpatchify(torch.zeros(shape), 4, 1)


def test_encode_and_decode_errors(fashion):
    tokens = fit_tokens(demo, fashion, limit=100)
    wrong = [torch.zeros(2, 3, 32, 32), torch.zeros(2, 1, 28, 28), torch.zeros(1, 32, 32), fashion.images[:2]]
    for images in wrong:
        with pytest.raises(ValueError, match=r"expected a float tensor \(B, 1, 32, 32\)"):
            tokens.encode(images)
    with pytest.raises(ValueError, match="is nan"):
        tokens.decode(torch.full((1, 64, 16), float("nan")))


@pytest.mark.parametrize("error", [-1e-12, 0, 1e-12], ids="products rounded by {}".format)
def test_rounding_errors_are_no_directions(colour, monkeypatch, error):
    """Thousands of equal products, summed in another processor's order, are off by up to their number times 2e-16."""

    def rounded(*args):
        mean, covariance = patch_statistics(*args)
        return mean, covariance + error * torch.outer(mean, mean)

    monkeypatch.setattr(tokens_module, "patch_statistics", rounded)
    constant = ImageSet(torch.full_like(colour.images, 255), colour.labels, colour.class_names, "train", "flat")
    for kind, message in (("raw", "images that vary"), ("pca", "vary in 0 directions")):
        with pytest.raises(ValueError, match=message):
            fit_tokens(colour_profile(kind), constant)
    one = ImageSet(constant.images.clone(), colour.labels, colour.class_names, "train", "one pixel, one grey level, in one image of 10")
    one.images[::10, 0, 0, 0] -= 1
    with pytest.raises(ValueError, match="vary in 1 directions"):
        fit_tokens(colour_profile(), one)


def test_fit_errors(fashion, colour):
    with pytest.raises(ValueError, match="fitted on the training split; got test"):
        fit_tokens(demo, load_data("demo", "test"))
    with pytest.raises(ValueError, match="unknown kind of tokens 'vq'"):
        fit_tokens(colour_profile("vq"), colour)
    with pytest.raises(ValueError, match="dim is 47; expected 48 for raw"):
        fit_tokens(colour_profile("raw", 47), colour)
    with pytest.raises(ValueError, match="dim is 49; expected 1 to 48 for pca"):
        fit_tokens(colour_profile("pca", 49), colour)
    with pytest.raises(ValueError, match="expected 3 x 64 x 64"):
        fit_tokens(natural, colour)
    with pytest.raises(ValueError, match="kl16 tokens have"):
        fit_tokens(colour_profile("kl16", 16), colour)
    constant = ImageSet(torch.full_like(colour.images, 7), colour.labels, colour.class_names, "train", "flat")
    for kind, message in (("raw", "images that vary"), ("pca", "vary in 0 directions")):
        with pytest.raises(ValueError, match=message):
            fit_tokens(colour_profile(kind), constant)
    pixels = colour.images[:, :1].expand(-1, 3, -1, -1)
    grey = ImageSet(pixels, colour.labels, colour.class_names, "train", "grey")
    with pytest.raises(ValueError, match="vary in 16 directions; choose at most 16"):
        fit_tokens(colour_profile(dim=20), grey)
    odd = replace(demo, data=replace(demo.data, image_size=30))
    with pytest.raises(ValueError, match="divisible|expected 1 x 30 x 30"):
        fit_tokens(odd, fashion)
