"""The handout of a lesson, one page of A4, from the committed records: `python -m cop handout`."""

import io
from pathlib import Path

import matplotlib

from cop import paths
from cop.files import write
from cop.lessons.findings import Numbers
from cop.show import diagrams

ORDERS = ("collapse", "random", "mean order", "reversed", "variance")


def findings() -> list[tuple[str, str]]:
    """Three questions and what the records of all seeds answer, of clothes unless photographs are named."""
    n, photos = Numbers("demo"), Numbers("natural")
    own = {o: f"top1_own_{o}_78%" for o in ORDERS}
    gain, mean = (own["collapse"], own["random"]), (own["collapse"], own["mean order"])
    look = {o: photos.cell((f"top1_{o}", "top1_low-discrepancy"), 1, 1) for o in ("collapse", "coverage", "active")}
    return [
        (
            "Does the order belong to the image?",
            f"{n.cell('share_position_collapse', 100, 0)} % of an order is the patch's position. Orders of one image by two trainings "
            f"to the end correlate by {n.cell('long_orders_raw', 1, 2)}, and by {n.cell('long_orders_own', 1, 2)} when the mean "
            "order is taken out.",
        ),
        (
            "Does a classifier gain from it?",
            f"From 22 % of the patches {n.cell(gain, 100, 1)} points against random patches, better {n.wins(gain)}; "
            f"{n.cell(mean, 100, 1)} points against one mean order for all images, better {n.wins(mean)}.",
        ),
        (
            "Does an order that looks do better, on photographs?",
            "Against one evenly spread order for all images, in points: "
            + ", ".join(f"{o} {gap}" for o, gap in look.items())
            + ". Notebook 6 has the intervals, and a place for an order of your own.",
        ),
    ]


def main(out: Path | None = None) -> Path:
    """Write the handout to `out` (build/handout.pdf). Raises ValueError where an accuracy is not on record."""
    n = Numbers("demo")
    accuracies = {o: [100 * x for x in n.of(f"top1_own_{o}_78%")] for o in ORDERS}
    if missing := [o for o in ORDERS if not accuracies[o]]:
        raise ValueError(f"no record has the accuracy along {', '.join(missing)}; run notebook 5 first (make figures)")
    source = f"Numbers: paper_figures/demo, {n.names()}; photographs: paper_figures/natural. Made by `python -m cop handout`."
    page, buffer = diagrams.handout(findings(), accuracies, source), io.BytesIO()
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        page.savefig(buffer, format="pdf", metadata={"CreationDate": None})
    write(out := out or paths.build / "handout.pdf", buffer.getvalue())
    return out
