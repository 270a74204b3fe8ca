"""What was found, in README.md and in the book's page of findings, written from the records: `python -m cop readme`, after a retraining.

A page marks each place with `<!-- findings: NAME -->` and `<!-- /findings -->`; what stands between is replaced. No number and no verdict
in it is typed: a verdict is how many seeds say so. What no record has is a dash.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from cop import paths
from cop.files import write
from cop.lessons import scorecard
from cop.lessons.looking import COMPARED, NOTEBOOK, gain_of, own_mean, recorded, top1_of
from cop.profiles import get_profile
from cop.show.records import BESIDE, DATA, Seeds, read
from cop.show.report import markdown

Name = str | tuple[str, str]  # a number of the records, or a difference of two


class Numbers(Seeds):
    """The committed records of a profile, by name, whatever notebook left them."""

    def __init__(self, profile: str):
        super().__init__(profile, figures=paths.figures)

    def each(self, name: Name, scale: float = 1, digits: int = 2) -> str:
        """`48.5 / 65.0 / 66.8`, in the order of the seeds; a dash for a name that no record has."""
        sign = "+" if isinstance(name, tuple) else ""
        return " / ".join(f"{scale * x:{sign}.{digits}f}" for x in self.of(name)) or "–"

    def pooled(self, name: str, sign: str = "") -> str:
        """A number that was measured on several seeds at once, and stands in the record of each."""
        of = self.of(name)
        return "–" if of.empty else f"{of.iloc[0]:{sign}.2f}"

    def wins(self, name: Name, better: int = 1) -> str:
        """As of `Seeds`."""
        return "not measured" if self.of(name).empty else super().wins(name, better)


def claims() -> list[tuple[str, str]]:
    """What the paper says and what the demo's records say."""
    n = Numbers("demo")
    each, says = n.each, n.wins
    agree = read(paths.figures / "demo" / "seeds_agree.csv", ("seeds", "Spearman, same image"))
    rows = () if agree is None else (row for _, row in agree.iterrows())
    pairs = ", ".join(f"{row['Spearman, same image'].split()[0]} (seeds {row['seeds']})" for row in rows) or "–"
    cfg = "cfg2"

    def top1(system: str) -> str:
        return f"{each(f'top1_{system}_78%', 100, 1)} %"

    def frechet(a: str, b: str) -> tuple[str, str]:
        return f"frechet_{a}_{cfg}", f"frechet_{b}_{cfg}"

    further = ", ".join(f"{o} {top1(f'own_{o}')}" for o in ("attention", "low-discrepancy"))
    collapse, random = "area_collapse", "area_random"
    along = ("frechet_CMAR_train_cfg2", "frechet_continued_random_random_cfg2")
    return [
        ("masks polarise as the loss falls (C1)", f"of the weights {each('share_low_trained', 100, 0)} % lie below .1 and "
         f"{each('share_high_trained', 100, 0)} % above .9 at the end"),
        ("L_r of CoMAE, and without a network", f"CoMAE {each('reconstruction_trained')}; ridge regression on the clean patches "
         f"{each('reconstruction_ridge_regression')}, mean of the neighbours {each('reconstruction_mean_of_the_neighbours')}, median of the "
         f"position {each('reconstruction_per-position_median')}, mean token {each('reconstruction_mean_token')}"),
        ("the contrastive term lowers loss and entropy (C2, Table 1)", f"L_r {says(('reconstruction_with', 'reconstruction_without'), -1)} "
         f"({each(('reconstruction_with', 'reconstruction_without'))}), entropy {says(('mask_entropy_with', 'mask_entropy_without'), -1)} "
         f"({each(('mask_entropy_with', 'mask_entropy_without'), 1, 3)})"),
        ("the order belongs to the image (assumed)", f"{each('share_position_collapse', 100, 0)} % of an order is the patch's position, "
         f"{each('share_class_collapse', 100, 0)} % the class; orders of one image by CoMAEs of two seeds correlate by {pairs}"),
        ("the order is arbitrary, and not for want of training (not in the paper)", f"after {get_profile('demo').comae.steps:,} steps L_r is "
         f"{n.pooled('long_L_r')}, below ridge regression, and the orders of one image by two seeds correlate by "
         f"{n.pooled('long_orders_raw', '+')}, without their mean order by {n.pooled('long_orders_own', '+')} (means of three seeds)"),
        ("orders agree moderately within and between classes (C4)", f"Kendall's tau {each('kendall_within_collapse')} within, "
         f"{each('kendall_between_collapse')} between, in one run"),
        ("the collapse order removes uncertainty faster than random (C3)", f"{says((collapse, random), -1)}: area {each(collapse, 1, 3)} "
         f"against {each(random, 1, 3)}; patch variance {each('area_variance', 1, 3)}, the greedy yardstick {each('area_greedy', 1, 3)}. A small area can come from taking costly patches away; the first patches *tell* "
         f"about the others, in nats: collapse {each('told_collapse', 1, 0)}, random {each('told_random', 1, 0)}, variance "
         f"{each('told_variance', 1, 0)}"),
        ("top-ranked patches outline the main shapes (C12)", f"the first 22 % have {each('contrast_of_first')} times the average contrast"),
        ("PageRank is needed", f"Spearman {each('spearman_with_in-strength')} with plain column sums"),
        ("a generator trained along the order beats MAR (C5, Table 2)", f"against as much training with random orders {says(along, -1)} "
         f"(Fréchet {each(along)} with guidance); against MAR {says(frechet('CMAR_train', 'MAR_random'), -1)} "
         f"({each(frechet('CMAR_train', 'MAR_random'))}); its test loss along the order is {each('loss_gap_CMAR_collapse', 1000, 1)} thousandths "
         "of the control's away"),
        ("MAR+C, the order without training, beats MAR (C5)", f"{says(frechet('MAR+C_train', 'MAR_random'), -1)}: Fréchet "
         f"{each('frechet_MAR+C_train_cfg2')} against {each('frechet_MAR_random_cfg2')}"),
        ("descending beats ascending (C6, Table 4)", f"{says(frechet('CMAR_train', 'ascending_train'), -1)} "
         f"({each(frechet('CMAR_train', 'ascending_train'))})"),
        ("CViT ≥ RViT, most at 78 % masked (C8, Table 5)", f"at 78 % {says(('top1_CViT_78%', 'top1_RViT_78%'))}: {top1('CViT')} against {top1('RViT')}"),
        ("ViT+C > ViT at 78 % masked (C9)", f"{says(('top1_ViT+C_78%', 'top1_ViT_78%'))}: {top1('ViT+C')} against {top1('ViT')}"),
        ("the collapse order beats simpler ones (not in the paper)", f"trained and tested alike with 22 % of the patches: collapse "
         f"{top1('own_collapse')}, its own mean order for every image {top1('own_mean order')}, its reversal {top1('own_reversed')}, patch "
         f"variance {top1('own_variance')}; seed 0 only: {further}; a plain ViT on a quarter as many, coarser patches "
         f"{top1('own_coarser patches')}"),
        ("the knee lies near 78 % (C10)", f"at {each('knee_CViT', 100, 0)} % for CViT, and it moves with the end of the curve"),
    ]  # fmt: skip


def photographs() -> pd.DataFrame:
    """The same numbers of clothes and photographs, side by side."""
    both = {column: Numbers(profile) for column, profile in BESIDE.items()}
    orders = ("random", "low-discrepancy", "collapse", "mean order", "measured", "variance")
    rows: Sequence[tuple[str, Sequence[Name], float, int]] = (
        ("share of an order that is position, class, image, in %", [f"share_{p}_collapse" for p in ("position", "class", "image")], 100, 1),
        ("Kendall's tau within a class, between classes", ["kendall_within_collapse", "kendall_between_collapse"], 1, 2),
        ("edges among the first 22 %, against the average patch; by variance", ["edges_of_first_collapse", "edges_of_first_variance"], 1, 2),
        (f"top-1 in % with 22 % of the patches, fine-tuned and tested along one order: {', '.join(orders)}", [f"top1_{o}" for o in orders], 1, 1),
    )  # fmt: skip
    return pd.DataFrame([{"": label} | {column: "; ".join(n.cell(name, scale, digits) for name in names) for column, n in both.items()}
                         for label, names, scale, digits in rows])  # fmt: skip


def looking() -> pd.DataFrame:
    """The orders that look, on photographs: accuracy, and the gain over each control with a star where it remains after Holm's
    correction over all comparisons."""
    found, rows = recorded(Seeds("natural", NOTEBOOK)), []
    for order in sorted(COMPARED, key=lambda o: -found.get(f"top1_{o}", 0)):
        if f"top1_{order}" in found:
            controls = {f"against {c}": gain_of(found, order, c, "") for c in ("random", "low-discrepancy", "variance")}
            controls["against its own mean"] = gain_of(found, order, own_mean(order), "")
            rows.append({"order": order, "top-1 in %": top1_of(found, order)} | controls)
    return pd.DataFrame(rows)


def short() -> str:
    """Five answers, for readers who have not read the paper."""
    scores = scorecard.load()
    clothes, photographs = scores["demo"], scores["natural"]
    demo = Numbers("demo")

    def share(order: str) -> str:
        name = f"top1_own_{order}_78%"
        return f"{clothes.cell(name, 100, 1)} % ({photographs.cell(name, 100, 1)} %)"

    def photos(name: str) -> str:
        return f"{photographs.cell(name, 1, 1)} %"

    held = {p: scorecard.counts(scores[p], p) for p in DATA}
    exact, one_pass = ((1 - clothes.of(f"saved_with_{of}").mean()) for of in ("ranking", "measured"))
    return "\n".join([
        f"- **Do the paper's twelve claims hold?** Of clothes: {held['demo']}. Of photographs: {held['natural']}. The "
        "[scorecard](paper_figures/SCORECARD.md) has numbers, rule and controls.",
        f"- **Is the order the image's own?** Of the paper's order {clothes.cell('share_position_collapse', 100, 0)} % is the patch's position on "
        f"clothes, {photographs.cell('share_position_collapse', 100, 0)} % on photographs; two trainings order one image with a rank correlation of "
        f"{demo.pooled('long_orders_raw')}. Along a graph that we measure instead it is {demo.pooled('measured_orders_raw')}.",
        f"- **Does a classifier gain from it?** From 22 % of the patches it names {share('collapse')} of clothes (photographs) along the paper's "
        f"order, {share('mean order')} along one average order for all images, {share('random')} with random patches.",
        f"- **Do orders that look do better, on photographs?** Active looking {photos('top1_active')}, coverage {photos('top1_coverage')}, the paper's order "
        f"{photos('top1_collapse')}, random patches {photos('top1_random')}; one evenly spread order, the same for all images, {photos('top1_low-discrepancy')}.",
        f"- **Is it cheaper?** Ranking and classifying take {number(exact)} times the computation of classifying the whole image, "
        f"{number(one_pass)} times with a network that ranks in one pass.",
    ])  # fmt: skip


def number(x: float) -> str:
    return "–" if pd.isna(x) else f"{x:.2g}"


def notebooks() -> pd.DataFrame:
    """The notebooks, and the minutes that each takes where the models are stored."""
    table = paths.figures / "demo" / "timings.json"
    times = json.loads(table.read_text()) if table.exists() else {}
    rows = []
    for source in paths.sources():
        title = source.read_text(encoding="utf-8").partition("\n# # ")[2].partition("\n")[0]
        seconds = times.get(source.stem, {}).get("released")
        rows.append({"notebook": f"[{title}](notebooks/{source.stem}.ipynb)", "makes": MAKES.get(source.stem, ""), "minutes": f"{seconds / 60:.1f}" if seconds else "–"})
    return pd.DataFrame(rows)


MAKES = {
    "01_patch_entropy": "Fig. 1 on a real image, entropy and certainty curves",
    "02_dependency_autoencoder": "Figs. 6, 10, Table 1",
    "03_collapse_order": "Figs. 2, 3, 4, 5, and a graph that is measured",
    "04_generation_along_the_order": "Figs. 1, 7, 9, Tables 2, 3, 4",
    "05_first_patches": "Fig. 8, Table 5, what it costs",
    "06_an_order_that_looks": "ours: coverage, surprise and active looking against their controls",
}
PAGES: Mapping[str, Mapping[str, Callable[[], str | pd.DataFrame]]] = {
    "README.md": {"short": short, "notebooks": notebooks},
    "book/findings.md": {
        "claims": lambda: pd.DataFrame(claims(), columns=["claim of the paper", "here, seed by seed"]),
        "photographs": photographs,
        "looking": looking,
    },
}


def filled(text: str, page: str = "README.md") -> str:
    """The text of a page of PAGES with its findings as the records have them now."""
    for name, make in PAGES[page].items():
        place = re.compile(rf"(<!-- findings: {name} -->\n).*?(<!-- /findings -->)", re.DOTALL)
        if len(place.findall(text)) != 1:
            raise ValueError(f"{page} has no place or several for the findings {name!r}; expected one <!-- findings: {name} --> "
                             "and <!-- /findings --> after it")  # fmt: skip
        made = make()
        new = made if isinstance(made, str) else markdown(made)
        text = place.sub(lambda m, new=new: f"{m[1]}{new}\n{m[2]}", text)
    return text


def main() -> None:
    """Write the pages anew."""
    for page in PAGES:
        file = paths.root / page
        write(file, filled(file.read_text(encoding="utf-8"), page).encode())
