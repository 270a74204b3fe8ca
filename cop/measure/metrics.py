"""How good generated images are, how sure differences are, and where the knee of an accuracy curve lies.

Inception score, precision and recall come from torch-fidelity, applied to features that any extractor made; the Fréchet
distance is ours, which is shorter and ten times as fast. With Inception features and ADM's reference statistics it is
the FID; with a small classifier's features it is not, and must not be called so.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import numpy as np
import torch
from kneed import KneeLocator
from scipy import stats
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

MANY = 20_000  # images: from here on their distances are computed in parts, less than 1 GiB at a time
Extractor = Callable[[Tensor], tuple[Tensor, Tensor]]
Statistics = dict[str, np.ndarray]  # "mu" (D,) and "sigma" (D, D), float64


@dataclass
class Features:
    """Runs an extractor over images in batches.

    extractor: images (b, C, H, W) -> features (b, D) and class probabilities (b, classes).
    """

    extractor: Extractor
    batch_size: int = 256
    device: torch.device | str = "cpu"

    @torch.no_grad()
    def __call__(self, images: Tensor | Iterable[Tensor]) -> tuple[Tensor, Tensor]:
        """Images (n, C, H, W), or batches of them -> features (n, D), probabilities (n, classes), float64 on the CPU.

        Raises ValueError if there are no images, or the extractor's probabilities are none.
        """
        batches = images.split(self.batch_size) if isinstance(images, Tensor) else images
        parts = [[out.double().cpu() for out in self.extractor(batch.to(self.device))] for batch in batches]
        if sum(len(features) for features, _ in parts) == 0:
            raise ValueError("there are no images to extract features from")
        features, probabilities = (torch.cat(part) for part in zip(*parts, strict=True))
        _check_probabilities(probabilities)
        return features, probabilities


def classifier_extractor(model: nn.Module) -> Extractor:
    """Features before the head, and softmax of the logits, of any timm classifier (put in eval mode)."""
    model.eval()

    def extract(images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = model.forward_features(images)
        return model.forward_head(tokens, pre_logits=True), model.forward_head(tokens).softmax(-1)

    return extract


def inception_extractor(weights: str | Path, device: torch.device | str = "cpu") -> Extractor:
    """ADM's Inception as ported by torch-fidelity: pool3 features (2048) and class probabilities (1008).

    weights: the port's weight file. The extractor takes uint8 images (b, 3, H, W) and resizes them itself.
    Raises FileNotFoundError if the file is missing, ValueError if it holds anything but tensors.
    """
    if not Path(weights).is_file():
        raise FileNotFoundError(f"no Inception weights at {weights}; download them from {URL_INCEPTION_V3}")
    try:  # the library unpickles whatever it finds, so this makes sure beforehand that there are only tensors
        torch.load(weights, weights_only=True, map_location="cpu")
    except (UnpicklingError, RuntimeError, EOFError) as error:
        what = f"{weights} is damaged or holds more than tensors"
        raise ValueError(f"{what}; download it again from {URL_INCEPTION_V3}") from error
    wanted = ["2048", "logits_unbiased"]
    network = FeatureExtractorInceptionV3("inception-v3-compat", wanted, feature_extractor_weights_path=str(weights))
    network = network.to(device)

    def extract(images: Tensor) -> tuple[Tensor, Tensor]:
        if images.dtype != torch.uint8:
            raise ValueError(f"images are {images.dtype}; Inception takes uint8 0..255: (x * 255).round().byte()")
        features, logits = network(images)
        return features, logits.softmax(-1)

    return extract


def _check_features(name: str, features: Tensor, least: int = 2) -> Tensor:
    """Features (n, D) as float64 on the CPU: covariances need the precision, and the library asserts equal types."""
    if features.ndim != 2 or len(features) < least:
        found = tuple(features.shape)
        raise ValueError(f"{name} have shape {found}, expected (n, D) with at least {least} images")
    if not torch.isfinite(features).all():
        raise ValueError(f"{name} hold values that are not finite; look at the images or the extractor first")
    return features.detach().double().cpu()


def _check_dimensions(real: int, fake: int) -> None:
    if real != fake:
        raise ValueError(f"features have {real} and {fake} dimensions: use one extractor for both")


def _check_probabilities(p: Tensor) -> None:
    if p.ndim != 2 or p.min() < 0 or not torch.allclose(p.sum(-1), p.new_ones(len(p)), atol=1e-3):
        expected = "(n, classes), not negative and sum to 1"
        raise ValueError(f"class probabilities must be {expected}; apply softmax to logits")


def statistics(features: Tensor) -> Statistics:
    """Mean and covariance of features (n, D)."""
    x = _check_features("features", features).numpy()
    return {"mu": x.mean(0), "sigma": np.cov(x, rowvar=False)}


def load_statistics(path: str | Path) -> Statistics:
    """Reference statistics from an npz file with "mu" and "sigma", such as ADM's for ImageNet-256.

    Raises FileNotFoundError for no file, ValueError naming a damaged one or one of other arrays.
    """
    expected = "a whole npz file with 'mu' (D,) and 'sigma' (D, D), finite numbers"
    mu, sigma = _arrays(path, ("mu", "sigma"), expected)
    if mu.ndim != 1 or not mu.size or sigma.shape != (mu.size, mu.size):
        raise ValueError(f"{path} holds mu {mu.shape} and sigma {sigma.shape}; expected {expected}")
    if not all(x.dtype.kind in "fiu" and np.isfinite(x).all() for x in (mu, sigma)):
        found = f"mu {mu.dtype} and sigma {sigma.dtype} with values that are no finite numbers"
        raise ValueError(f"{path} holds {found}; expected {expected}")
    return {"mu": mu.astype(np.float64), "sigma": sigma.astype(np.float64)}


def reference_images(path: str | Path, batch_size: int = 256) -> Iterator[Tensor]:
    """The images of ADM's reference file, 10,000 for ImageNet-256, in batches: uint8 (b, 3, H, W).

    Raises FileNotFoundError for no file, ValueError for a damaged one or one without "arr_0", uint8 (n, H, W, 3).
    """
    expected = "the reference images, uint8 (n, H, W, 3)"
    (images,) = _arrays(path, ("arr_0",), f"{expected} as 'arr_0' of a whole npz file")
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise ValueError(f"{path} holds arr_0 {images.dtype} {images.shape}; expected {expected}")
    yield from torch.from_numpy(images).permute(0, 3, 1, 2).split(batch_size)


def _arrays(path: str | Path, names: tuple[str, ...], expected: str) -> list[np.ndarray]:
    """The named arrays of an npz file; any trouble with it names the file and says what is expected."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}; expected {expected}")
    try:
        with np.load(path, allow_pickle=False) as file:
            if missing := sorted(set(names) - set(file.files)):
                raise ValueError(f"it lacks {missing} and holds {file.files[:5]}")
            return [file[name] for name in names]
    except Exception as error:  # numpy, zipfile and zlib raise half a dozen types on damaged files
        raise ValueError(f"cannot read {path}: {error}; expected {expected}") from error


def frechet(real: Statistics, fake: Statistics) -> float:
    """Fréchet distance of two Gaussians: |mu - mu'|^2 + tr(S + S' - 2 (S S')^(1/2)).

    Raises ValueError if they come from different feature spaces.
    """
    return frechet_from(real)(fake)


def frechet_from(real: Statistics) -> Callable[[Statistics], float]:
    """`frechet` from one reference, for many others: what depends on the reference alone is computed once.

    tr (S S')^(1/2) is also the sum of the roots of the eigenvalues of S^(1/2) S' S^(1/2), which is symmetric, so that
    they take a tenth of the time; at 768 or 2048 dimensions a jackknife needs that.
    """
    values, vectors = np.linalg.eigh(real["sigma"])
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T  # S^(1/2)

    def distance(fake: Statistics) -> float:
        _check_dimensions(real["mu"].size, fake["mu"].size)
        inner = np.linalg.eigvalsh(root @ fake["sigma"] @ root).clip(0)
        difference = real["mu"] - fake["mu"]
        traces = values.sum() + np.trace(fake["sigma"]) - 2 * np.sqrt(inner).sum()
        return float(difference @ difference + traces)

    return distance


def inception_score(probabilities: Tensor, splits: int = 10) -> float:
    """exp of the mean KL(p(y|x) || p(y)), averaged over `splits` consecutive parts; from 1 to the number of classes.

    Few images per part bias it downwards, so compare equal n and splits only. Raises ValueError for fewer images than
    splits, or values that are no probabilities.
    """
    _check_probabilities(probabilities)
    if not 1 <= splits <= len(probabilities):
        raise ValueError(f"splits is {splits}, expected 1 to the number of images, {len(probabilities)}")
    # The library wants logits, and softmax(log p) = p; the clamp keeps 0 log 0 at 0.
    logits = probabilities.double().cpu().clamp_min(1e-30).log()
    return isc_features_to_metric(logits, splits=splits, shuffle=False)[KEY_METRIC_ISC_MEAN]


def precision_recall(real_features: Tensor, fake_features: Tensor, k: int = 3) -> tuple[float, float]:
    """Precision and recall by k-nearest-neighbour balls (Kynkäänniemi et al. 2019), each 0..1.

    Precision is the share of generated images inside a ball around a real one, recall that of real images inside a ball
    around a generated one. A collapsed generator has high precision and almost no recall.
    Raises ValueError if the feature spaces differ or a set has no k neighbours.
    """
    real = _check_features("real_features", real_features, least=k + 1)
    fake = _check_features("fake_features", fake_features, least=k + 1)
    _check_dimensions(real.shape[1], fake.shape[1])
    many = max(len(real), len(fake)) > MANY
    how = {"prc_neighborhood": k, "prc_batch_size": 1_000 if many else 10_000, "save_cpu_ram": many, "verbose": False}
    out = prc_features_to_metric(fake, real, **how)  # generated images first, since torch-fidelity 0.4.0
    return out[KEY_METRIC_PRECISION], out[KEY_METRIC_RECALL]


def generation_metrics(
    real_features: Tensor,
    fake_features: Tensor,
    fake_probabilities: Tensor,
    k: int = 3,
    splits: int = 10,
    reference: Statistics | None = None,
) -> dict[str, float]:
    """The four numbers of Tables 2-4, as {"frechet", "inception_score", "precision", "recall"}.

    Args:
        real_features: (n, D); fake_features: (m, D) by the same extractor; fake_probabilities: (m, classes).
        k: neighbours of precision and recall; splits: parts of the inception score.
        reference: statistics for the Fréchet distance other than those of real_features. The paper's "tFID" compares
            with the training set's statistics, its precision with 10,000 reference images.
    """
    if len(fake_features) != len(fake_probabilities):
        found = f"{len(fake_features)} features but {len(fake_probabilities)} probabilities"
        raise ValueError(f"{found}, expected a pair each")
    precision, recall = precision_recall(real_features, fake_features, k)
    return {
        "frechet": frechet(reference or statistics(real_features), statistics(fake_features)),
        "inception_score": inception_score(fake_probabilities, splits),
        "precision": precision,
        "recall": recall,
    }


class Interval(NamedTuple):
    value: float  # of all the data
    low: float
    high: float


def student(value: float, error: float, freedom: int) -> tuple[Interval, float]:
    """Student's 95 % interval of an estimate with this standard error and so many degrees of freedom, and its p.

    p is the two-sided probability of the estimate if it were 0. Both are nan without a degree of freedom; an estimate
    that does not vary is its own interval.
    """
    if freedom < 1:
        return Interval(value, math.nan, math.nan), math.nan
    half = stats.t.ppf(0.975, freedom) * error
    p = 2 * stats.t.sf(abs(value) / error, freedom) if error > 0 else float(value == 0)
    return Interval(value, value - half, value + half), float(p)


def of_mean(values: Tensor | np.ndarray) -> tuple[Interval, float]:
    """`student` of the mean of values (n,), one per image or batch; of their differences it is the paired test.

    It equals the jackknife that leaves out one value at a time. Raises ValueError for another shape or no values.
    """
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or len(x) == 0:
        raise ValueError(f"values have shape {x.shape}; expected (n,), one value per image or batch")
    return student(float(x.mean()), float(x.std() / max(len(x) - 1, 1) ** 0.5), len(x) - 1)


def of_trainings(values: np.ndarray) -> tuple[Interval, float]:
    """`student` of the mean of values (S, n), one per seed and image, where other seeds and other images could have been drawn: two
    crossed random effects, with the degrees of freedom of Satterthwaite (1946).

    With mean squares of seeds, images and what is left of both, the variance is (MS_s + MS_i - MS_e) / (S n); MS_s counts for
    at least MS_e. Two seeds that differ much say little of a third, and the interval is as wide as that; two that are alike by chance
    are taken for alike, so that with two it holds the truth in 84 to 95 % of simulated cases, with five in 95. A single one says nothing of
    others: `of_mean`. Raises ValueError for another shape.
    """
    x = np.asarray(values, dtype=float)
    if x.ndim != 2 or x.size == 0:
        raise ValueError(f"values have shape {x.shape}; expected (S, n), one per seed and image")
    S, n = x.shape
    if S == 1 or n == 1:
        return of_mean(x.flatten())
    of_seed, of_image, mean = x.mean(1, keepdims=True), x.mean(0, keepdims=True), x.mean()
    freedom = np.array([S - 1, n - 1, (S - 1) * (n - 1)])
    squares = np.array([n * np.square(of_seed - mean).sum(), S * np.square(of_image - mean).sum(),
                        np.square(x - of_seed - of_image + mean).sum()]) / freedom  # fmt: skip
    signs = np.array([1, 1, -1]) if squares[0] > squares[2] else np.array([0, 1, 0])
    variance, spread = float(signs @ squares), float((signs**2 * squares**2 / freedom).sum())
    return student(float(mean), (variance / x.size) ** 0.5, variance**2 / spread if spread else n - 1)


def of_jackknife(value: float, left_out: Tensor) -> tuple[Interval, float]:
    """`student` of a statistic of a sample, from its values (G,) without each of G equal groups of the sample.

    For two systems pass the difference of their values, and of their values without the same groups: that is paired.
    No image is repeated as in a bootstrap, whose repeats raise a Fréchet distance, lower recall, and moved intervals
    below what is possible.
    """
    G = len(left_out)
    error = ((G - 1) / G * (left_out - left_out.mean()).square().sum()).sqrt().item()
    return student(value, error, G - 1)


def share_interval(hits: Tensor | np.ndarray) -> Interval:
    """The share of true ones among hits (n,) with its 95 % interval by Wilson's method, which stays within 0..1."""
    found = stats.binomtest(int(np.sum(np.asarray(hits, dtype=bool))), len(hits))
    return Interval(found.statistic, *map(float, found.proportion_ci(method="wilson")))


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's correction of a family of p-values (m,): adjusted ones in the same order, significant where below .05.

    The chance that any true null hypothesis of the family is rejected then stays below .05, however the tests depend on
    each other. Values that are nan stay nan and do not count. Three lines, where statsmodels would be a dependency.
    """
    p = np.asarray(p, dtype=float)
    order = [i for i in p.argsort(kind="stable") if not np.isnan(p[i])]
    adjusted = p.copy()
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)).clip(max=1)
    return adjusted


def mcnemar(correct_a: Tensor, correct_b: Tensor) -> dict[str, float]:
    """Exact McNemar test of two classifiers on the same n images: {"only_a", "only_b", "p"}.

    The images that only one of them gets right are counted; p is the two-sided probability of a fair split of these.
    Raises ValueError unless both are (n,).
    """
    if correct_a.ndim != 1 or correct_a.shape != correct_b.shape:
        found = f"correct_a has shape {tuple(correct_a.shape)} and correct_b {tuple(correct_b.shape)}"
        raise ValueError(f"{found}, expected (n,) for both, of the same images in the same order")
    a, b = correct_a.bool().cpu(), correct_b.bool().cpu()
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    p = stats.binomtest(only_a, only_a + only_b, 0.5).pvalue if only_a + only_b else 1.0
    return {"only_a": only_a, "only_b": only_b, "p": float(p)}


def auc(top1: Sequence[float]) -> float:
    """Table 5's AuC: the mean of top-1 (fractions) over the mask rates 0, 1, .., 99 %, times 100."""
    values = np.asarray(top1, dtype=float)
    if values.ndim != 1 or len(values) == 0 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError("top1 must be a list of fractions from 0 to 1, one for each mask rate")
    return float(values.mean() * 100)


def knee(ratios: Sequence[float], top1: Sequence[float]) -> float | None:
    """Mask rate at the knee of a falling, concave curve by Kneedle with S = 1; None if there is none.

    Raises ValueError unless both are of one length, and the ratios increase.
    """
    x, y = np.asarray(ratios, dtype=float), np.asarray(top1, dtype=float)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2 or (np.diff(x) <= 0).any():
        raise ValueError(f"ratios {x.shape} and top1 {y.shape} must be two lists of one length, ratios increasing")
    if y.max() == y.min():
        return None
    found = KneeLocator(x, y, curve="concave", direction="decreasing", S=1.0).knee
    return None if found is None else float(found)
