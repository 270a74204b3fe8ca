"""Twelve claims of the paper: its words and numbers, the records that test them, and the bounds within which they hold.

What the scorecard makes of them is in `cop.lessons.scorecard`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cop.show.records import Seeds
from cop.show.report import slug

Name = str | tuple  # a record; or a difference of two, each a record or a difference


@dataclass(frozen=True)
class Number:
    """A number of the records, times `scale`. above, below: the bounds between which it says what the paper says; without any it
    only stands beside. paper: the paper's number. All three in the units that are shown. pooled: it was measured on several seeds at once,
    and stands in the record of each."""

    label: str
    name: Name
    above: float | None = None
    below: float | None = None
    paper: float | None = None
    scale: float = 1
    digits: int = 2
    pooled: bool = False

    def says_so(self, value: float) -> bool:
        x = self.scale * value
        return (self.above is None or x > self.above) and (self.below is None or x < self.below)

    def bounds(self) -> str:
        words = {"above": self.above, "below": self.below}
        return " and ".join(f"{word} {x:g}" for word, x in words.items() if x is not None)

    def cell(self, scores: Seeds) -> str:
        of = scores.of(self.name)
        return (
            f"{self.scale * of.iloc[0]:.{self.digits}f}"
            if self.pooled and len(of)
            else scores.cell(self.name, self.scale, self.digits)
        )

    def of_paper(self) -> str:
        sign = "+" if isinstance(self.name, tuple) else ""
        return "–" if self.paper is None else f"{self.paper:{sign}.{self.digits}f}"


Ways = Sequence[Sequence[Number]]  # ways of testing a claim, each of numbers that must all lie within their bounds


@dataclass(frozen=True)
class Claim:
    """A claim, the ways of testing it as printed and with the measured graph, numbers that stand beside as controls, the notebook
    and section that show it, and what would change our mind. generator: it needs one that was trained on ImageNet."""

    key: str
    words: str
    paper: str
    ways: Ways
    controls: Sequence[Number]
    notebook: str
    section: str
    change: str
    measured: Ways = ()
    generator: bool = False

    def where(self) -> str:
        return f"[notebook {int(self.notebook[:2])}, {self.section}](../notebooks/{self.notebook}.ipynb#{slug(self.section)})"


def points(label: str, a: str, b: str, **bounds: float) -> Number:
    """A difference of two accuracies in points."""
    return Number(label, (f"top1_{a}_78%", f"top1_{b}_78%"), scale=100, digits=1, **bounds)


def at(rate: int, paper: float, least: float) -> Number:
    return Number(f"CViT − RViT at {rate} % masked, points", gap(rate), least, None, paper, 100, 1)


def gap(rate: int) -> Name:
    return f"top1_CViT_{rate}%", f"top1_RViT_{rate}%"


def frechet(label: str, a: str, b: str, **bounds: float) -> Number:
    return Number(f"Fréchet: {label}", (f"frechet_{a}_cfg2", f"frechet_{b}_cfg2"), **bounds)


def guided(metric: str, label: str, **bounds: float) -> Number:
    return Number(f"{label}: guidance 3 − 1.5", (f"{metric}_CMAR_train_cfg3", f"{metric}_CMAR_train_cfg1.5"), **bounds)


def after_holm(order: str) -> tuple[Number, ...]:
    """Notebook 6: one ViT fine-tuned along each order."""
    gain = f"{order} - random"
    return (
        Number(f"fine-tuned alike (notebook 6): {order} − random, points", f"gain_{gain}", 0, digits=1),
        Number("its p after Holm's correction", f"holm_{gain}", below=0.05),
    )


CLAIMS = (
    Claim("C1", "Masks polarise as the reconstruction loss falls", "“polarized selections” (4.1), no number",
          [[Number("% of the weights below .1 or above .9", "polarised", 90, scale=100, digits=0)]],
          [Number("without the contrastive term", "polarised_without", scale=100, digits=0), Number("mean weight", "mean_weight")],
          "02_dependency_autoencoder", "Training", "Nine in ten weights at either end, in every training."),
    Claim("C2", "The contrastive term lowers the loss and the mask entropy", "L_r 8.392 → 1.567, entropy 4.816 → 4.267 (Table 1)",
          [[Number("L_r with it − without", ("reconstruction_with", "reconstruction_without"), below=0, paper=-6.825),
            Number("mask entropy with it − without", ("mask_entropy_with", "mask_entropy_without"), below=0, paper=-0.549, digits=3)]],
          [Number("L_r of CoMAE", "L_r"), Number("L_r of ridge regression, no network", "reconstruction_ridge_regression")],
          "02_dependency_autoencoder", "Table 1: is the contrastive term what makes it work?",
          "Both differences of one sign in every training, larger than between two trainings."),
    Claim("C3", "The collapse order removes uncertainty faster than random", "Eq. 1, Fig. 1: two images, no mean",
          [[Number("area under the entropy curve: collapse − random", ("area_collapse", "area_random"), below=0, digits=3)]],
          [Number("patch variance − random", ("area_variance", "area_random"), digits=3),
           Number("its mean order for all images − random", ("area_mean_order", "area_random"), digits=3),
           Number("told about the others, nats: collapse − random", ("told_collapse", "told_random"), digits=0)],
          "01_patch_entropy", "Learned: what natural statistics add",
          "A smaller area than random and than its own mean order, in every training; a small area alone can come from taking costly patches away.",
          [[Number("measured − random", ("area_measured", "area_random"), below=0, digits=3)]]),
    Claim("C4", "Orders agree moderately, within and between classes", "“moderate consistency” (Fig. 5), no number",
          [[Number("Kendall's tau within a class", "kendall_within_collapse", 0.2, 0.8),
            Number("between classes", "kendall_between_collapse", 0.2, 0.8)]],
          [Number("tau within a class, patch variance", "kendall_within_variance"),
           Number("% of an order that is the patch's position", "share_position_collapse", scale=100, digits=0),
           Number("one image, two trainings (Spearman)", "long_orders_raw", pooled=True),
           Number("the same, measured graph", "measured_orders_raw", pooled=True)],
          "03_collapse_order", "Many images", "Orders that differ between images and agree between trainings.",
          [[Number("measured: tau within a class", "measured_kendall_within", 0.2, 0.8),
            Number("measured: between classes", "measured_kendall_between", 0.2, 0.8)]]),
    Claim("C5", "MAR+C and CMAR beat MAR", "FID 5.997 → 5.956, 5.928; tFID 2.330 → 2.321, 2.238 (Table 2, guided)",
          [[frechet("MAR+C − MAR", "MAR+C_train", "MAR_random", below=0, paper=-0.041),
            frechet("CMAR − MAR", "CMAR_train", "MAR_random", below=0, paper=-0.069)]],
          [frechet("CMAR − as much training with random orders", "CMAR_train", "continued_random_random"),
           frechet("CMAR along one mean order − MAR", "CMAR_global_mean", "MAR_random"),
           Number("Fréchet of real images, the floor", "frechet_real_images")],
          "04_generation_along_the_order", "Tables 2, 3 and 4",
          "Lower distances than MAR and than as much training with random orders, over seeds, with MAR-B at 256 px.", generator=True),
    Claim("C6", "Descending order beats ascending", "FID 5.928 against 6.005 (Table 4)",
          [[frechet("CMAR − ascending", "CMAR_train", "ascending_train", below=0, paper=-0.077)]],
          [frechet("ascending − as much training with random orders", "ascending_train", "continued_random_random")],
          "04_generation_along_the_order", "Tables 2, 3 and 4",
          "One sign in every training, and descending ahead of as much training with random orders too.", generator=True),
    Claim("C7", "More guidance trades diversity for typical images", "2.9 → 3.1: FID +.020, IS +8.1, precision +.003, recall −.010 (Table 3)",
          [[guided("inception_score", "inception score", above=0, paper=8.125), guided("frechet", "Fréchet", above=0, paper=0.02),
            guided("recall", "recall", below=0, paper=-0.01, digits=3)]],
          [guided("precision", "precision", digits=3)],
          "04_generation_along_the_order", "Tables 2, 3 and 4", "A scale that improves all of them at once.", generator=True),
    Claim("C8", "CViT is at least as good as RViT at every mask rate, most so at 78 %", "+0.0 at 0 %, +0.5 at 50 %, +3.3 at 78 % (Table 5)",
          [[at(78, 3.3, 0), at(50, 0.45, -0.5), at(30, 0.04, -0.5), at(0, 0.01, -0.5),
            Number("more at 78 % than at 50 %, points", (gap(78), gap(50)), 0, None, 2.85, 100, 1)], after_holm("collapse")],
          [points("collapse − its mean order for all images", "own_collapse", "own_mean order"),
           points("collapse − its reversal", "own_collapse", "own_reversed"),
           points("collapse − patch variance", "own_collapse", "own_variance"),
           Number("collapse − its mean order (notebook 6), points", "gain_collapse - mean order", digits=1)],
          "05_first_patches", "Is it the collapse order?",
          "An order of the image's own that beats its own mean order and plain contrast, over seeds, on photographs.",
          [[Number("measured − random (notebook 6), points", ("top1_measured", "top1_random"), 0, digits=1)]]),
    Claim("C9", "A plain ViT gains from the order at 78 %, and loses nothing at 0 %", "31.04 against 22.38 at 78 %, 82.84 against 82.91 at 0 % (Table 5)",
          [[points("ViT+C − ViT at 78 % masked, points", "ViT+C", "ViT", above=0, paper=8.66),
            Number("at 0 %, points", ("top1_ViT+C_0%", "top1_ViT_0%"), -0.5, 0.5, -0.07, 100, 1)]],
          [points("RViT along collapse − random", "one_collapse", "one_random"),
           points("RViT along the mean order − random", "one_mean order", "one_random")],
          "05_first_patches", "Five classifiers", "The same gain in every training, and more of it than from one mean order."),
    Claim("C10", "The knee of CViT's curve lies near 78 % masked", "78 %, with 70.6 % (Fig. 8)",
          [[Number("knee of CViT, % masked", "knee_CViT", 73, 83, 78, 100, 0)]],
          [Number("of RViT", "knee_RViT", scale=100, digits=0), Number("of ViT", "knee_ViT", scale=100, digits=0)],
          "05_first_patches", "Five classifiers", "A knee that stays when the curve ends elsewhere; Kneedle's moves with the end of its range."),
    Claim("C11", "22 % of the patches take 95.16 % less computation", "1 − .22², of the attention's quadratic term",
          [[Number("% saved of the classifier's multiply-adds", "saved_counted", 95.16, None, 95.16, 100, 1)]],
          [Number("% saved in the attention's quadratic term", "saved_attention", scale=100),
           Number("% saved of its time", "saved_time", scale=100, digits=1),
           Number("% saved with the ranking's N passes", "saved_with_ranking", scale=100, digits=1)],
          "05_first_patches", "What it costs", "Counting the classifier whole, with its order, and still saving as much.",
          [[Number("% saved with a measured order in one pass", "saved_with_measured", 95.16, scale=100, digits=1)]]),
    Claim("C12", "The top-ranked patches outline the main shapes", "“outline important shapes” (Fig. 4), eight photographs, no number",
          [[Number("edges above average, patch variance = 1", "outline", 0.5)]],
          [Number("contrast of the first 22 %, average patch = 1", "contrast_of_first"),
           Number("edges of the first 22 %, average patch = 1", "edges_of_first_collapse"),
           Number("of random patches", "edges_of_first_random")],
          "03_collapse_order", "The order at work", "First patches with at least half the edges, above the average patch's, of those with most variance.",
          [[Number("measured: edges above average", "outline_measured", 0.5)]]),
)  # fmt: skip
