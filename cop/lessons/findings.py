"""The tables of findings in README.md, written from the records: `python -m cop readme`, after a retraining.

README marks each place with `<!-- findings -->` and `<!-- /findings -->`, and the name of the table; what stands between
is replaced. No number and no verdict in them is typed: a verdict is how many seeds say so.
"""

import re
from collections.abc import Sequence

import pandas as pd

from cop import paths
from cop.files import write
from cop.lessons.looking import COMPARED, own_mean
from cop.profiles import get_profile
from cop.show.report import Seeds, markdown

Name = str | tuple[str, str]  # a number of the records, or a difference of two


class Numbers(Seeds):
    """The committed records of a profile, by name, whatever notebook left them."""

    def __init__(self, profile: str):
        super().__init__(profile, figures=paths.figures)

    def of(self, name: Name) -> pd.Series:
        """As of `Seeds`; KeyError for a name that no record has."""
        if (found := super().of(name)).empty:
            raise KeyError(f"no record has {name!r}; run the notebooks for every seed first (make figures, make seeds)")
        return found

    def each(self, name: Name, scale: float = 1, digits: int = 2) -> str:
        """`48.5 / 65.0 / 66.8`, in the order of the seeds."""
        sign = "+" if isinstance(name, tuple) else ""
        return " / ".join(f"{scale * x:{sign}.{digits}f}" for x in self.of(name))


def claims() -> list[tuple[str, str]]:
    """What the paper says and what the demo's records say."""
    n = Numbers("demo")
    each, says = n.each, n.wins
    agree = pd.read_csv(paths.figures / "demo" / "seeds_agree.csv")
    pairs = ", ".join(f"{row['Spearman, same image'].split()[0]} (seeds {row['seeds']})" for _, row in agree.iterrows())
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
         f"{n.of('long_L_r').iloc[0]:.2f}, below ridge regression, and the orders of one image by two seeds correlate by "
         f"{n.of('long_orders_raw').iloc[0]:+.2f}, without their mean order by {n.of('long_orders_own').iloc[0]:+.2f} (means of three seeds)"),
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
    both = {"clothes (demo)": Numbers("demo"), "photographs (natural), before the corrections": Numbers("natural")}
    orders = ("random", "collapse", "mean order", "reversed", "variance")
    rows: Sequence[tuple[str, Sequence[Name], float, int]] = (
        ("share of an order that is position, class, image, in %", [f"share_{p}_collapse" for p in ("position", "class", "image")], 100, 1),
        ("Kendall's tau within a class, between classes", ["kendall_within_collapse", "kendall_between_collapse"], 1, 2),
        ("edges among the first 22 %, against the average patch; by variance", ["edges_of_first_collapse", "edges_of_first_variance"], 1, 2),
        (f"top-1 in % with 22 % of the patches, trained and tested along one order: {', '.join(orders)}", [f"top1_own_{o}_78%" for o in orders], 100, 1),
        ("one RViT tested along them", [f"top1_one_{o}_78%" for o in orders], 100, 1),
        ("a plain ViT on a quarter as many, coarser patches", ["top1_own_coarser patches_78%"], 100, 1),
    )  # fmt: skip
    return pd.DataFrame([{"": label} | {column: "; ".join(n.cell(name, scale, digits) for name in names) for column, n in both.items()}
                         for label, names, scale, digits in rows])  # fmt: skip


def looking() -> pd.DataFrame:
    """The orders that look, on photographs: accuracy, and the gain over each control with a star where it remains after Holm's
    correction over all comparisons."""
    n = Numbers("natural64")
    value = {name: n.of(name).iloc[0] for name in n.values.index}

    def gain(order: str, control: str) -> str:
        name = f"{order} - {control}"
        found = value.get(f"gain_{name}")
        return "" if found is None else f"{found:+.1f}{' *' if value[f'holm_{name}'] < 0.05 else ''}"

    rows = []
    for order in sorted(COMPARED, key=lambda o: -value.get(f"top1_{o}", 0)):
        if f"top1_{order}" in value:
            top1 = f"{value[f'top1_{order}']:.1f} [{value[f'low_{order}']:.1f}, {value[f'high_{order}']:.1f}]"
            controls = {f"against {c}": gain(order, c) for c in ("random", "low-discrepancy", "variance")}
            rows.append({"order": order, "top-1 in %": top1} | controls | {"against its own mean": gain(order, own_mean(order))})
    return pd.DataFrame(rows)


def filled(text: str) -> str:
    """README's text with its tables of findings as the records have them now."""
    tables = {"claims": pd.DataFrame(claims(), columns=["claim of the paper", "here, seed by seed"]), "photographs": photographs(), "looking": looking()}
    for name, table in tables.items():
        place = re.compile(rf"(<!-- findings: {name} -->\n).*?(<!-- /findings -->)", re.DOTALL)
        if len(place.findall(text)) != 1:
            raise ValueError(f"README.md has no place or several for the findings {name!r}; expected one <!-- findings: {name} --> "
                             "and <!-- /findings --> after it")  # fmt: skip
        text = place.sub(lambda m, table=table: f"{m[1]}{markdown(table)}\n{m[2]}", text)
    return text


def main() -> None:
    """Write README.md anew."""
    readme = paths.root / "README.md"
    write(readme, filled(readme.read_text(encoding="utf-8")).encode())
