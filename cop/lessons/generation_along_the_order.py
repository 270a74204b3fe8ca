"""Notebook 4: the calls that its cells make, and its figures and tables. Keys of results are (system, source, guidance)."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from torch import Tensor

from cop.configs import Profile
from cop.data.loading import load_data
from cop.lessons import generation
from cop.lessons.evaluation import INCEPTION, REAL, Result, difference, interval, metrics_of, scales, verdict
from cop.lessons.held_out import losses_by_order as losses_by_order
from cop.lessons.panels import generation_player as generation_player
from cop.lessons.pipeline import sample_tokens as sample_tokens
from cop.measure.metrics import Interval, holm, of_mean
from cop.paper.mar import mask_lengths
from cop.profiles import get_profile
from cop.show import figures_generation, report
from cop.show.figures import to_array
from cop.show.report import Report
from cop.train.artefacts import Artefact
from cop.train.loop import seeded as seeded

NOTEBOOK = "04_generation_along_the_order"
shown = partial(report.shown, NOTEBOOK)
FRECHET = [(label, f"frechet_{name}", 1, 2) for label, name in (("Fréchet distance, guided: MAR", "MAR_random_cfg2"), ("MAR+C", "MAR+C_train_cfg2"), ("CMAR", "CMAR_train_cfg2"), ("real images", "real_images"))]
ORDERS = ("random", "collapse", "reversed")  # that hide the tokens of test images
PAPER = {  # FID, tFID, IS, precision and recall of Tables 2 to 4, row by row
    2: [(7.114, 3.498, 194.5, 0.784, 0.571), (7.173, 3.563, 193.8, 0.788, 0.568), (7.213, 3.6, 190.92, 0.781, 0.572),
        (5.997, 2.33, 281.48, 0.822, 0.571), (5.956, 2.321, 284.78, 0.826, 0.566), (5.928, 2.238, 280.55, 0.818, 0.576)],
    3: [(5.913, 2.219, 276.375, 0.816, 0.582), (5.928, 2.238, 280.55, 0.818, 0.576), (5.933, 2.24, 284.5, 0.819, 0.572)],
    4: [(6.005, 2.267, 269.27, 0.782, 0.556), (5.928, 2.238, 280.55, 0.818, 0.576)],
}  # fmt: skip


def start(profile: str, seed: int, **parameters) -> tuple[Report, Profile]:
    """Where the notebook writes, and its profile. Raises ValueError for a wrong parameter."""
    return Report(NOTEBOOK, profile, seed, **parameters), get_profile(profile)


def class_names(profile: Profile) -> list[str]:
    """The names of the classes."""
    return load_data(profile, "test").class_names


def guided(cfg: float) -> str:
    """A scale of guidance in words; 1 is none."""
    return "no guidance" if cfg == 1 else f"guidance {cfg:g}"


def key(system: str, cfg: float) -> tuple[str, str, float]:
    """The key of a system with its own source of orders."""
    return system, generation.SYSTEMS[system][1], cfg


def first_and_last(num_tokens: int, num_iter: int) -> tuple[int, int]:
    """How many tokens the first and the last of MAR's steps make."""
    left = [num_tokens, *mask_lengths(num_tokens, num_iter)]
    return left[0] - left[1], left[-2]


def in_short(out: Report, profile: Profile) -> None:
    """Print in two sentences what all seeds on record say of training along the order."""
    seeds, cfg = out.seeds(), profile.generation.cfg_scale
    loss, images = "loss_gap_CMAR_collapse", tuple(record_name("frechet", key(n, cfg)) for n in ("CMAR", "continued random"))
    if seeds.of(loss).empty:
        return report.say("No run of this profile is on record.")
    report.say(
        f"Against as much training in random order, training along collapse orders changes the test loss along them by "
        f"{seeds.cell(loss, 1000, 2)} thousandths: it is lower {seeds.wins(loss, -1)}.",
        f"The Fréchet distance of the images, with {guided(cfg)}, differs by {seeds.cell(images)}: "
        f"it is smaller, which is better, {seeds.wins(images, -1)}.",
    )


def trainings(base: Artefact | None, tuned: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Orders, steps and last losses of the models, from the base and the histories of its fine-tunes; official weights of the base
    come without a history."""
    rows = ({"base": base.history} if base else {}) | {**tuned}
    return pd.DataFrame([
        {"model": n, "orders in training": "random" if n in ("base", "random") else f"{n} collapse, 10 % random",
         "steps": int(h["step"].max()) + 1, "loss, last tenth": f"{h['loss'].tail(len(h) // 10 + 1).mean():.3f}"}
        for n, h in rows.items()])  # fmt: skip


def certainty_gaps(out: Report, certainty: Mapping[str, Tensor], ks: Sequence[int]) -> pd.DataFrame:
    """Mean certainties (images, len(ks)) by number of tokens, and their paired difference, which is recorded, with 95 %."""
    found = [of_mean(column)[0] for column in (certainty["collapse"] - certainty["random"]).T]
    out.record(**{f"certainty_gap_{k}": v.value for k, v in zip(ks, found, strict=True)})
    seeds = out.seeds()
    return pd.DataFrame({"patches": ks} | {n: c.mean(0).numpy().round(3) for n, c in certainty.items()}
                        | {"difference": [f"{m:+.3f} [{low:+.3f}, {high:+.3f}]" for m, low, high in found],
                           "difference, all seeds": [seeds.verdict(f"certainty_gap_{k}", 1, 3) for k in ks]})  # fmt: skip


def record_name(metric: str, key: tuple) -> str:
    """The name under which a number of `comparison` stands in a seed's record."""
    name, source, cfg = key
    return f"{metric}_" + ("real_images" if name == REAL[0] else f"{name}_{source}_cfg{cfg:g}".replace(" ", "_"))


def headline(results: dict[tuple, Result]) -> dict[str, float]:
    """Every metric of every row, under names for a record."""
    return {
        record_name(m, key): values[j].item()
        for key, (values, _) in results.items()
        for j, m in enumerate(metrics_of(results))
    }


def systems_table(results: dict[tuple, Result]) -> pd.DataFrame:
    """One row per system, source and guidance: every metric with its 95 % interval."""
    rows = []
    for (name, source, cfg), result in results.items():
        guidance = "–" if name == REAL[0] else "none" if cfg == 1 else f"{cfg:g}"
        row = {"system": name, "orders from": source, "guidance": guidance}
        for metric, (heading, _) in metrics_of(results).items():
            value, low, high = interval(result, metric)
            row[heading] = f"{value:.3g} [{low:.3g}, {high:.3g}]"
        rows.append(row)
    return pd.DataFrame(rows)


def gaps(
    results: dict[tuple, Result], pairs: Sequence[tuple[tuple, tuple]], metric_names: Sequence[str] | None = None
) -> pd.DataFrame:
    """Paired differences: one row per pair and metric, with the interval of each by itself, the p-value after Holm's correction
    over all rows of this table, and by that the verdict on the first of the pair."""
    asked = [(a, b, metric) for a, b in pairs for metric in metric_names or metrics_of(results)]
    found = [difference(results[a], results[b], metric) for a, b, metric in asked]
    rows = []
    for (a, b, metric), (gap, _), p in zip(asked, found, holm([p for _, p in found]), strict=True):
        rows.append({"first": f"{a[0]} ({a[1]})", "second": f"{b[0]} ({b[1]})", "guidance": "none" if a[2] == 1 else f"{a[2]:g}",
                     "metric": metrics_of(results)[metric][0], "difference": f"{gap.value:+.3g}",
                     "95 %": f"{gap.low:+.3g} … {gap.high:+.3g}", "p (Holm)": f"{p:.2g}",
                     "the first is": verdict(gap.value, p, metric)})  # fmt: skip
    return pd.DataFrame(rows)


def beside_paper(out: Report, results: dict[tuple, Result], number: int, rows: Mapping[str, tuple]) -> pd.DataFrame:
    """Table 2, 3 or 4, rows: name -> key of `results`, in the paper's order. Our numbers, our mean over the seeds on record,
    and the paper's, whose FID stands in another space: only the order within a column can be compared. Raises ValueError
    for another number of rows than the paper's.
    """
    seeds = out.seeds()
    ours = {"frechet": "Fréchet", "inception_score": "IS (classifier)", "precision": "precision", "recall": "recall"}
    if metrics_of(results) is INCEPTION:
        ours = {"fid": "FID"} | ours | {"frechet": "tFID", "inception_score": "IS"}
    theirs = [f"paper: {name}" for name in ("FID", "tFID", "IS", "precision", "recall")]
    if len(rows) != len(PAPER[number]):
        raise ValueError(f"Table {number} has {len(PAPER[number])} rows, {len(rows)} given")
    lines = []
    for (name, key), paper in zip(rows.items(), PAPER[number], strict=True):
        mine = {h: round(results[key][0][list(INCEPTION).index(m)].item(), 3) for m, h in ours.items()}
        every = {f"{h}, all seeds": seeds.cell(record_name(m, key)) for m, h in ours.items()}
        lines.append({"": name, **mine, **every, **dict(zip(theirs, paper, strict=True))})
    return pd.DataFrame(lines)


def loss_gap(losses: dict[tuple[str, str], Tensor], a: str, b: str, order: str) -> tuple[Interval, float]:
    """Loss of model a less that of model b under one order, with Student's 95 % interval over paired batches, and its p-value."""
    return of_mean(losses[a, order] - losses[b, order])


@shown("Figure 1", "two generated roosters; certainty of the class at six stages 0, 11, 16, 21, 23 and 26 % in random order, 1, 20, 42, "
       "57, 67 and 79 % in collapse order")  # fmt: skip
def fig1(
    out: Report, pair: Mapping[str, tuple[Tensor, Tensor]], certainty: Mapping[str, Tensor], ks: Sequence[int], example: int, label: str
):
    """Two generations of the class {label} in six stages, MAR in random order (top) and CMAR in collapse order (bottom), with
    the classifier's certainty of the class between them."""
    images, rankings = ({n: made[i][example] for n, made in pair.items()} for i in (0, 1))
    sure = {n: c[example].numpy() for n, c in certainty.items()}
    G = round(len(rankings["random"]) ** 0.5)
    fig = figures_generation.fig1_generation(
        {n: to_array(x) for n, x in images.items()}, {n: r.numpy() for n, r in rankings.items()}, sure, ks, G, label
    )
    return fig, pd.DataFrame({"patches": ks} | sure), {"label": label}


@shown("Figure 7", "by eye, artefacts in MAR's images and fewer in MAR+C's and CMAR's of the same class")
def fig7(out: Report, made: Mapping[str, tuple[Tensor, Tensor]], labels: Tensor, names: Sequence[str]):
    """One image per class by MAR (purple), MAR+C (blue) and CMAR (green); the images of a column share class and noise."""
    columns = min(10, len(labels))
    images = {n: to_array(x[:columns]) for n, (x, _) in made.items()}
    return figures_generation.fig7_systems(images, [names[int(k)] for k in labels[:columns]])


@shown("Figure 9", "samples of CMAR over many ImageNet classes")
def fig9(out: Report, images: Tensor, names: Sequence[str], cfg: float):
    """More samples of CMAR, one column per class."""
    return figures_generation.fig9_samples(to_array(images), names, f"{len(images)} images by CMAR, guidance {cfg:g}")


@shown("Every system and order source", "MAR, MAR+C and CMAR only, in Table 2", here=FRECHET)
def generation_systems(out: Report, results: dict[tuple, Result]):
    """Every system, with and without guidance, by source of the order: Fréchet distance on classifier features, inception
    score, precision, recall and share of the right class, with 95 % intervals."""
    return systems_table(results)


@shown("Metrics of generation", here=FRECHET)
def generation_metrics(out: Report, results: dict[tuple, Result], profile: Profile):
    """Five metrics as dots with 95 % intervals for MAR, continued random, MAR+C, CMAR and ascending CMAR, without guidance
    (filled) and with it (hollow), with an arrow to the better side; a dotted line marks real images.

    The metrics of every system and source are recorded."""
    out.record(**headline(results))
    metrics, seeds, real = metrics_of(results), out.seeds(), results[REAL][0].tolist()
    at = {m: {guided(cfg): {n: interval(results[key(n, cfg)], m) for n in generation.SYSTEMS} for cfg in scales(profile)} for m in metrics}
    runs = {(m, guided(cfg), n): seeds.of(record_name(m, key(n, cfg))) for m in metrics for cfg in scales(profile) for n in generation.SYSTEMS}
    last = guided(scales(profile)[-1])
    won = sum(sign * (runs[m, last, "CMAR"] - runs[m, last, "continued random"]).mean() > 0 for m, (_, sign) in metrics.items())
    title = f"With {last} CMAR is ahead of as much training in random order in {won} of {len(metrics)} metrics"
    return figures_generation.metric_dots(at, dict(zip(at, real, strict=False)), metrics, runs, title), systems_table(results)


@shown("Table 2", 'in its columns "paper: …"', here=FRECHET)
def tab2(out: Report, results: dict[tuple, Result], profile: Profile):
    """Table 2: MAR, MAR+C and CMAR without and with guidance, our metrics beside the paper's."""
    named = {cfg: "no CFG" if cfg == 1 else f"CFG {cfg:g}" for cfg in scales(profile)}
    rows = {f"{n}, {words}": key(n, cfg) for cfg, words in named.items() for n in ("MAR", "MAR+C", "CMAR")}
    return beside_paper(out, results, 2, rows)


@shown("Table 3", 'in its columns "paper: …"', here=[("Fréchet distance at guidance 1.5", "frechet_CMAR_train_cfg1.5", 1, 2), ("at 3", "frechet_CMAR_train_cfg3", 1, 2)])
def tab3(out: Report, results: dict[tuple, Result], profile: Profile):
    """Table 3: CMAR at three scales of guidance, our metrics beside the paper's."""
    rows = {f"CMAR, CFG {cfg:g}": key("CMAR", cfg) for cfg in profile.generation.cfg_sweep}
    return beside_paper(out, results, 3, rows)


@shown("Table 4", 'in its columns "paper: …"', here=[("Fréchet distance: ascending", "frechet_ascending_train_cfg2", 1, 2), ("descending", "frechet_CMAR_train_cfg2", 1, 2)])
def tab4(out: Report, results: dict[tuple, Result], profile: Profile):
    """Table 4: CMAR in ascending and in descending collapse order, our metrics beside the paper's."""
    return beside_paper(out, results, 4, {n: key(n, profile.generation.cfg_scale) for n in ("ascending", "CMAR")})


@shown("Paired differences between systems", here=FRECHET)
def generation_gaps(out: Report, results: dict[tuple, Result], profile: Profile):
    """Paired differences between systems with 95 % intervals, and whether they exceed the noise."""
    against = (("MAR+C", "MAR"), ("CMAR", "MAR"), ("CMAR", "continued random"), ("CMAR", "ascending"))
    pairs = [(key(a, cfg), key(b, cfg)) for cfg in scales(profile) for a, b in against]
    pairs += [(k, key(b, k[2])) for k in results if k[1] == generation.MEASURED for b in ("MAR", "continued random")]
    return gaps(results, pairs)


def source_gaps(results: dict[tuple, Result], profile: Profile, sources: Sequence[str]) -> pd.DataFrame:
    """Paired differences between CMAR along orders of the training bank and of other sources."""
    pairs = [(key("CMAR", cfg), ("CMAR", s, cfg)) for cfg in scales(profile) for s in sources]
    return gaps(results, pairs, ["frechet", "right_class"])


@shown("Generation, by seed", here=FRECHET)
def generation_seeds(out: Report, profile: Profile):
    """Differences between CMAR and the other systems with guidance, and of the test loss, for every seed on record, with the
    mean over seeds and its 95 percent interval."""

    def name(system: str, metric: str = "frechet") -> str:
        return record_name(metric, key(system, profile.generation.cfg_scale))

    rows = {f"Fréchet: CMAR − {n}": (name("CMAR"), name(n)) for n in ("MAR", "MAR+C", "continued random", "ascending")}
    pairs = {n: (name("CMAR", "right_class"), name(n, "right_class")) for n in ("MAR", "continued random")}
    rows |= {f"right class: CMAR − {n}": pair for n, pair in pairs.items()}
    rows |= {f"test loss along {o}: CMAR − control": f"loss_gap_CMAR_{o}" for o in ("random", "collapse", "reversed")}
    rows |= {f"Fréchet, {guided(cfg)}: own bank − {s}": tuple(record_name("frechet", ("CMAR", source, cfg)) for source in ("train", s))
             for cfg in scales(profile) for s in ("wrong_class", "class_mean", "random", "val")}  # fmt: skip
    return out.seeds().table(rows, digits=4)


def loss_table(losses: dict[tuple[str, str], Tensor], control: str = "continued random") -> pd.DataFrame:
    """Loss of each model under each order, and below zero where it beats the control; a star where Holm's correction over
    all differences of this table leaves p below .05. Compare within an order only, see `losses_by_order`."""
    models, orders = list(dict.fromkeys(model for model, _ in losses)), ORDERS
    found = {(m, o): loss_gap(losses, m, control, o) for m in models for o in orders if m != control}
    starred = dict(zip(found, holm([p for _, p in found.values()]) < 0.05, strict=True))
    rows = []
    for name in models:
        row = {"model": name}
        for order in orders:
            row[f"hidden by {order}"] = f"{losses[name, order].mean():.4f}"
            row[f"{order}, less control"] = "–"
            if name != control:
                (value, low, high), star = found[name, order][0], " *" if starred[name, order] else ""
                row[f"{order}, less control"] = f"{value:+.4f} ({low:+.4f} … {high:+.4f}){star}"
        rows.append(row)
    return pd.DataFrame(rows)


def loss_gaps(losses: dict[tuple[str, str], Tensor]) -> dict[str, dict[str, Interval]]:
    """The losses of MAR, CMAR and ascending CMAR less that of the control, by order and system."""
    return {o: {n: loss_gap(losses, n, "continued random", o)[0] for n in ("MAR", "CMAR", "ascending")} for o in ORDERS}


@shown("Test loss by order", here=[("CMAR's loss less the control's, in thousandths: along collapse orders", "loss_gap_CMAR_collapse", 1000, 2)])
def order_loss(out: Report, losses: dict[tuple[str, str], Tensor]):
    """MAR's loss on test images hidden along random, collapse and reversed orders, per model, and the paired difference from
    the continued-random control.

    The differences are recorded."""
    out.record(**{f"loss_gap_{n}_{o}": v.value for o, row in loss_gaps(losses).items() for n, v in row.items()})
    return loss_table(losses)


@shown("What training along an order teaches",
       here=[("CMAR's loss less the control's, in thousandths: along collapse orders", "loss_gap_CMAR_collapse", 1000, 2),
             ("random", "loss_gap_CMAR_random", 1000, 2), ("reversed", "loss_gap_CMAR_reversed", 1000, 2)])  # fmt: skip
def order_gain(out: Report, losses: dict[tuple[str, str], Tensor]):
    """Loss of MAR, CMAR and ascending CMAR against the continued-random control in per cent of its loss, with 95 % intervals, for
    tokens hidden by random, collapse and reversed order.

    The percentages are recorded."""
    scale = {o: 100 / losses["continued random", o].mean().item() for o in ORDERS}
    gaps = {o: {n: tuple(scale[o] * v for v in gap) for n, gap in row.items()} for o, row in loss_gaps(losses).items()}
    out.record(**{f"loss_percent_{n}_{o}": v for o, row in gaps.items() for n, (v, _, _) in row.items()})
    runs = {(o, n): out.seeds().of(f"loss_percent_{n}_{o}").tolist() for o, row in gaps.items() for n in row}
    title = f"Training along collapse orders changes the loss along them by {np.mean(runs['collapse', 'CMAR']):+.2f} %"
    label = "Δ loss against control, % (left is better; small dots: runs)"
    return figures_generation.losses(gaps, runs, label, title), loss_table(losses)


def verdicts(
    out: Report, results: dict[tuple, Result], losses: dict[tuple[str, str], Tensor], profile: Profile
) -> pd.DataFrame:
    """What the paper says of generation along the order, what this run shows, with p-values corrected by Holm over all rows
    of this table, and what all seeds on record do."""
    (free, guidance), seeds = scales(profile), out.seeds()
    asked = [("with guidance CMAR beats MAR", "tFID 2.330 → 2.238", "frechet", key("CMAR", guidance), key("MAR", guidance)),
             ("... and beats as much training in random order", "not tested", "frechet", key("CMAR", guidance), key("continued random", guidance)),
             ("with guidance MAR+C beats MAR without training", "tFID 2.330 → 2.321", "frechet", key("MAR+C", guidance), key("MAR", guidance)),
             ("without guidance CMAR is slightly worse", "tFID 3.498 → 3.600", "frechet", key("CMAR", free), key("MAR", free)),
             ("descending beats ascending", "tFID 2.267 → 2.238", "frechet", key("CMAR", guidance), key("ascending", guidance))]  # fmt: skip
    asked += [(f"{claim}, {guided(cfg)}", paper, metric, key("CMAR", cfg), ("CMAR", source, cfg))
              for claim, paper, metric, source in (
                  ("an order of the right class beats one of a wrong class", "assumed", "frechet", "wrong_class"),
                  ("orders of training images beat those of held-out ones (a leak)", "not tested", "frechet", "val"),
                  ("... in the share of the right class", "not tested", "right_class", "val"))
              for cfg in (free, guidance) if ("CMAR", source, cfg) in results]  # fmt: skip
    found = [difference(results[a], results[b], metric) for *_, metric, a, b in asked]
    learned = [loss_gap(losses, "CMAR", "continued random", order) for order in ("collapse", "reversed")]
    adjusted = holm([p for _, p in found + learned])
    rows = []
    for (claim, paper, metric, a, b), (gap, _), p in zip(asked, found, adjusted, strict=False):
        x, y = (results[k][0][list(INCEPTION).index(metric)] for k in (a, b))
        rows.append({"claim": claim, "paper": paper, "this run": f"{y:.2f} → {x:.2f} ({gap.low:+.2f} … {gap.high:+.2f}): {verdict(gap.value, p, metric)}",
                     "all seeds": seeds.verdict((record_name(metric, a), record_name(metric, b)), INCEPTION[metric][1])})  # fmt: skip
    for order, (gap, _), p in zip(("collapse", "reversed"), learned, adjusted[len(found) :], strict=True):
        rows.append({"claim": f"training lowers the test loss along {order} orders", "paper": "implied" if order == "collapse" else "not tested",
                     "this run": f"{gap.value:+.4f} ({gap.low:+.4f} … {gap.high:+.4f}): {verdict(gap.value, p, 'frechet')}",
                     "all seeds": seeds.verdict(f"loss_gap_CMAR_{order}", -1, 4)})  # fmt: skip
    return pd.DataFrame(rows)
