"""What a notebook leaves behind: figures, tables, the numbers behind them, a record per seed, and the gallery.

`paper_figures/<profile>/` holds, per figure, PNG, SVG, the data as CSV and a JSON card (alt text, notebook, seed,
configuration); `records/seed<k>.csv` under it the headline numbers of a seed. A notebook writes them to
`$COP_FIGURES/<profile>`, else `build/figures/<profile>`; only `cop figures` takes them from there to paper_figures.
"""

import ast
import functools
import io
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy import stats

from cop import paths
from cop.files import write
from cop.orders import added
from cop.profiles import DRY, as_dict, get_profile, key, scale_config
from cop.show.figures import STYLE

# The manifest: which notebook makes which figure or table of the paper, and which are ours.
MANIFEST = {
    "01_patch_entropy": ["fig1_reveal", "entropy_gaussian", "entropy_learned", "entropy_areas", "entropy_seeds", "certainty"],
    "02_dependency_autoencoder": ["fig10", "fig6", "polarisation", "masks", "tab1"],
    "03_collapse_order": ["fig2", "fig3", "fig4", "fig5", "mean_rank", "relied_upon", "shares", "agreement", "order_seeds",
                          "mean_rank_seeds", "seeds_agree", "first_of_each", "photographs"],
    "04_generation_along_the_order": ["fig1", "fig7", "fig9", "generation_systems", "generation_metrics", "tab2", "tab3", "tab4",
                                      "generation_gaps", "generation_seeds", "order_loss", "order_gain"],
    "05_first_patches": ["fig8", "tab5", "knee_range", "controls", "cross", "comparisons", "classification_seeds", "cost", "first_patches",
                         "photographs_classified"],
}
TITLES = {
    "fig1_reveal": "Figure 1 (on a real image)", "entropy_gaussian": "Remaining entropy, Gaussian tokens",
    "entropy_learned": "Remaining entropy, learned predictor", "entropy_areas": "Area under the entropy curves",
    "certainty": "Class certainty along orders", "fig10": "Figure 10", "fig6": "Figure 6",
    "polarisation": "Polarisation of the masks", "masks": "Masks and reconstructions", "tab1": "Table 1",
    "fig2": "Figure 2", "fig3": "Figure 3", "fig4": "Figure 4", "fig5": "Figure 5",
    "mean_rank": "Mean position of each patch", "relied_upon": "Which patches everybody relies on", "shares": "What an order consists of",
    "agreement": "Agreement of orders",
    "entropy_seeds": "Area under the entropy curves, by seed", "order_seeds": "What an order consists of, by seed",
    "mean_rank_seeds": "Mean position of each patch, by seed", "seeds_agree": "Orders of the same images by different seeds",
    "first_of_each": "The first 22 % of the patches",
    "fig1": "Figure 1", "fig7": "Figure 7", "fig9": "Figure 9", "tab2": "Table 2", "tab3": "Table 3", "tab4": "Table 4",
    "generation_systems": "Every system and order source", "generation_metrics": "Metrics of generation",
    "generation_gaps": "Paired differences between systems", "generation_seeds": "Generation, by seed",
    "order_loss": "Test loss by order", "order_gain": "What training along an order teaches",
    "fig8": "Figure 8", "tab5": "Table 5", "knee_range": "The knee against the range of its curve", "controls": "Other orders, trained and tested like CViT",
    "cross": "One network tested along every order", "comparisons": "Differences on the same images",
    "cost": "What the first patches cost", "first_patches": "An image from its first patches",
    "classification_seeds": "Accuracy from the first 22 % of the patches, by seed",
    "photographs": "Orders of clothes and of photographs", "photographs_classified": "Clothes and photographs from the first 22 % of the patches",
}  # fmt: skip


UNLISTED = ("smoke", DRY)  # ends of the names of profiles whose figures prove that the code runs, and show nothing


def paper_numbers() -> dict:
    """The paper's tables as data."""
    return json.loads((paths.package / "show" / "paper_numbers.json").read_text())


LEAST = {"seed": 0, "example": 0, "prefixes": 2}  # values of the notebooks' whole numbers; 1 for the others


def parameters(notebook: str) -> dict:
    """The parameters of a notebook (`03_collapse_order`) and their defaults, from its source; {} if there is none."""
    source = paths.notebooks / f"{notebook}.py"
    text = source.read_text(encoding="utf-8") if source.exists() else ""
    cell = text.partition('# %% tags=["parameters"]\n')[2].partition("\n# %%")[0]
    return {line.target.id: ast.literal_eval(line.value) for line in ast.parse(cell).body}


def check(notebook: str, given: Mapping) -> None:
    """Raise ValueError, one line, for a parameter that the notebook does not have, of another type, or out of range."""
    known = parameters(notebook)
    for name, value in given.items():
        default = known.get(name, {"profile": "", "seed": 0}.get(name))
        if known and name not in known:
            raise ValueError(f"unknown parameter {name!r} for {notebook}; expected one of {', '.join(known)}")
        if name == "profile" and isinstance(value, str):
            get_profile(value)
        elif name == "device":
            if not re.fullmatch(r"auto|(cpu|cuda|mps|meta)(:\d+)?", str(value)):
                raise ValueError(f"device is {value!r}; expected auto, cpu or cuda")
            if str(value).startswith("cuda") and not torch.cuda.is_available():
                raise ValueError(f"device is {value!r}, but torch finds no GPU on this machine; expected auto or cpu")
        elif type(default) is int:
            if type(value) is not int or value < LEAST.get(name, 1):
                raise ValueError(f"{name} is {value!r}; expected a whole number of {LEAST.get(name, 1)} or more")
        elif type(default) is float:
            if type(value) not in (int, float) or not 0 <= value < 1:
                raise ValueError(f"{name} is {value!r}; expected a number from 0 to 1, and less than 1")
        elif default is not None and type(value) is not type(default):
            raise ValueError(f"{name} is {value!r}; expected {'true or false' if default is False else 'a name'}")
    if "shown" in known and (example := given.get("example", 0)) >= (shown := given.get("shown", known["shown"])):
        raise ValueError(f"example is {example!r}; expected one of the {shown} images shown, counted from 0")


def changed(notebook: str, given: Mapping) -> dict:
    """Those of the given parameters that are not the profile's own, so that figures and records mean something else, and
    the orders of `COP_ORDERS`. Seeds other than 0 are `brief` of themselves, and a dry run has counts of its own."""
    own = parameters(notebook) | ({"brief": given.get("brief")} if given.get("seed") else {})
    if given.get("profile", "").endswith(DRY):
        return {}
    with_orders = {"orders": "+".join(added()).replace(" ", "_")} if added() else {}
    return with_orders | {k: v for k, v in given.items() if k not in ("profile", "seed", "device") and k in own and v != own[k]}


@functools.cache  # a notebook reads the records several times
def note(message: str) -> None:
    """One line on stderr, with paths as seen from the project: a notebook's output may be committed."""
    print(f"cop: {message}".replace(f"{paths.root}{os.sep}", ""), file=sys.stderr, flush=True)


class Report:
    """Where a notebook run writes. Only seed 0 draws figures; other seeds leave their record alone.

    parameters: the notebook's others, all checked here, so that a wrong one raises ValueError in the first cell. Those
    that are not the profile's own name the folder and stand in cards and records (`changed`).
    """

    def __init__(self, notebook: str, profile: str, seed: int, **parameters):
        given = {"profile": profile, "seed": seed} | parameters
        check(notebook, given)
        self.notebook, self.profile, self.seed, self.changed = notebook, profile, seed, changed(notebook, given)

    @property
    def folder(self) -> Path:
        name = "-".join([self.profile, *(f"{k}-{v}" for k, v in self.changed.items())])
        return Path(os.environ.get("COP_FIGURES") or paths.build / "figures") / name

    @property
    def config(self) -> str:
        """The key of what cards and records were made with: the profile, and parameters that are not its own."""
        profile = get_profile(self.profile)
        config = {k: v for k, v in as_dict(profile).items() if k != "scale"} | scale_config(profile)
        return key(config | ({"parameters": self.changed} if self.changed else {}))

    def figure(self, fig: Figure, name: str, alt: str, data: pd.DataFrame | None = None) -> None:
        """Save a figure (PNG, SVG, CSV of the numbers, card) and show it once, with its alt text."""
        self._card(name, alt)
        if self.profile.endswith(DRY):
            stamp(fig)
        if self.seed == 0:
            for kind, options in (("png", {"dpi": STYLE["savefig.dpi"]}), ("svg", {"metadata": {"Date": None}})):
                buffer = io.BytesIO()
                with matplotlib.rc_context({k: v for k, v in STYLE.items() if k.startswith("svg.")}):  # read on saving
                    fig.savefig(buffer, format=kind, **options)
                write(self.folder / f"{name}.{kind}", buffer.getvalue())
            if data is not None:
                write(self.folder / f"{name}.csv", data.to_csv(index=False, float_format="%.6g").encode())
        display(fig, alt)

    def table(self, table: pd.DataFrame, name: str, alt: str) -> pd.DataFrame:
        """Save a table as CSV and Markdown and return it, to be the last line of a cell."""
        self._card(name, alt)
        if self.seed == 0:
            write(self.folder / f"{name}.csv", table.to_csv(index=False, float_format="%.6g").encode())
            warning = "DRY RUN: these numbers mean nothing.\n\n" if self.profile.endswith(DRY) else ""
            write(self.folder / f"{name}.md", (warning + markdown(table) + "\n").encode())
        return table

    def record(self, **numbers: float) -> None:
        """Add headline numbers to this seed's record, replacing those of the same name and notebook."""
        path = self.folder / "records" / f"seed{self.seed}.csv"
        old = _read(path)
        old = pd.DataFrame(columns=["notebook", "name", "value", "config"]) if old is None else old
        new = pd.DataFrame([{"notebook": self.notebook, "name": k, "value": float(v), "config": self.config} for k, v in numbers.items()])
        keep = old[~((old["notebook"] == self.notebook) & old["name"].isin(new["name"]))]
        rows = new if keep.empty else pd.concat([keep, new])
        rows = rows.sort_values(["notebook", "name"])
        write(path, rows.to_csv(index=False, float_format="%.6g").encode())

    def seeds(self) -> "Seeds":
        """The notebook's numbers over all seeds: those of this run, and of other seeds the committed ones."""
        return Seeds(self.profile, self.notebook, run=self)

    def beside(self, profiles: Mapping[str, str], names: Mapping[str, str | tuple[str, str]], scale: float = 1,
               digits: int = 3) -> pd.DataFrame:  # fmt: skip
        """Headline numbers of this notebook for several profiles, its own as `seeds` has them. profiles: column -> profile;
        names: label -> name in the record, or a pair for a difference. Each cell is the mean over the seeds on record with
        its interval, one number where there is one seed, and a dash where there is none."""
        columns = {}
        for column, profile in profiles.items():
            seeds = self.seeds() if profile == self.profile else Seeds(profile, self.notebook)
            columns[f"{column}, {seeds.names()}"] = [seeds.cell(name, scale, digits) for name in names.values()]
        return pd.DataFrame({"": list(names)} | columns)

    def keep(self, name: str, data: pd.DataFrame) -> None:
        """A small table of this seed that a comparison of seeds will read: records/<name>_seed<k>.csv."""
        content = data.to_csv(index=False, float_format="%.6g").encode()
        write(self.folder / "records" / f"{name}_seed{self.seed}.csv", content)

    def kept(self, name: str) -> dict[str, pd.DataFrame]:
        """What `keep` left under that name, by seed, of this run and else of the committed records; then that of runs which
        differ in more than the seed and whose records lie in a folder that says how: "0, one thread". Tables made with
        something else than this run's, or of another shape, are left aside with a note."""
        folder, own = paths.figures / self.profile / "records", self.folder / "records" / f"{name}_seed{self.seed}.csv"
        here = _read(own, ())
        tables = {} if here is None else {("", self.seed): here}
        for file in sorted(folder.rglob(f"{name}_seed*.csv")):
            place = file.parent.relative_to(folder).name.replace("_", " "), _seed(file, f"{name}_")
            if place[1] is None or place in tables or (table := _read(file, ())) is None:
                continue
            record = _read(file.with_name(f"seed{place[1]}.csv"))
            if record is not None and _foreign(record, self) or self.changed and record is None:
                note(f"{file} was made with another configuration than this run and is left aside")
            elif here is not None and table.shape != here.shape:
                note(f"{file} is left aside: it has {table.shape} values, and this run's table {here.shape}")
            else:
                tables[place] = table
        return {f"{seed}, {how}" if how else f"{seed}": tables[how, seed] for how, seed in sorted(tables)}

    def _card(self, name: str, alt: str) -> None:
        known = MANIFEST.get(self.notebook, [])
        if name not in known:
            raise ValueError(f"{name!r} is not in the manifest of {self.notebook}; expected one of {', '.join(known)}")
        if self.seed == 0:
            card = {"title": TITLES[name], "alt": alt, "notebook": self.notebook, "profile": self.profile,
                    "seed": self.seed, "config": self.config} | ({"parameters": self.changed} if self.changed else {})  # fmt: skip
            write(self.folder / f"{name}.json", (json.dumps(card, indent=1) + "\n").encode())


def _seed(file: Path, before: str = "") -> int | None:
    """The seed in the name of a record; None, with a note, for any other name."""
    if found := re.fullmatch(rf"{before}seed(\d+)\.csv", file.name):
        return int(found[1])
    note(f"{file} is left aside: a record is named {before}seed<whole number>.csv")
    return None


def _read(file: Path, columns: tuple[str, ...] = ("notebook", "name", "value")) -> pd.DataFrame | None:
    """A record or a kept table; None if it is not there, and, with a note, if it is not one."""
    try:
        table = pd.read_csv(file, dtype={"config": str})  # a key may look like a number
    except FileNotFoundError:
        return None
    except (ValueError, OSError):  # pandas' errors of empty and malformed files are ValueErrors
        table = None
    if table is None or not set(columns) <= set(table.columns):
        note(f"{file} is left aside: expected a CSV table{' with columns ' + ', '.join(columns) if columns else ''}")
        return None
    return table


def _foreign(record: pd.DataFrame, run: "Report") -> bool:
    """Whether a record's numbers of a run's notebook were made with another configuration. A record that does not name its
    own was made with the profile's parameters."""
    made = record.get("config", pd.Series(index=record.index, dtype=str))[record["notebook"] == run.notebook]
    return bool(made.notna().any() and (made != run.config).any() or made.isna().any() and run.changed)


def records(profile: str, figures: Path | None = None, run: "Report | None" = None) -> pd.DataFrame:
    """The records of all seeds present (in `figures`, paper_figures): columns seed, notebook, name, value. Stray files are
    left aside with a note. run: its record wins over the committed one of its seed, and others that were made with another
    configuration are left aside too."""
    folder = (figures or paths.figures) / profile / "records"
    files = sorted(folder.glob("seed*.csv"))
    own = run.folder / "records" / f"seed{run.seed}.csv" if run else None
    parts = []
    for file in [*files, own] if own else files:
        if (seed := _seed(file)) is None or (table := _read(file)) is None:
            continue
        if run and _foreign(table, run):
            note(f"{file}: its numbers of {run.notebook} were made with another configuration than this run and are left aside")
            table = table[table["notebook"] != run.notebook]
        parts.append(table.assign(seed=seed))
    if not parts:
        return pd.DataFrame(columns=["notebook", "name", "value", "seed"])
    return pd.concat(parts, ignore_index=True).drop_duplicates(["notebook", "name", "seed"], keep="last")


class Seeds:
    """A notebook's headline numbers over all seeds that left a record (see `records`)."""

    def __init__(self, profile: str, notebook: str, figures: Path | None = None, run: Report | None = None):
        found = records(profile, figures, run)
        self.values = found[found["notebook"] == notebook].pivot(index="name", columns="seed", values="value")

    def names(self) -> str:
        """`seed 0`, or `mean over seeds 0, 1 and 2 ± 95 %`."""
        *first, last = [f"{s}" for s in self.values.columns] or ["–"]
        return f"mean over seeds {', '.join(first)} and {last} ± 95 %" if first else f"seed {last}"

    def of(self, name: str | tuple[str, str]) -> pd.Series:
        """The numbers of one name by seed; of a pair of names their differences, seed by seed."""
        if isinstance(name, tuple):
            return (self.of(name[0]) - self.of(name[1])).dropna()
        return self.values.loc[name].dropna() if name in self.values.index else pd.Series(dtype=float)

    def interval(self, name: str | tuple[str, str]) -> tuple[float, float, int]:
        """Mean over seeds, half the width of its 95 % Student interval (nan for one seed), and how many seeds."""
        x = self.of(name)
        n = len(x)
        return x.mean(), stats.t.ppf(0.975, n - 1) * x.std() / n**0.5 if n > 1 else float("nan"), n

    def cell(self, name: str | tuple[str, str], scale: float = 1, digits: int = 3) -> str:
        """`48.5 ± 3.2`; only the mean for one seed, a dash for none."""
        mean, half, n = self.interval(name)
        if not n:
            return "–"
        sign = "+" if isinstance(name, tuple) else ""
        return f"{scale * mean:{sign}.{digits}f}" + (f" ± {scale * half:.{digits}f}" if n > 1 else "")

    def table(self, names: Mapping[str, str | tuple[str, str]], scale: float = 1, digits: int = 3) -> pd.DataFrame:
        """names: label -> name in the record, or a pair for a difference. One row each: the number of every seed, and
        their mean with its 95 % interval."""
        rows = []
        for label, name in names.items():
            of = self.of(name)
            each = {f"seed {s}": f"{scale * of[s]:.{digits}f}" if s in of.index else "–" for s in self.values.columns}
            rows.append({"": label} | each | {"mean ± 95 %": self.cell(name, scale, digits)})
        return pd.DataFrame(rows)


def stamp(fig: Figure, text: str = "DRY RUN") -> None:
    """Large grey words on a pale band across a figure, legible over pictures, which leave its layout as it is."""
    width, height = 72 * fig.get_size_inches()  # points
    fontsize = min(0.9 * width / len(text), 0.5 * height)
    fig.text(0.5, 0.5, text, rotation=20, color="0.25", alpha=0.6, fontsize=fontsize, fontweight="bold", ha="center", va="center",
             zorder=1000, bbox={"facecolor": "white", "alpha": 0.6, "edgecolor": "none", "pad": 1}).set_in_layout(False)  # fmt: skip


def display(fig: Figure, alt: str) -> None:
    """Show a figure in a notebook with alt text; nothing outside IPython."""
    if "IPython" not in sys.modules or sys.modules["IPython"].get_ipython() is None:
        return
    from IPython.display import display as show

    show(fig, metadata={"image/png": {"alt": alt}})


def markdown(table: pd.DataFrame) -> str:
    """A GitHub table; floats to three decimals, missing values as a dash."""

    def cell(x) -> str:
        if isinstance(x, float):
            return "–" if pd.isna(x) else f"{x:.3f}"
        return str(x)

    lines = [list(map(str, table.columns)), ["---"] * table.shape[1], *(map(cell, r) for r in table.itertuples(index=False))]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def gallery(folder: Path | None = None) -> str:
    """The gallery page, rebuilt from the cards: every figure and table per profile with alt text, what the paper has
    there and we, and provenance. Profiles that prove only that the code runs get a page of their own beside their
    figures. Returns the page of the others."""
    folder = folder or paths.figures
    profiles = sorted(p for p in folder.iterdir() if any(p.glob("*.json")))
    head = ["# Figures and tables", "", "Generated by `make figures` from the cards beside the figures; do not edit.", ""]
    for profile in profiles:
        if profile.name.endswith(UNLISTED):
            write(profile / "README.md", "\n".join(head + section(profile, "", "../../")).encode())
    listed = [p for p in profiles if not p.name.endswith(UNLISTED)]
    page = "\n".join(head + [line for p in listed for line in section(p, f"{p.name}/", "../")])
    write(folder / "README.md", page.encode())
    return page


def section(profile: Path, here: str, root: str) -> list[str]:
    """The gallery's lines for one profile's folder. here, root: how a link on the page begins that leads to this folder
    and to the project's."""
    times = json.loads((profile / "timings.json").read_text()) if (profile / "timings.json").exists() else {}
    papers = json.loads((paths.package / "show" / "paper_figures.json").read_text())
    lines = [f"## Profile `{profile.name}`", ""]
    if (note := profile / "NOTE.md").exists():  # what a reader must know of all its figures
        lines += [note.read_text(encoding="utf-8").strip(), ""]
    for notebook, names in MANIFEST.items():
        seeds, took = Seeds(profile.name, notebook, profile.parent), times.get(notebook, {})
        seconds = [f"{took[k]} s {what}" for k, what in (("released", "with released artefacts"), ("retrain", "trained anew")) if k in took]
        for name in names:
            if not (profile / f"{name}.json").exists():
                continue
            card = json.loads((profile / f"{name}.json").read_text())
            lines += [f"### {card['title']}", ""]
            if (profile / f"{name}.png").exists():
                lines += [f"![{card['alt']}]({here}{name}.png)", ""]
            else:
                lines += [(profile / f"{name}.md").read_text().strip(), "", f"*{card['alt']}*", ""]
            lines += [f"- **Paper**: {(papers.get(name) or {}).get('paper') or 'has none of this'}"]
            found = [(label, seeds.cell(number, scale, digits)) for label, number, scale, digits in papers.get(name, {}).get("here", ())]
            if found := [f"{label} {value}" for label, value in found if value != "–"]:
                lines += [f"- **Here**: {', '.join(found)} ({seeds.names()})"]
            files = [f"[{f.suffix[1:]}]({here}{f.name})" for f in sorted(profile.glob(f"{name}.*")) if f.suffix in (".svg", ".csv")]
            lines += [" · ".join([f"- **Notebook**: [{notebook}]({root}notebooks/{notebook}.ipynb)", *seconds, f"seed {card['seed']}",
                                  f"configuration `{card['config']}`", *files]), ""]  # fmt: skip
    return lines
