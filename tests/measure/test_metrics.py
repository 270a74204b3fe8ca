"""Metrics against closed forms, limits and libraries."""

import math
import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

from cop.measure import metrics
from cop.paper import cvit


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(n, d=4, seed=0):
    return torch.randn(n, d, generator=generator(seed), dtype=torch.float64)


def probabilities(n, classes=5, seed=0):
    return torch.rand(n, classes, generator=generator(seed), dtype=torch.float64).softmax(-1)


# ---- Fréchet distance ----------------------------------------------------------------------------


def test_frechet_of_gaussians_in_closed_form():
    """Diagonal covariances commute: |mu - mu'|^2 + sum (s - s')^2."""
    mu, nu = np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0, 5.0])
    s, t = np.array([1.0, 0.5, 2.0]), np.array([2.0, 0.5, 3.0])
    a, b = {"mu": mu, "sigma": np.diag(s**2)}, {"mu": nu, "sigma": np.diag(t**2)}
    assert metrics.frechet(a, b) == pytest.approx(1 + 4 + 1 + 0 + 1, rel=1e-9)
    assert metrics.frechet(a, a) == pytest.approx(0, abs=1e-9)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_frechet_is_the_matrix_square_root_formula_and_symmetric(seed):
    a, b = (metrics.statistics(gaussian(50, seed=seed)), metrics.statistics(gaussian(60, seed=seed + 1) * 2 + 1))
    root = scipy.linalg.sqrtm(a["sigma"] @ b["sigma"]).real
    expected = ((a["mu"] - b["mu"]) ** 2).sum() + np.trace(a["sigma"] + b["sigma"] - 2 * root)
    assert metrics.frechet(a, b) == pytest.approx(expected, rel=1e-6)
    assert metrics.frechet(a, b) == pytest.approx(metrics.frechet(b, a), rel=1e-9)


def test_frechet_of_samples_approaches_the_closed_form():
    real, fake = gaussian(40_000), gaussian(40_000, seed=1) * 2 + 1  # 4 dimensions: 4 * 1 + 4 * (2 - 1)^2 = 8
    assert metrics.frechet(metrics.statistics(real), metrics.statistics(fake)) == pytest.approx(8, rel=0.03)


@pytest.mark.parametrize("n", [300, 12])  # more images than dimensions, and fewer
def test_frechet_from_a_reference_is_that_of_the_library(n):
    real, fake = metrics.statistics(gaussian(400, 20)), metrics.statistics(gaussian(n, 20, seed=1) * 1.5 + 0.2)
    theirs = fid_statistics_to_metric(real, fake, verbose=False)[KEY_METRIC_FID]
    distance = metrics.frechet_from(real)
    assert distance(fake) == pytest.approx(theirs, rel=1e-6) and distance(real) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="20 and 4 dimensions"):
        distance(metrics.statistics(gaussian(10)))


def test_half_precision_features_are_handled_in_double():
    features = gaussian(100).half()
    assert metrics.statistics(features)["sigma"].dtype == metrics.statistics(features)["mu"].dtype == np.float64


def test_reference_statistics_from_a_file(tmp_path):
    reference = metrics.statistics(gaussian(100, seed=5))
    np.savez(tmp_path / "ref.npz", mu=reference["mu"].astype(np.float32), sigma=reference["sigma"])
    loaded = metrics.load_statistics(tmp_path / "ref.npz")
    assert loaded["mu"].dtype == np.float64
    real, fake = gaussian(100), gaussian(100, seed=1)
    ours = metrics.generation_metrics(real, fake, probabilities(100), reference=loaded)["frechet"]
    assert ours == pytest.approx(metrics.frechet(reference, metrics.statistics(fake)), rel=1e-4)
    np.savez(tmp_path / "bad.npz", mean=reference["mu"])
    with pytest.raises(ValueError, match="lacks"):
        metrics.load_statistics(tmp_path / "bad.npz")
    with pytest.raises(FileNotFoundError, match="mu"):
        metrics.load_statistics(tmp_path / "none.npz")


def test_damaged_files_of_metrics_are_named(tmp_path):
    good, bad = tmp_path / "good.npz", tmp_path / "bad.npz"
    np.savez(good, **metrics.statistics(gaussian(100)), arr_0=np.zeros((2, 8, 8, 3), np.uint8))
    whole = good.read_bytes()
    np.save(tmp_path / "array.npy", np.zeros(3))
    for content in (b"", whole[: len(whole) // 2], b"no archive", (tmp_path / "array.npy").read_bytes()):
        bad.write_bytes(content)
        for load in (metrics.load_statistics, lambda path: next(metrics.reference_images(path))):
            with pytest.raises(ValueError, match="cannot read .*bad.npz: .*; expected .*whole npz file"):
                load(bad)
    for mu, sigma in ((np.zeros(4), np.eye(5)), (np.zeros((1, 4)), np.eye(4)), (np.zeros(0), np.zeros((0, 0)))):
        np.savez(bad, mu=mu, sigma=sigma)
        with pytest.raises(
            ValueError, match=r"bad.npz holds mu \(.*\) and sigma .*; expected .*'mu' \(D,\) and 'sigma' \(D, D\)"
        ):
            metrics.load_statistics(bad)
    for mu in (np.full(4, np.nan), np.array(list("abcd"))):
        np.savez(bad, mu=mu, sigma=np.eye(4))
        with pytest.raises(ValueError, match="bad.npz holds mu .*no finite numbers"):
            metrics.load_statistics(bad)
    assert next(metrics.reference_images(good)).shape == (2, 3, 8, 8)
    for arr_0 in (np.zeros((2, 8, 8, 3)), np.zeros((2, 8, 8, 4), np.uint8), np.zeros((2, 8, 3), np.uint8)):
        np.savez(bad, arr_0=arr_0)
        with pytest.raises(ValueError, match=r"bad.npz holds arr_0 .*; expected the reference images, uint8"):
            next(metrics.reference_images(bad))
    with pytest.raises(FileNotFoundError, match="none.npz; expected the reference images"):
        next(metrics.reference_images(tmp_path / "none.npz"))
    bad.write_bytes(b"")
    with pytest.raises(ValueError, match="bad.npz is damaged or holds more than tensors"):
        metrics.inception_extractor(bad)


# ---- inception score -----------------------------------------------------------------------------


def test_inception_score_limits():
    sure = torch.eye(10, dtype=torch.float64).repeat(20, 1)  # every class, with certainty: the number of classes
    assert metrics.inception_score(sure) == pytest.approx(10)
    assert metrics.inception_score(torch.full((200, 10), 0.1)) == pytest.approx(1)
    assert metrics.inception_score(sure[:1].repeat(200, 1)) == pytest.approx(1)  # one class only: collapsed


def test_inception_score_is_its_formula():
    p = probabilities(100)
    parts = [(part * (part / part.mean(0)).log()).sum(1).mean().exp() for part in p.split(50)]
    assert metrics.inception_score(p, splits=2) == pytest.approx(torch.stack(parts).mean().item(), rel=1e-9)


# ---- precision and recall ------------------------------------------------------------------------


def brute_force(real, fake, k):
    """Share of the points of one set inside a k-nearest-neighbour ball of the other, pair by pair."""

    def inside(points, centres):
        radii = [sorted((c - other).norm().item() for other in centres)[k] for c in centres]
        return np.mean([any((p - c).norm() <= r for c, r in zip(centres, radii, strict=True)) for p in points])

    return inside(fake, real), inside(real, fake)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_are_their_definition(k):
    real, fake = gaussian(40), gaussian(30, seed=1) * 1.5 + 0.5
    assert metrics.precision_recall(real, fake, k) == pytest.approx(brute_force(real, fake, k))


def test_many_images_are_compared_in_parts(monkeypatch):
    real, fake = gaussian(70), gaussian(50, seed=1) * 1.5 + 0.5
    whole, asked = metrics.precision_recall(real, fake), []
    ask = metrics.prc_features_to_metric
    monkeypatch.setattr(metrics, "prc_features_to_metric", lambda *a, **k: asked.append(k) or ask(*a, **k))
    monkeypatch.setattr(metrics, "MANY", 60)
    assert metrics.precision_recall(real, fake) == pytest.approx(whole)
    assert metrics.precision_recall(fake, real) == pytest.approx(whole[::-1])  # whichever of them is large
    assert [k["save_cpu_ram"] for k in asked] == [True, True] and asked[0]["prc_batch_size"] * 50_000 * 8 < 2**30


def test_collapsed_generator_is_precise_but_recalls_nothing():
    real = gaussian(500)
    collapsed = real[7] + 0.01 * gaussian(500, seed=1)
    out = metrics.generation_metrics(real, collapsed, probabilities(500))
    assert out["precision"] > 0.95
    assert out["recall"] < 0.05


def test_swapped_arguments_show():
    """The same two sets the wrong way round must give the opposite, so that no swap goes unnoticed."""
    real = gaussian(500)
    collapsed = real[7] + 0.01 * gaussian(500, seed=1)
    precision, recall = metrics.precision_recall(collapsed, real)
    assert precision < 0.05
    assert recall > 0.95


def test_identical_sets_are_perfect():
    real = gaussian(300)
    out = metrics.generation_metrics(real, real.clone(), probabilities(300))
    assert out["frechet"] == pytest.approx(0, abs=1e-8)
    assert out["precision"] == out["recall"] == 1
    assert set(out) == {"frechet", "inception_score", "precision", "recall"}


def test_bad_features_give_one_clear_error():
    real, p = gaussian(20), probabilities(20)
    broken = real.clone()
    broken[3, 1] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        metrics.generation_metrics(real, broken, p)
    with pytest.raises(ValueError, match="4 and 6 dimensions"):
        metrics.generation_metrics(real, gaussian(20, 6), p)
    with pytest.raises(ValueError, match="at least 4 images"):
        metrics.generation_metrics(real[:3], real, p)
    with pytest.raises(ValueError, match="20 features but 19"):
        metrics.generation_metrics(real, real, p[1:])
    with pytest.raises(ValueError, match="apply softmax"):
        metrics.generation_metrics(real, real, p.log())
    with pytest.raises(ValueError, match="splits is 30"):
        metrics.generation_metrics(real, real, p, splits=30)
    with pytest.raises(ValueError, match="one extractor"):
        metrics.frechet(metrics.statistics(real), metrics.statistics(gaussian(20, 6)))


# ---- extractors ----------------------------------------------------------------------------------


def test_features_of_a_classifier_do_not_depend_on_the_batches():
    model = cvit.CViT(img_size=32, patch_size=4, in_chans=1, num_classes=10, embed_dim=32, depth=2, num_heads=2).train()
    extractor = metrics.classifier_extractor(model)
    x = torch.randn(10, 1, 32, 32, generator=generator())
    features, p = metrics.Features(extractor)(x)
    assert features.shape == (10, 32)
    assert p.shape == (10, 10)
    assert features.dtype == torch.float64
    with torch.no_grad():
        torch.testing.assert_close(model(x).softmax(-1).double(), p)
        torch.testing.assert_close(model.forward_head(model.forward_features(x), pre_logits=True).double(), features)
    for again in (metrics.Features(extractor, batch_size=3)(x), metrics.Features(extractor)(iter(x.split(4)))):
        torch.testing.assert_close(again[0], features, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="no images"):
        metrics.Features(extractor)(iter(()))
    with pytest.raises(ValueError, match="apply softmax"):
        metrics.Features(lambda b: (b.flatten(1), b.flatten(1)))(x)


@pytest.mark.slow
def test_inception_extractor_with_synthetic_weights(tmp_path, monkeypatch):
    from torch_fidelity import feature_extractor_inceptionv3 as library

    with monkeypatch.context() as patch:  # the library's network without its download
        patch.setattr(library, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(library.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = library.FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"])
    torch.save(network.state_dict(), tmp_path / "inception.pth")
    extractor = metrics.inception_extractor(tmp_path / "inception.pth")
    x = torch.randint(256, (2, 3, 64, 64), generator=generator()).byte()
    features, p = metrics.Features(extractor)(x)
    assert features.shape == (2, 2048)
    assert p.shape == (2, 1008)
    with pytest.raises(ValueError, match="uint8"):
        extractor(x.float())
    torch.save({"weights": print}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="more than tensors"):
        metrics.inception_extractor(tmp_path / "evil.pth")


def test_missing_inception_weights_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="download them from https"):
        metrics.inception_extractor(tmp_path / "none.pth")


# ---- uncertainty ---------------------------------------------------------------------------------


def test_intervals_of_a_mean_are_students_even_with_few_values():
    """Against scipy's one-sample test. With 4 values 1.96 standard errors would be three fifths of the width."""
    for n in (4, 400):
        x = gaussian(n, 1)[:, 0]
        interval, p = metrics.of_mean(x)
        theirs = stats.ttest_1samp(x, 0)
        assert interval == pytest.approx((x.mean().item(), *theirs.confidence_interval()))
        assert p == pytest.approx(theirs.pvalue)
    assert metrics.of_mean(torch.zeros(5)) == ((0, 0, 0), 1)
    alone, p = metrics.of_mean(torch.ones(1))
    assert alone.value == 1 and math.isnan(alone.low) and math.isnan(alone.high) and math.isnan(p)
    with pytest.raises(ValueError, match=r"shape \(0,\); expected \(n,\)"):
        metrics.of_mean(torch.ones(0))


@pytest.mark.parametrize("S, of_seed, of_image, least", [(2, 1.0, 3.0, 0.8), (5, 1.0, 5.0, 0.92), (5, 0.0, 0.0, 0.92)])
def test_intervals_over_seeds_and_images_hold_the_truth_of_both(S, of_seed, of_image, least):
    """Other seeds and other images are drawn; the interval over the images alone would miss the truth too often. Two seeds that are
    alike by chance are taken for alike, so that of two it holds the truth in 84 %, not in 95."""
    rng, n, draws, held, alone = np.random.default_rng(0), 300, 400, 0, 0
    for _ in range(draws):
        x = 10 * rng.standard_normal((S, n)) + of_image * rng.standard_normal(n) + of_seed * rng.standard_normal((S, 1))
        both, images = metrics.of_trainings(x)[0], metrics.of_mean(x.mean(0))[0]
        held, alone = held + (both.low <= 0 <= both.high), alone + (images.low <= 0 <= images.high)
    assert held >= least * draws and (not of_seed or alone < held - 0.08 * draws)


def test_a_single_seed_or_equal_ones_say_what_the_images_say():
    x = gaussian(40, 1)[:, 0].double().numpy()
    (one, p), (images, q) = metrics.of_trainings(x[None]), metrics.of_mean(x)
    assert one == images and p == q
    equal, p = metrics.of_trainings(np.stack([x, x, x]))
    assert equal == pytest.approx(images) and p == pytest.approx(q)
    assert metrics.of_trainings(np.zeros((2, 5))) == ((0, 0, 0), 1)
    far = np.stack([x + 9, x - 9, x])  # the seeds decide: Student's interval of their means
    interval, by_seed = metrics.of_trainings(far)[0], stats.ttest_1samp(far.mean(1), 0).confidence_interval()
    assert interval.value == pytest.approx(x.mean()) and interval.high - interval.low == pytest.approx(by_seed.high - by_seed.low, rel=0.02)
    with pytest.raises(ValueError, match=r"shape \(5,\); expected \(S, n\)"):
        metrics.of_trainings(np.zeros(5))


def test_jackknife_of_a_mean_is_the_interval_of_the_mean():
    x = gaussian(60, 1)[:, 0]
    left_out = torch.stack([torch.cat([x[:i], x[i + 1 :]]).mean() for i in range(60)])
    (interval, p), (expected, q) = metrics.of_jackknife(x.mean().item(), left_out), metrics.of_mean(x)
    assert interval == pytest.approx(expected) and p == pytest.approx(q)
    assert all(math.isnan(v) for v in metrics.of_jackknife(1.0, torch.ones(1))[0][1:]), "one part says nothing"


def test_pairing_narrows_the_interval():
    """Two classifiers that err on the same images: their difference is far surer than either accuracy."""
    a = torch.rand(1000, generator=generator()) < 0.7
    b = a.clone()
    b[:20] = False
    interval, p = metrics.of_mean(a.double() - b.double())
    assert 0 < interval.low < interval.value < interval.high < 0.03 and p < 0.001


def test_shares_stay_within_0_and_1():
    low, high = metrics.share_interval(torch.ones(50, dtype=torch.bool))[1:]
    assert 0.9 < low < high == 1
    assert metrics.share_interval(torch.arange(4) < 2) == pytest.approx((0.5, 0.150, 0.850), abs=1e-3)


def test_holm_against_known_values():
    """The four p-values of the textbook example (Holm 1979's procedure as R's p.adjust prints it)."""
    assert metrics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert metrics.holm([0.9, 0.8]) == pytest.approx([1, 1])
    assert metrics.holm([0.02, math.nan, 0.03]) == pytest.approx([0.04, math.nan, 0.04], nan_ok=True)
    assert len(metrics.holm([])) == 0


def test_mcnemar_by_hand():
    a = torch.tensor([1] * 9 + [0] * 1 + [1] * 50)
    b = torch.tensor([0] * 9 + [1] * 1 + [1] * 50)
    out = metrics.mcnemar(a, b)
    assert (out["only_a"], out["only_b"]) == (9, 1)
    assert out["p"] == pytest.approx(2 * (1 + 10) / 2**10)  # both tails of Binomial(10, 1/2)
    assert metrics.mcnemar(b, a)["p"] == pytest.approx(out["p"])
    assert metrics.mcnemar(a, a) == {"only_a": 0, "only_b": 0, "p": 1.0}


def test_unpaired_input_is_refused():
    with pytest.raises(ValueError, match="same images"):
        metrics.mcnemar(torch.ones(5), torch.ones(6))
    with pytest.raises(ValueError, match="same images"):
        metrics.mcnemar(torch.ones(5), torch.ones(5, 1))


# ---- curves --------------------------------------------------------------------------------------


def test_auc_is_the_mean_in_per_cent():
    falling = 0.8 * (1 - (np.arange(100) / 100) ** 4)
    assert metrics.auc(falling) == pytest.approx(falling.mean() * 100)
    with pytest.raises(ValueError, match="fractions"):
        metrics.auc([80.0, 70.0])


def test_knee_of_a_kinked_line_is_the_kink():
    ratios = np.arange(100) / 100
    kinked = np.where(ratios <= 0.78, 0.8 - 0.1 * ratios, 0.722 - 3 * (ratios - 0.78))
    assert metrics.knee(ratios, kinked) == pytest.approx(0.78)
    assert metrics.knee(ratios, 0.8 - 0.5 * ratios) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a flat curve has none, and is divided by nothing
        assert metrics.knee(ratios, 0 * ratios + 0.1) is None
    with pytest.raises(ValueError, match="ratios increasing"):
        metrics.knee(ratios[::-1], kinked)
    with pytest.raises(ValueError, match="one length"):
        metrics.knee(ratios[1:], kinked)
