"""Model cards: `released/MODEL_CARDS.md`, one row for every released model, written from its provenance and history.

`python -m cop cards`, which `python -m cop release` calls too.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from safetensors import safe_open

from cop import paths
from cop.files import write
from cop.show.report import markdown

# What the models of a stage are, where they are used, and what they cannot do. All of these are trained.
TRAINED = {
    "comae": "The dependency autoencoder of the paper (Eqs. 2–7), which says how much each patch relies on every other one. "
    "Notebooks 1–5 and `cop.rank` take its orders. Trainings of several seeds do not agree on an order (notebook 3): it is a "
    "property of the run as much as of the image.",
    "predictor": "Ours: mean and scale of every hidden patch, given those that are seen. Notebooks 1 and 3, and the measured graph of "
    "`cop.rank`. Its uncertainty is a Laplace distribution per value; it knows no correlations within a patch.",
    "cached-predictor": "Ours: the same predictor for one who looks: it encodes every patch once, when it is seen, and keeps its keys and values. "
    "Notebook 6 and `cop.look(order=\"active cached\")`. A quarter of the computation, and a little less right. Stored in half precision.",
    "onepass": "Ours: the measured graph of an image in one pass. Notebook 3 and `cop.rank`; the kinds other than `places` know any grid. "
    "It repeats what the predictor says and is no better than it.",
    "graphnet": "Ours: CoMAE's graph of an image in one pass. Notebook 3 and `cop.rank`. It imitates one CoMAE, with its arbitrariness.",
    "mar": "The generator MAR, trained with random orders; base of notebook 4. Small, and of small grey images: its samples show "
    "what they are, not what the paper's look like.",
    "mar-tuned": "MAR trained on along collapse orders (descending), reversed ones (ascending) or random ones; notebook 4. Limits as of "
    "the base.",
    "base": "The ViT that classifiers are fine-tuned from, trained on whole images; notebook 6. It replaces the paper's ImageNet-21k weights and "
    "has seen far less. Stored in half precision: what is fine-tuned from it differs from ours by rounding.",
    "classifier": "ViTs for the first patches of an order; notebook 5. RViT also supplies the features of notebook 4's metrics, and so their limits.",
}
ABOUT = (
    "Each folder has weights or results (`tensors.safetensors`), the history of its training (`history.csv`) and its whole "
    "configuration, commit and versions (`provenance.json`). Losses without another word are of training images, means over the "
    "last few steps. `unlike others` names the settings in which the models of a section differ."
)
SECTIONS = {"mar-tuned": "mar", "cached-predictor": "predictor"}  # of a configuration, where it has not the stage's name
APART = ("data", "tokens", "versions", "scale")  # parts of a configuration that have columns of their own, or none


def provenances() -> dict[str, dict]:
    """Of every released artefact, by its name."""
    return {f.parent.name: json.loads(f.read_text()) for f in sorted(paths.released.glob("*/provenance.json"))}


def settings(config: dict, section: str) -> Iterator[tuple[str, str]]:
    """The single values at the top of a configuration and in the section of its stage."""
    values = {k: v for k, v in config.items() if k not in APART} | config.get(section, {})
    yield from ((k, str(v)) for k, v in values.items() if not isinstance(v, dict | list))


def row(name: str, provenance: dict, differing: set[str]) -> dict[str, str]:
    """A model in the table of its stage."""
    folder, config = paths.released / name, provenance["config"]
    section, history = SECTIONS.get(provenance["stage"], provenance["stage"]), pd.read_csv(folder / "history.csv")
    data, last, first = config["data"], history.iloc[-1], history.iloc[len(history) // 10]
    shown = {k: f"{first[k]:.3g} → {last[k]:.3g}" for k in history.columns.drop("step")}
    with safe_open(folder / "tensors.safetensors", "pt") as tensors:
        if "watched" in tensors.keys():  # of a base: step, loss, accuracy
            _, loss, right = tensors.get_tensor("watched")[-1].tolist()
            shown |= {"validation loss": f"{loss:.3g}", "validation top-1": f"{right:.1%}"}
        if "watched.loss" in tensors.keys():
            shown |= {"validation reconstruction": f"{tensors.get_tensor('watched.loss')[-1]:.3g}"}
    own = [f"{k} {v}" for k, v in settings(config, section) if k in differing]
    return {
        "model": f"`{name}`",
        "data": f"{data['name']}, {(data['image_size'] // config['tokens']['patch_size']) ** 2} patches ({config['tokens']['kind']})",
        "unlike others": ", ".join(own),
        "steps × batch": f"{last['step'] + 1:,.0f} × {config[section]['batch_size']}",
        "minutes": f"{provenance['seconds'] / 60:.1f}",
        "threads": str(config["scale"]["threads"]),
        "seed": str(config.get("seed", 0)),
        "after a tenth of the steps → at the end": ", ".join(f"{k} {v}" for k, v in shown.items()),
        "kB": f"{size(name) / 1000:,.0f}",
    }


def size(name: str) -> int:
    """Bytes of a released artefact."""
    return sum(f.stat().st_size for f in (paths.released / name).iterdir())


def text() -> str:
    """The page: a section for every stage that trains, then one table of everything else."""
    of = provenances()
    lines = ["# Model cards", "", "Generated by `python -m cop cards` from the released artefacts; do not edit.", ""]
    lines += [f"{len(of)} artefacts, {sum(map(size, of)) / 1e6:.1f} MB. {ABOUT}", ""]
    for stage, about in TRAINED.items():
        own = {name: p for name, p in of.items() if p["stage"] == stage}
        if own:
            found = Counter(s for p in own.values() for s in settings(p["config"], SECTIONS.get(stage, stage)))
            differing = {k for (k, _), n in found.items() if n < len(own)} - {"steps", "batch_size", "seed"}
            table = pd.DataFrame([row(name, p, differing) for name, p in own.items()])
            lines += [f"## {stage}", "", about, "", markdown(table), ""]
            lines += [f"`{name}`: {p['note']}.\n" for name, p in own.items() if "note" in p]
    rows = []
    for stage in sorted({p["stage"] for p in of.values()} - TRAINED.keys()):
        own = {name: p["seconds"] / 60 for name, p in of.items() if p["stage"] == stage}
        minutes, kilobytes = f"{sum(own.values()):.1f}", f"{sum(map(size, own)) / 1000:,.0f}"
        rows.append({"stage": stage, "artefacts": len(own), "minutes": minutes, "kB": kilobytes})
    about = "Orders, tokens' statistics and evaluations, which the notebooks would compute again without them."
    return "\n".join([*lines, "## Results", "", about, "", markdown(pd.DataFrame(rows)), ""])


def main() -> Path:
    """Write the page and return where it is."""
    write(paths.released / "MODEL_CARDS.md", text().encode())
    return paths.released / "MODEL_CARDS.md"
