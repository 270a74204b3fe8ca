"""Notebook 6: an order for an image that does not exist yet, measured. Its figure and table.

Letters: S seeds.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from cop.configs import Profile
from cop.lessons import evaluation, generation, pipeline
from cop.lessons.doubt import DOUBTS
from cop.lessons.evaluation import Result, scales
from cop.lessons.generation_along_the_order import guided
from cop.measure.metrics import Interval, holm, of_mean
from cop.paper.cvit import keep_count
from cop.show import figures_generation, report
from cop.show.figures import to_array
from cop.show.report import Report
from cop.train.artefacts import stored

shown = partial(report.shown, "06_an_order_that_looks")
CONTROL = ("continued random", "random")
SYSTEMS = {("MAR", "random"): "base", CONTROL: "random"}  # (name, source of orders) -> weights
SYSTEMS |= {("MAR", source): "base" for source in DOUBTS} | {("trained along it", source): source for source in DOUBTS}
NAMES = {"frechet": "Fréchet distance", "precision": "precision", "recall": "recall", "right_class": "right class"}


def rows_of(profile: Profile) -> dict[tuple[str, str, float], str]:
    return {(*system, cfg): weights for cfg in scales(profile) for system, weights in SYSTEMS.items()}


def compared(profile: Profile, seed: int, device: str) -> list[dict[tuple, Result]]:
    """`evaluation.of_rows` of SYSTEMS, for `seed` and those after it that are stored; empty for a profile without a generator."""
    if not profile.generation.steps:
        return []
    found = [evaluation.of_rows(profile, seed, rows_of(profile), device)]
    while not seed and known(profile, seed + len(found)):
        found.append(evaluation.of_rows(profile, seed + len(found), rows_of(profile), device))
    return found


def known(profile: Profile, seed: int) -> bool:
    return stored("comparison", evaluation.rows_config(profile, seed, rows_of(profile)))


def gap(results: Sequence[dict[tuple, Result]], system: tuple[str, str, float], metric: str) -> tuple[Interval, float]:
    """A metric of a system less that of as much training in random order, S seeds: their mean with its interval over them, and p; of
    one seed the paired jackknife over its images."""
    control = (*CONTROL, system[2])
    if len(results) == 1:
        return evaluation.difference(results[0][system], results[0][control], metric)
    return of_mean(np.array([evaluation.difference(r[system], r[control], metric)[0].value for r in results]))


@shown("Generation along doubt", here=[("Fréchet distance, guided, less that of random orders: most doubted", "doubt_frechet_most doubted", 1, 3),
                                       ("least doubted", "doubt_frechet_least doubted", 1, 3)])  # fmt: skip
def along_doubt(out: Report, seed: int, device: str):
    """Fréchet distance, precision, recall and share of the right class of images that were made where a predictor doubts most, or
    least, by MAR and by MAR trained along that order, less those of as much training in random order, with intervals over seeds."""
    profile = out.settings
    if not (results := compared(profile, seed, device)):
        return None
    asked = [row for row in rows_of(profile) if row[:2] != CONTROL]
    found = {(row, m): gap(results, row, m) for row in asked for m in NAMES}
    stars = dict(zip(found, holm([p for _, p in found.values()]) < 0.05, strict=True))
    lines = []
    for row in asked:
        line = {"system": row[0], "orders": row[1], "guidance": guided(row[2])}
        line["Fréchet distance"] = f"{np.mean([r[row][0][0] for r in results]):.3f}"
        for metric in NAMES:
            (value, low, high), _ = found[row, metric]
            line[f"{NAMES[metric]}, less control"] = f"{value:+.3f} [{low:+.3f}, {high:+.3f}]{' *' if stars[row, metric] else ''}"
        lines.append(line)
    cfg = profile.generation.cfg_scale
    out.record(doubt_seeds=len(results), **{f"doubt_{m}_{s}": found[("trained along it", s, cfg), m][0].value for s in DOUBTS for m in NAMES})
    return pd.DataFrame(lines)


@shown("Images made where a predictor doubts most, and least")
def made_by_doubt(out: Report, seed: int, device: str):
    """Images of the same classes and noise: by MAR trained on in random order, and by MAR trained along the order in which a
    predictor doubts most, or least, with the first 22 percent of what was generated of each under it."""
    profile = out.settings
    if not profile.generation.steps:
        return None
    rows: Mapping[str, tuple[str, str]] = {"random order": ("random", "random")} | {name: (name, name) for name in DOUBTS}
    made = {name: generation.pictures(profile, seed, *row, profile.generation.cfg_scale, device=device) for name, row in rows.items()}
    names = pipeline.load_data(profile, "test").class_names
    columns, K = min(10, len(names)), keep_count(profile.num_tokens, 0.78)
    images = {name: to_array(x[:columns]) for name, (x, _) in made.items()}
    first = {name: ranking[:columns, :K].numpy() for name, (_, ranking) in made.items()}
    labels = [names[int(k)] for k in generation.new_labels(profile, columns)]
    return figures_generation.made(images, first, labels, profile.grid)
