"""Reads the records that runs of the notebooks left: headline numbers by seed, and their means over seeds."""

import functools
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from scipy import stats

from cop import paths

DATA = {"demo": "clothes", "natural": "photographs"}  # profiles of which results are told -> what tables call their images
BESIDE = {f"{images} ({profile})": profile for profile, images in DATA.items()}  # columns of tables that show both


@functools.cache  # a notebook reads the records several times
def note(message: str) -> None:
    """One line on stderr, with paths as seen from the project: a notebook's output may be committed."""
    print(f"cop: {message}".replace(f"{paths.root}{os.sep}", ""), file=sys.stderr, flush=True)


def seed_of(file: Path, before: str = "") -> int | None:
    """The seed in the name of a record; None, with a note, for any other name."""
    if found := re.fullmatch(rf"{before}seed(\d+)\.csv", file.name):
        return int(found[1])
    note(f"{file} is left aside: a record is named {before}seed<whole number>.csv")
    return None


def read(file: Path, columns: tuple[str, ...] = ("notebook", "name", "value")) -> pd.DataFrame | None:
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


def foreign(record: pd.DataFrame, run) -> bool:
    """Whether a record's numbers of the notebook of a run (a `Report`) were made with another configuration. A record that does not name its
    own was made with the profile's parameters."""
    made = record.get("config", pd.Series(index=record.index, dtype=str))[record["notebook"] == run.notebook]
    return bool(made.notna().any() and (made != run.config).any() or made.isna().any() and run.changed)


def records(profile: str, figures: Path | None = None, run=None) -> pd.DataFrame:
    """The records of all seeds present (in `figures`, paper_figures): columns seed, notebook, name, value. Stray files are
    left aside with a note. run: its record wins over the committed one of its seed, and others that were made with another
    configuration are left aside too."""
    folder = (figures or paths.figures) / profile / "records"
    files = sorted(folder.glob("seed*.csv"))
    own = run.folder / "records" / f"seed{run.seed}.csv" if run else None
    parts = []
    for file in [*files, own] if own else files:
        if (seed := seed_of(file)) is None or (table := read(file)) is None:
            continue
        if run and foreign(table, run):
            note(f"{file}: its numbers of {run.notebook} were made with another configuration than this run and are left aside")
            table = table[table["notebook"] != run.notebook]
        parts.append(table.assign(seed=seed))
    if not parts:
        return pd.DataFrame(columns=["notebook", "name", "value", "seed"])
    return pd.concat(parts, ignore_index=True).drop_duplicates(["notebook", "name", "seed"], keep="last")


class Seeds:
    """The headline numbers of a notebook, or of all, over all seeds that left a record (see `records`)."""

    def __init__(self, profile: str, notebook: str | None = None, figures: Path | None = None, run=None):
        found = records(profile, figures, run)
        self.values = found[found["notebook"] == (notebook or found["notebook"])].pivot(index="name", columns="seed", values="value")

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

    def wins(self, name: str | tuple[str, str], better: int = 1) -> str:
        """`with 2 of 3 seeds`: how many have a number above 0, or the first of two above the second; below for better = -1."""
        of = self.of(name)
        return f"with {int((better * of > 0).sum())} of {len(of)} seeds"

    def verdict(self, name: str | tuple[str, str], better: int = 1, digits: int = 2, scale: float = 1) -> str:
        """A number of the record, or a difference of two, over all seeds: mean, interval, and how many say that it is better.
        better: +1 where more is better, -1 where less is."""
        return "–" if self.of(name).empty else f"{self.cell(name, scale, digits)}; better {self.wins(name, better)}"

    def table(self, names: Mapping[str, str | tuple[str, str]], scale: float = 1, digits: int = 3) -> pd.DataFrame:
        """names: label -> name in the record, or a pair for a difference. One row each: the number of every seed, and where
        there are several their mean with its 95 % interval."""
        rows = []
        for label, name in names.items():
            of, sign = self.of(name), "+" if isinstance(name, tuple) else ""
            each = {f"seed {s}": f"{scale * of[s]:{sign}.{digits}f}" if s in of.index else "–" for s in self.values.columns}
            mean = {"mean ± 95 %": self.cell(name, scale, digits)} if len(each) > 1 else {}
            rows.append({"": label} | each | mean)
        return pd.DataFrame(rows)
