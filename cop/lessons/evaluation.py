"""How good generated images are, how sure that is, and whether two systems differ.

The features are those of a classifier trained on the embedded data, so the distance is a "Fréchet distance (classifier
features)" and no FID; real images are the test split. At paper scale (`generation.features`) they are Inception's, and what
is real is ADM's reference file: its statistics of the training set for what the paper calls tFID and everybody FID-50K, its
10,000 images for precision, recall and what the paper calls FID. One network judges the images of all seeds (`judge`), so that
their numbers live in one feature space. Every system has images of the same classes and seeds, and the jackknife leaves out the
same images of each, so a difference of two systems is a paired one.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cop.configs import Profile
from cop.data.loading import load_data
from cop.devices import at_a_time, inference
from cop.lessons import classifiers, generation, pipeline
from cop.measure import metrics
from cop.measure.metrics import Interval
from cop.paper.entropy import certainty_curve
from cop.paper.mar import mask_lengths
from cop.profiles import get_profile
from cop.train.artefacts import load_or_compute, versioned
from cop.train.processes import processes
from cop.train.together import Job, together
from cop.weights import table as weights_of

METRICS = {  # name: (heading, +1 where more is better)
    "frechet": ("Fréchet distance (classifier features)", -1), "inception_score": ("inception score (classifier)", 1),
    "precision": ("precision", 1), "recall": ("recall", 1), "right_class": ("share of the right class", 1),
}  # fmt: skip
INCEPTION = METRICS | {"frechet": ("tFID (FID-50K)", -1), "inception_score": ("inception score", 1),
                       "fid": ("FID against 10,000 images", -1)}  # fmt: skip
NEIGHBOURS = 3  # of precision and recall; paper: 3
JUDGE = 0  # seed of the RViT that judges the images of every seed: features, classes and certainty
GROUPS = 50  # parts of the generated images that the jackknife leaves out in turn
BLOCK = 1 << 30  # bytes of distances held at a time; the paper's 50,000 x 50,000 would take 20 GB
NEAREST = 64  # neighbours that are remembered of every image: few of them are left out at a time
REAL = ("real images", "–", 1.0)
SHARES = ("precision", "recall", "right_class")  # lie within 0..1; distances lie above 0
Result = tuple[Tensor, Tensor]  # M metrics: values (M,), values without each of G groups (G, M); five, with Inception six


def metrics_of(results: dict[tuple, Result]) -> dict[str, tuple[str, int]]:
    """Names and headings of the numbers in these results."""
    return METRICS if len(next(iter(results.values()))[0]) == len(METRICS) else INCEPTION


# -------------------------------------------------------------------------------------------------- one system


def blocks(rows: int, columns: int) -> list[slice]:
    """Parts of so many rows whose distances to so many others, 8 bytes each, stay within `BLOCK`."""
    step = max(1, BLOCK // (8 * columns))
    return [slice(i, min(i + step, rows)) for i in range(0, rows, step)]


def neighbour_radii(features: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """Distance of every row (n, D) to its k-th nearest other row: (n,)."""
    parts = blocks(len(features), len(features))
    return torch.cat([torch.cdist(features[p], features).kthvalue(k + 1, dim=1).values for p in parts])  # the first is itself


def nearest(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Distances to the `count` nearest rows of every row (m, D), itself among them, ascending, and which these are:
    (m, count) each."""
    parts = blocks(len(features), len(features))
    found = [torch.cdist(features[p], features).topk(count, largest=False) for p in parts]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def radii_within(chosen: Tensor, features: Tensor, near: tuple[Tensor, Tensor], k: int) -> Tensor:
    """`neighbour_radii` of those rows of features (m, D) that are chosen, bool (m,), among each other; -1 of the others: (m,).

    near: of `nearest`. Where fewer than k of these are chosen, all distances are computed again.
    """
    distance, index = near
    rank = min(k + 1, int(chosen.sum()))
    hit = chosen[index] & (chosen[index].cumsum(1) == rank)  # (m, count), the chosen neighbour of that rank
    radii = distance.gather(1, hit.byte().argmax(1, keepdim=True))[:, 0]
    lacking = chosen & ~hit.any(1)
    if lacking.any():
        radii[lacking] = torch.cdist(features[lacking], features[chosen]).kthvalue(rank, dim=1).values
    return radii.masked_fill(~chosen, -1)


def precisions_and_recalls(real: Tensor, fake: Tensor, k: int, kept: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Of real (n, D) and generated features (m, D): which generated ones lie in the ball of a real one, bool (m,), and
    the recall of every part, indices of generated ones, with the balls that these have among each other: (parts,).

    The balls are those of Kynkäänniemi et al. All parts are counted in one pass over the n x m distances.
    """
    m, n = len(fake), len(real)
    near = nearest(fake, min(NEAREST, m))
    chosen = [torch.zeros(m, dtype=torch.bool).index_fill(0, idx, True) for idx in kept]
    radii = torch.stack([radii_within(c, fake, near, k) for c in chosen])  # (parts, m)
    largest, of_real = radii.amax(0), neighbour_radii(real, k)
    inside, covered = torch.zeros(m, dtype=torch.bool), torch.zeros(len(kept), n, dtype=torch.bool)
    for part in blocks(n, m):
        distances = torch.cdist(fake, real[part])  # (m, n of this part)
        inside |= (distances <= of_real[part]).any(1)
        ball, image = (distances <= largest[:, None]).nonzero(as_tuple=True)  # few: all that any part can cover
        distances = distances[ball, image]
        for row, r in zip(covered, radii, strict=True):
            row[part.start + image[distances <= r[ball]]] = True
    return inside, covered.double().mean(1)


def kept_by_jackknife(labels: Tensor) -> list[Tensor]:
    """The images that remain when each of up to `GROUPS` groups is left out in turn, as indices, of images with labels (m,).

    A group has equally many images of every class, for so have the samples: their classes are fixed, not drawn. Where
    a class has one image only, nothing can be left out, and the one part is everything.
    """
    group, count = torch.empty_like(labels), labels.bincount()
    G = min(GROUPS, int(count[count > 0].min()))
    for c in labels.unique():
        group[labels == c] = torch.arange(int(count[c])) % G
    return [(group != g).nonzero()[:, 0] for g in range(G)] if G > 1 else [torch.arange(len(labels))]


def jackknife_metrics(real: Tensor, fake: Tensor, probabilities: Tensor, right: Tensor, kept: Sequence[Tensor],
                      reference: dict[str, np.ndarray] | None = None) -> Result:  # fmt: skip
    """The numbers of `METRICS`, (5,), and the same of every part of the generated images, (parts, 5): see `interval`.

    real (n, D), fake (m, D), probabilities (m, classes), right (m,) bool: of the right class; kept: of `kept_by_jackknife`.
    reference: statistics for the Fréchet distance; the distance to the real images is then the sixth number (`INCEPTION`).
    The inception score of a part is taken in one piece: what is left out would move images from one piece to another.
    Memory: a few times `BLOCK`, at any n and m.
    """
    m, k = len(fake), min(NEIGHBOURS, len(real) - 1, len(fake) - 1)
    right = right.double()
    values = metrics.generation_metrics(real, fake, probabilities, k, max(1, min(10, m // 20)), reference)
    values = [*values.values(), right.mean().item()]
    inside, recalls = precisions_and_recalls(real, fake, k, kept)
    inside, known = inside.double(), metrics.statistics(real)
    distances = [metrics.frechet_from(s) for s in ([known] if reference is None else [reference, known])]
    values += [d(metrics.statistics(fake)) for d in distances[1:]]

    def all_of(idx: Tensor, recall: Tensor) -> list[float]:
        made = metrics.statistics(fake[idx])
        first, *others = [d(made) for d in distances]
        return [first, metrics.inception_score(probabilities[idx], 1),
                inside[idx].mean().item(), recall.item(), right[idx].mean().item(), *others]  # fmt: skip

    rows = [all_of(*part) for part in zip(kept, recalls, strict=True)]
    return torch.tensor(values, dtype=torch.float64), torch.tensor(rows, dtype=torch.float64)


def evaluation_config(profile: Profile, seed: int, weights: str, source: str, cfg_scale: float) -> dict:
    """What determines the numbers of one system; those of real images are the same for every seed."""
    count = profile.generation.count
    made = (pipeline.images_config(profile) | {"real": count} if weights == "real"
            else generation.sampling_config(profile, seed, weights, source, cfg_scale, count))  # fmt: skip
    own = {"features": profile.generation.features} if profile.generation.features else {}
    how = {"neighbours": NEIGHBOURS, "groups": GROUPS, "reference": "adm" if own else "test"}
    return versioned("evaluation", 1, made | own | how | {"judge": classifiers.classifier_config(profile, "RViT", JUDGE)})


def evaluate(
    profile: str | Profile,
    seed: int,
    weights: str,
    source: str = "random",
    cfg_scale: float = 1.0,
    device: str = "auto",
) -> Result:
    """Values (M,) and those of the jackknife's parts (G, M) of one system's images, by `METRICS` or `INCEPTION`; weights `real`:
    validation images. "Of the right class" is RViT's judgement with either, for Inception numbers the classes otherwise.

    The row of real images is the floor of every metric at this number of images. Of many processes the first one
    evaluates and the others wait: next to sampling it takes little.
    """
    profile = get_profile(profile)
    count = profile.generation.count

    def compute(_: Path):
        judged = _features(profile, device)  # stages that all processes take part in, if they must run
        if weights == "real":
            val = load_data(profile, "val")
            chosen = pipeline.selection(val, count)
            labels = val.labels[chosen]

            def images():
                return (x for x, _ in val.batches(at_a_time(judged.batch_size), chosen))
        else:
            made = generation.generate(profile, seed, weights, source, cfg_scale, device=device)
            labels = generation.new_labels(profile, count)

            def images():
                return map(generation.to_float, made.tensors["images"].split(at_a_time(judged.batch_size)))
        if processes()[0] > 0:
            return {}, None
        with inference(profile, pipeline.resolve_device(device)):
            fake, probabilities = judged(images())
        right, reference = probabilities.argmax(1) == labels, None
        if profile.generation.features == "inception":
            fake, probabilities = _inception(pipeline.resolve_device(device))(as_bytes(x) for x in images())
            real, reference = _adm(pipeline.resolve_device(device))
        else:
            real = _reference(profile, device)
        values, parts = jackknife_metrics(real, fake, probabilities, right, kept_by_jackknife(labels), reference)
        return {"values": values, "parts": parts}, None

    config = evaluation_config(profile, seed, weights, source, cfg_scale)
    tensors = load_or_compute("evaluation", config, compute).tensors
    return tensors["values"], tensors["parts"]


def as_bytes(images: Tensor) -> Tensor:
    """Images in [-1, 1] as Inception takes them: uint8 (b, 3, H, W)."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).expand(-1, 3, -1, -1)


@functools.lru_cache(maxsize=2)
def _inception(device: str) -> metrics.Features:
    return metrics.Features(metrics.inception_extractor(weights_of.fetch("inception"), device), device=device)


@functools.lru_cache(maxsize=2)  # features and statistics of ADM's reference, once per process
def _adm(device: str) -> tuple[Tensor, dict[str, np.ndarray]]:
    file = weights_of.fetch("adm_reference")
    return _inception(device)(metrics.reference_images(file))[0], metrics.load_statistics(file)


def judge(profile: str | Profile, device: str = "auto") -> nn.Module:
    """The classifier that judges the images of every seed: RViT of seed `JUDGE`."""
    return classifiers.trained(profile, "RViT", JUDGE, device)[0]


@functools.lru_cache(maxsize=2)  # loaded once per process
def _features(profile: Profile, device: str) -> metrics.Features:
    return metrics.Features(metrics.classifier_extractor(judge(profile, device)), device=pipeline.resolve_device(device))


@functools.lru_cache(maxsize=2)  # features of the test images, once per process
def _reference(profile: Profile, device: str) -> Tensor:
    features = _features(profile, device)
    with inference(profile, pipeline.resolve_device(device)):
        return features(x for x, _ in load_data(profile, "test").batches(at_a_time(250)))[0]


def interval(result: Result, metric: str) -> Interval:
    """95 % interval of a metric over the generated images by the jackknife, within what is possible: of a distance in its
    logarithm, so that it stays above 0, and of a share in the logarithm of its odds, so that it stays within 0..1. It is about
    samples of this size: a Fréchet distance of more images is lower."""
    j = list(INCEPTION).index(metric)  # whose first are those of METRICS
    value, low, high = metrics.of_jackknife(result[0][j].item(), result[1][:, j])[0]
    if metric in ("frechet", "fid") and value > 0:
        spread = np.exp(min((high - value) / value, 50.0))
        low, high = value / spread, value * spread
    elif metric in SHARES and 0 < value < 1:
        odds, spread = value / (1 - value), np.exp(min((high - value) / (value * (1 - value)), 50.0))
        low, high = odds / (odds + spread), odds * spread / (odds * spread + 1)
    return Interval(value, float(low), float(high))


# ------------------------------------------------------------------------------------------------- all of them


def scales(profile: Profile) -> tuple[float, float]:
    """Guidance of the comparison: none, and the profile's."""
    return 1.0, profile.generation.cfg_scale


def comparison(
    profile: str | Profile, seed: int, sources: Sequence[str] = (), device: str = "auto", side_by_side: bool = False
) -> dict[tuple, Result]:
    """(system, source, cfg_scale) -> result: the five systems, CMAR with further order sources (`measured`: fine-tuned along that
    order, and MAR+C with it), Table 3's guidance, and real images under ("real images", "–", 1.0). One artefact, so that a released run loads one file. side_by_side:
    several processes, see `cop.train.together`.
    """
    profile = get_profile(profile)
    systems = [(name, weights, source) for name, (weights, source) in generation.SYSTEMS.items()]
    measured = generation.MEASURED
    systems += [("CMAR", measured if source == measured else "descending", source) for source in sources if source != "train"]
    systems += [("MAR+C", "base", source) for source in sources if source == measured]
    rows = {(name, source, cfg): weights for cfg in scales(profile) for name, weights, source in systems}
    rows |= {("CMAR", "train", float(cfg)): "descending" for cfg in profile.generation.cfg_sweep}
    return of_rows(profile, seed, rows, device, side_by_side)


def of_rows(
    profile: Profile, seed: int, rows: Mapping[tuple[str, str, float], str], device: str = "auto", side_by_side: bool = False
) -> dict[tuple, Result]:
    """(name, source, cfg_scale) -> weights as (name, source, cfg_scale) -> result, and real images: one artefact, see `comparison`."""
    rows = rows | {REAL: "real"}
    config = rows_config(profile, seed, rows)

    def compute(_: Path):
        if side_by_side:
            together([Job("evaluation", config[named(row)], evaluate, (profile, seed, weights, *row[1:], device))
                      for row, weights in rows.items()], pipeline.resolve_device(device))  # fmt: skip
        tensors = {}
        for row, weights in rows.items():
            values, parts = evaluate(profile, seed, weights, *row[1:], device=device)
            tensors[named(row)] = torch.cat([values[None], parts])
        return tensors, None

    tensors = load_or_compute("comparison", config, compute).tensors
    return {row: (tensors[named(row)][0], tensors[named(row)][1:]) for row in rows}


def named(row: tuple[str, str, float]) -> str:
    return "|".join(map(str, row))


def rows_config(profile: Profile, seed: int, rows: Mapping[tuple[str, str, float], str]) -> dict:
    """What determines the result of `of_rows`."""
    rows = rows | {REAL: "real"}
    return versioned("comparison", 1, {named(r): evaluation_config(profile, seed, weights, *r[1:]) for r, weights in rows.items()})


def difference(a: Result, b: Result, metric: str) -> tuple[Interval, float]:
    """a minus b in one metric, with the 95 % interval of the paired jackknife, and the p-value of there being none."""
    j = list(INCEPTION).index(metric)
    return metrics.of_jackknife((a[0][j] - b[0][j]).item(), a[1][:, j] - b[1][:, j])


def verdict(value: float, p: float, metric: str) -> str:
    """`better`, `worse` or `no difference found`: of a difference with this p-value, corrected for its family."""
    if not p < 0.05:
        return "no difference found"
    return "better" if (value > 0) == (INCEPTION[metric][1] > 0) else "worse"


# ------------------------------------------------------------------------------------------------------ certainty


def stage_sizes(profile: str | Profile, stages: int = 6) -> list[int]:
    """Tokens known after some of the sampling steps, evenly spread and ending with all of them: (stages,) ascending."""
    profile = get_profile(profile)
    known = [profile.num_tokens - left for left in mask_lengths(profile.num_tokens, profile.generation.num_iter)]
    return [known[int(i)] for i in np.unique(np.linspace(0, len(known) - 1, stages + 1).round())[1:]]


def class_certainty(profile: str | Profile, images: Tensor, labels: Tensor, rankings: Tensor, ks: Sequence[int],
                    device: str = "auto") -> Tensor:  # fmt: skip
    """Probability of the intended class after k generated tokens (B, len(ks)): a token once generated never changes."""
    profile, device = get_profile(profile), pipeline.resolve_device(device)
    judging = judge(profile, device)  # trained, if it must be, outside of the precision of inference
    with inference(profile, device):
        return certainty_curve(judging, images, labels, rankings, list(ks))["prob"]
