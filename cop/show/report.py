"""Saves the figures and tables of a notebook, the numbers behind them, and a record of headline numbers per seed.

`paper_figures/<profile>/` holds, per figure, PNG, SVG, the data as CSV and a JSON card (alt text, notebook, seed,
configuration); `records/seed<k>.csv` under it the headline numbers of a seed. A notebook writes them to
`$COP_FIGURES/<profile>`, else `build/figures/<profile>`; only `cop figures` takes them from there to paper_figures.
"""

import ast
import functools
import inspect
import io
import json
import os
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from cop import paths
from cop.configs import as_dict, key, scale_config
from cop.files import write
from cop.orders import added
from cop.profiles import DRY, get_profile
from cop.show.figures import STYLE
from cop.show.records import Seeds, foreign, note, read, seed_of


@dataclass(frozen=True)
class Shown:
    """A figure or table of a notebook, and what the gallery says of it.

    paper: what the paper has in its place, if anything; here: our numbers beside it, each as (label, name in the record,
    scale, digits)."""

    notebook: str
    title: str
    paper: str | None = None
    here: Sequence[tuple[str, str, float, int]] = ()


SHOWN: dict[str, Shown] = {}  # by name, in the order of the gallery; filled by the modules of cop.lessons


def shown(notebook: str, title: str, paper: str | None = None, here: Sequence[tuple[str, str, float, int]] = ()) -> Callable:
    """Decorator: a function of a `Report` (and of what it shows) makes the figure or table of the function's name.

    The first paragraph of its docstring is the alt text. It returns a table; or a figure, or (figure, numbers), or
    (figure, numbers, words) where the alt text names some in braces. What it returns is saved and shown; None says that there is
    nothing to show.
    """

    def register(function: Callable) -> Callable:
        name, alt = function.__name__, " ".join(inspect.getdoc(function).partition("\n\n")[0].split())
        if SHOWN.get(name, Shown(notebook, title)).notebook != notebook:
            raise ValueError(f"notebook {SHOWN[name].notebook} shows a figure or table named {name!r} already; give the one of {notebook} another name")
        SHOWN[name] = Shown(notebook, title, paper, here)

        @functools.wraps(function)
        def show(out: "Report", *args, **kwargs) -> pd.DataFrame | None:
            made = function(out, *args, **kwargs)
            if made is None:
                return say(f"{title}: not on record for profile {out.profile}.")
            if isinstance(made, pd.DataFrame):
                return out.table(made, name, alt)
            fig, data, words = [*made, {}][:3] if isinstance(made, tuple) else (made, None, {})
            return out.figure(fig, name, alt.format(**words), data)

        return show

    return register


def say(*sentences: str) -> None:
    """Print sentences as lines that fit a notebook's column."""
    print(textwrap.fill(" ".join(sentences), 76))


LEAST = {"seed": 0, "seeds": 0, "example": 0, "prefixes": 2}  # values of the notebooks' whole numbers; 1 for the others


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
    if get_profile(given.get("profile", "demo")).name.endswith(DRY):
        return {}
    with_orders = {"orders": "+".join(added()).replace(" ", "_")} if added() else {}
    return with_orders | {k: v for k, v in given.items() if k not in ("profile", "seed", "device") and k in own and v != own[k]}


def written(fig: Figure) -> dict[str, bytes]:
    """A figure as the content of a PNG and of an SVG file."""
    made = {}
    for kind, options in (("png", {"dpi": STYLE["savefig.dpi"]}), ("svg", {"metadata": {"Date": None}})):
        buffer = io.BytesIO()
        with matplotlib.rc_context({k: v for k, v in STYLE.items() if k.startswith("svg.")}):  # read on saving
            fig.savefig(buffer, format=kind, **options)
        made[kind] = buffer.getvalue()
    return made


class Report:
    """Where a notebook run writes. Only seed 0 draws figures; other seeds leave their record alone.

    parameters: the notebook's others, all checked here, so that a wrong one raises ValueError in the first cell. Those
    that are not the profile's own name the folder and stand in cards and records (`changed`).
    """

    def __init__(self, notebook: str, profile: str, seed: int, **parameters):
        given = {"profile": profile, "seed": seed} | parameters
        check(notebook, given)
        self.notebook, self.settings, self.seed, self.changed = notebook, get_profile(profile), seed, changed(notebook, given)
        self.profile = self.settings.name

    @property
    def folder(self) -> Path:
        name = "-".join([self.profile, *(f"{k}-{v}" for k, v in self.changed.items())])
        return Path(os.environ.get("COP_FIGURES") or paths.build / "figures") / name

    @property
    def config(self) -> str:
        """The key of what cards and records were made with: the profile, and parameters that are not its own."""
        config = {k: v for k, v in as_dict(self.settings).items() if k != "scale"} | scale_config(self.settings)
        return key(config | ({"parameters": self.changed} if self.changed else {}))

    def figure(self, fig: Figure, name: str, alt: str, data: pd.DataFrame | None = None) -> None:
        """Save a figure (PNG, SVG, CSV of the numbers, card) and show it once, with its alt text."""
        self._card(name, alt)
        if self.profile.endswith(DRY):
            stamp(fig)
        if self.seed == 0:
            for kind, content in written(fig).items():
                write(self.folder / f"{name}.{kind}", content)
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
        old = read(path)
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
        here = read(own, ())
        tables = {} if here is None else {("", self.seed): here}
        for file in sorted(folder.rglob(f"{name}_seed*.csv")):
            place = file.parent.relative_to(folder).name.replace("_", " "), seed_of(file, f"{name}_")
            if place[1] is None or place in tables or (table := read(file, ())) is None:
                continue
            record = read(file.with_name(f"seed{place[1]}.csv"))
            if record is not None and foreign(record, self) or self.changed and record is None:
                note(f"{file} was made with another configuration than this run and is left aside")
            elif here is not None and table.shape != here.shape:
                note(f"{file} is left aside: it has {table.shape} values, and this run's table {here.shape}")
            else:
                tables[place] = table
        return {f"{seed}, {how}" if how else f"{seed}": tables[how, seed] for how, seed in sorted(tables)}

    def over_runs(self, name: str, curves: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray]:
        """Keep the curves of this run, of one length, and return those of all runs that kept the same, (runs, length) each."""
        data = pd.DataFrame(curves)
        self.keep(name, data)
        tables = [t for t in self.kept(name).values() if list(t.columns) == list(data.columns)]
        return {n: np.array([t[n] for t in tables]) for n in curves}

    def _card(self, name: str, alt: str) -> None:
        if name not in SHOWN or SHOWN[name].notebook != self.notebook:
            known = ", ".join(n for n, of in SHOWN.items() if of.notebook == self.notebook)
            raise ValueError(f"{name!r} is no figure or table of {self.notebook}; expected one of {known}")
        if self.seed == 0:
            card = {"title": SHOWN[name].title, "alt": alt, "notebook": self.notebook, "profile": self.profile,
                    "seed": self.seed, "config": self.config} | ({"parameters": self.changed} if self.changed else {})  # fmt: skip
            write(self.folder / f"{name}.json", (json.dumps(card, indent=1) + "\n").encode())


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


def slug(heading: str) -> str:
    """What a link to a heading of a Markdown page ends with, on GitHub as in the book."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
