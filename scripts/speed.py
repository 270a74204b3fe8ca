"""How many core-seconds AdamW and Muon take to the same validation loss, MAR and the base ViT of the demo, in one run.

    python scripts/speed.py [STEPS of MAR] [STEPS of the base]

Writes paper_figures/speed.csv, and the curves from it as speed.png and speed.svg. Seconds are those that the process computes, so other
work on the machine does not count; the looks at the validation images are left out.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from cop import paths
from cop.data.loading import load_data
from cop.files import write
from cop.lessons import base, generation, pipeline
from cop.paper.mar import MAR
from cop.profiles import get_profile
from cop.show.figures import styled
from cop.show.report import written
from cop.train.loop import fit, seeded, seeded_build

LOOKS = 10
COLOURS = {"adamw": "0.35", "muon": "#0072b2"}
RATES = {"MAR": {"adamw": 2e-3, "muon": 4e-3}, "base ViT": {"adamw": 1e-3, "muon": 3e-3}}  # the best that we tried of each


def curve(model, loss: Callable, validated: Callable, config, size: int) -> list[tuple[int, float, float]]:
    """(step, core-seconds, validation loss) at LOOKS steps of a training on one thread."""
    rows, looking, begun = [], 0.0, time.process_time()

    def watch(model: torch.nn.Module, step: int) -> None:
        nonlocal looking
        if step % (config.steps // LOOKS) == 0:
            here = time.process_time()
            with torch.no_grad():
                rows.append((step, here - begun - looking, validated(model.eval())))
            model.train()
            looking += time.process_time() - here

    with tempfile.TemporaryDirectory() as folder:
        fit(model, loss, config, size=size, seed=0, directory=folder, checkpoint_every=config.steps, watch=watch)
    return rows


def of_mar(optimizer: str, steps: int) -> list[tuple[int, float, float]]:
    profile = get_profile("demo")
    config = replace(profile.generation, optimizer=optimizer, lr=RATES["MAR"][optimizer], steps=steps, batch_size=64)
    data, tokens = load_data(profile, "train"), pipeline.token_source(profile, "train", "cpu")
    val, of_val = load_data(profile, "val"), pipeline.token_source(profile, "val", "cpu")
    chosen = pipeline.selection(val, 500)

    def loss(model, idx, generator, step):
        return {"loss": model(tokens(idx, None, generator), data.labels[idx], generator)}

    def validated(model) -> float:
        return float(model(of_val(chosen, None, seeded(1)), val.labels[chosen], seeded(2)))

    return curve(MAR(generation.mar_sizes(profile), seeded(0, 50)), loss, validated, config, len(data))


def of_base(optimizer: str, steps: int) -> list[tuple[int, float, float]]:
    profile = get_profile("demo")
    config = replace(profile.base, optimizer=optimizer, lr=RATES["base ViT"][optimizer], steps=steps)
    data = base.learned_from(profile)

    def loss(model, idx, generator, step):
        return {"loss": base.base_loss(model, *data.batch(idx), config, generator)}

    model = seeded_build(lambda: base.build(profile), 0, 31)
    return curve(model, loss, lambda m: base.validated(m, profile)[0], config, len(data))


def main(steps: dict[str, int]) -> None:
    torch.set_num_threads(1)
    file, rows = paths.figures / "speed.csv", []
    for name, trained in (("MAR", of_mar), ("base ViT", of_base)):
        for optimizer in ("adamw", "muon"):
            rows += [(name, optimizer, *row) for row in trained(optimizer, steps[name])]
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows, columns=["model", "optimizer", "step", "core-seconds", "validation loss"]).round(4)
    write(file, table.to_csv(index=False).encode())
    for kind, data in written(speed(table)).items():
        write(paths.figures / f"speed.{kind}", data)


@styled
def speed(table: pd.DataFrame) -> Figure:
    """Validation loss against core-seconds, a panel per model, a line per optimizer, columns as of speed.csv. The title says how much
    sooner Muon reaches AdamW's last loss."""
    names = list(table["model"].unique())
    fig, axes = plt.subplots(1, len(names), figsize=(7.6, 2.9), layout="constrained")
    for ax, name in zip(axes, names, strict=True):
        runs = {k: run for k, run in table[table["model"] == name].groupby("optimizer")}
        for optimizer, (name_of, style, above) in {"adamw": ("AdamW", "o--", 5), "muon": ("Muon", "o-", -12)}.items():
            run = runs[optimizer]
            ax.plot(run["core-seconds"], run["validation loss"], style, ms=3, color=COLOURS[optimizer])
            ax.annotate(name_of, run[["core-seconds", "validation loss"]].iloc[len(run) // 2], xytext=(0, above),
                        textcoords="offset points", ha="left" if above > 0 else "right", color=COLOURS[optimizer])  # fmt: skip
        ax.axhline(runs["adamw"]["validation loss"].iloc[-1], color="0.6", lw=0.7, zorder=0)
        ax.set(title=f"{name}: {gained(runs)}", xlabel="seconds of one core", ylabel="validation loss (lower is better)")
    return fig


def gained(runs: dict[str, pd.DataFrame]) -> str:
    """AdamW's seconds to its last loss over Muon's to the same, interpolated between its looks."""
    goal = runs["adamw"].iloc[-1]
    muon = runs["muon"].sort_values("validation loss")
    if muon["validation loss"].iloc[0] > goal["validation loss"]:
        return "Muon does not reach AdamW's last loss"
    needed = np.interp(goal["validation loss"], muon["validation loss"], muon["core-seconds"])
    return f"Muon needs {goal['core-seconds'] / needed:.1f} × fewer seconds"


if __name__ == "__main__":
    given = [int(x) for x in sys.argv[1:]]
    main(dict(zip(("MAR", "base ViT"), given or (600, 1000), strict=True)))
