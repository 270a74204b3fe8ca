"""The reproduction report: whether what a run of the notebooks made agrees with the committed figures and tables.

Numbers agree within `RTOL` of themselves, 1e-5 of the largest in their column, or one unit of the last decimal printed;
words agree literally. Pictures agree when no colour of the blurred pictures differs by more than `PICTURE` of its range;
an SVG counts by its PNG, a card by its content. What agrees stays as it is, down to the byte; the rest is replaced.
"""

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageFilter
from scipy import stats

from cop.files import write
from cop.show import records

RTOL, PICTURE = 1e-3, 0.1
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class Finding:
    """name: of a figure or table, or records/seed<k>.csv. status: agrees, differs, new, or not made. gap: the largest
    difference, as a share of what is tolerated. note: that difference and where it is."""

    name: str
    status: str
    gap: float = 0.0
    note: str = ""


def compare(fresh: Path, committed: Path, notebooks: Sequence[str], seed: int = 0) -> list[Finding]:
    """What lies in `fresh` against `committed`, both folders of a profile, for the notebooks that ran with that seed."""
    cards = {f.stem: json.loads(f.read_text())["notebook"] for folder in (committed, fresh) for f in sorted(folder.glob("*.json"))
             if f.stem != "timings"}  # fmt: skip
    names = [n for notebook in notebooks for n in cards if cards[n] == notebook]
    findings = [_figure(fresh, committed, n) for n in names if (fresh / f"{n}.json").exists()]
    findings += [Finding(n, "not made", np.inf, "the committed one stays") for n in names
                 if seed == 0 and (committed / f"{n}.json").exists() and not (fresh / f"{n}.json").exists()]  # fmt: skip
    for file in sorted((fresh / "records").glob(f"*seed{seed}.csv")):
        old, name = committed / "records" / file.name, f"records/{file.name}"
        same = _records if file.name == f"seed{seed}.csv" else _tables
        findings.append(_finding(name, [same(name, old, file)]) if old.exists() else Finding(name, "new", np.inf))
    return findings


def replace(findings: Sequence[Finding], fresh: Path, committed: Path) -> None:
    """Write what is new or differs to `committed`. In a record only the rows of the notebooks that ran are replaced."""
    for name in (f.name for f in findings if f.status in ("differs", "new")):
        if not name.startswith("records/"):
            for file in committed.glob(f"{name}.*"):
                if not (fresh / file.name).exists():
                    file.unlink()
            for file in fresh.glob(f"{name}.*"):
                write(committed / file.name, file.read_bytes())
            continue
        content = (fresh / name).read_bytes()
        if "_seed" not in name and (committed / name).exists():
            new, old = (pd.read_csv(f / name, dtype={"config": str}) for f in (fresh, committed))
            rows = pd.concat([old[~old["notebook"].isin(new["notebook"])], new]).sort_values(["notebook", "name"])
            content = rows.to_csv(index=False, float_format="%.6g").encode()
        write(committed / name, content)


def text(findings: Sequence[Finding], where: str) -> str:
    """The report: a line per figure, table and record, then how many agree and which do not."""
    lines = [f"Reproduction of {where} (numbers within {RTOL:.1%}, pictures within {PICTURE:.0%}):"]
    lines += [f"  {f.status:8} {f.name:26} {f.note}".rstrip() for f in findings]
    agree = sum(f.status == "agrees" for f in findings)
    lines += [f"{agree} of {len(findings)} figures, tables and records agree."]
    for status in ("differs", "new", "not made"):
        if names := [f.name for f in findings if f.status == status]:
            lines += [f"{status}: {', '.join(names)}"]
    return "\n".join(lines) + "\n"


def retrained(fresh: Path, committed: Path, seed: int) -> pd.DataFrame:
    """For a retraining: every number of its record against the committed records of all seeds. Columns notebook, number, here,
    committed (the same seed's), seeds (how many have it), low and high (where 95 % of further runs would lie: Student's t, for
    one more run), verdict: inside, outside, or no interval, where fewer than two seeds have the number."""
    new, seen, rows = fresh / "records" / f"seed{seed}.csv", records.records(committed.name, committed.parent), []
    made = pd.read_csv(new)[["notebook", "name", "value"]].itertuples(index=False) if new.exists() else ()
    for notebook, name, here in made:
        of = seen[(seen["notebook"] == notebook) & (seen["name"] == name)].dropna(subset="value")
        x, own, low, high = of["value"], of[of["seed"] == seed]["value"], np.nan, np.nan
        verdict, n = "no interval", len(of)
        if n > 1:
            half = stats.t.ppf(0.975, n - 1) * x.std() * (1 + 1 / n) ** 0.5
            low, high = x.mean() - half, x.mean() + half
            slack = RTOL * max(abs(low), abs(high))  # seeds that do not differ at all
            verdict = "inside" if low - slack <= here <= high + slack else "outside"
        rows.append([notebook, name, here, *(own if len(own) else [np.nan]), n, low, high, verdict])
    return pd.DataFrame(rows, columns=["notebook", "number", "here", "committed", "seeds", "low", "high", "verdict"])


def retrained_text(table: pd.DataFrame) -> str:
    """The table of `retrained` in short: counts by notebook, then every number that is not inside its interval."""
    if table.empty:
        return ""
    counts = table.pivot_table(index="notebook", columns="verdict", values="number", aggfunc="count", fill_value=0)
    counts = counts.reindex(columns=["inside", "outside", "no interval"], fill_value=0)
    rest = table[table["verdict"] != "inside"].sort_values(["verdict", "notebook"], ascending=[False, True])
    head = "Retrained: how many recorded numbers lie in the 95 % interval of one more run beside the committed seeds:"
    lines = [head, counts.to_string()]
    if len(rest):
        lines += ["The others:", rest.to_string(index=False, na_rep="–", float_format="{:.6g}".format)]
    return "\n".join(lines) + "\n"


def _finding(name: str, differences: Sequence[tuple[float, str]]) -> Finding:
    gap, note = max(differences, key=lambda d: d[0])
    return Finding(name, "differs" if gap > 1 else "agrees", gap, note)


def _figure(fresh: Path, committed: Path, name: str) -> Finding:
    """All files of one figure or table. A file that only one side has is a difference."""
    if not (committed / f"{name}.json").exists():
        return Finding(name, "new", np.inf)
    differences = [(0.0, "")]
    for kind, same in (("json", _cards), ("csv", _tables), ("md", _markdown), ("png", _pictures), ("svg", lambda *_: (0.0, ""))):
        old, new = committed / f"{name}.{kind}", fresh / f"{name}.{kind}"
        if old.exists() != new.exists():
            differences.append((np.inf, f"{old.name} is {'committed and was not made' if old.exists() else 'new'}"))
        elif old.exists() and old.read_bytes() != new.read_bytes():
            differences.append(same(old.name, old, new))
    return _finding(name, differences)


def _cards(name: str, old: Path, new: Path) -> tuple[float, str]:
    a, b = json.loads(old.read_text()), json.loads(new.read_text())
    for k in sorted(a.keys() | b.keys()):
        gap, how = _cells(a.get(k, ""), b.get(k, "")) if k == "alt" else (np.inf, "") if a.get(k) != b.get(k) else (0.0, "")
        if gap > 1:
            return gap, f"{name}, {k}: {a.get(k)!r} committed, {b.get(k)!r} here"
    return 0.0, ""


def _tables(name: str, old: Path, new: Path) -> tuple[float, str]:
    with old.open(newline="") as a, new.open(newline="") as b:
        return _rows(name, list(csv.reader(a)), list(csv.reader(b)))


def _markdown(name: str, old: Path, new: Path) -> tuple[float, str]:
    a, b = ([[c.strip() for c in line.strip("|").split("|")] for line in f.read_text().splitlines()] for f in (old, new))
    return _rows(name, a, b)


def _records(name: str, old: Path, new: Path) -> tuple[float, str]:
    """The rows of the notebooks that ran; the column `config` counts where both have it."""
    a, b = (pd.read_csv(f, dtype=str).set_index(["notebook", "name"]) for f in (old, new))
    a = a[a.index.get_level_values(0).isin(b.index.get_level_values(0))]
    if only := [" ".join(i) for i in a.index.symmetric_difference(b.index)]:
        return np.inf, f"{name}: only one side has {', '.join(only[:3])}{f' and {len(only) - 3} more' * (len(only) > 3)}"
    columns = [c for c in ("value", "config") if c in a and c in b]
    rows = [[["", *columns], *([" ".join(i), *map(str, r)] for i, r in zip(t.index, t[columns].to_numpy(), strict=True))]
            for t in (a, b.loc[a.index])]  # fmt: skip
    return _rows(name, *rows)


def _rows(name: str, a: list[list[str]], b: list[list[str]]) -> tuple[float, str]:
    """The largest difference of two tables of text, first row their heading."""
    if [len(r) for r in a] != [len(r) for r in b] or a[:1] != b[:1]:
        return np.inf, f"{name}: {len(a) - 1} rows of {a[:1]} committed, {len(b) - 1} of {b[:1]} here"
    worst, note = 0.0, ""
    for j, column in enumerate(a[0] if a else []):
        cells = [(r[j], s[j]) for r, s in zip(a[1:], b[1:], strict=True)]
        numeric = [c for pair in cells for c in pair if NUMBER.fullmatch(c)]
        largest = max((abs(float(c)) for c in numeric), default=0.0) if name.endswith("csv") else 0.0
        unit = min(map(_unit, numeric), default=None)
        for i, (x, y) in enumerate(cells):
            gap, how = _cells(x, y, 1e-5 * largest, unit)
            if gap > worst:
                row = f"row {i + 1}" + (f" ({a[i + 1][0]})" if j else "")
                worst, note = gap, f"{name}, {row}, column {column or j + 1}: {x} committed, {y} here{how}"
    return worst, note


def _cells(a: str, b: str, atol: float = 0.0, unit: float | None = None) -> tuple[float, str]:
    """The largest difference of the numbers in two cells as a share of what is tolerated, and in words; infinite where the
    words between them differ. unit: of the last decimal of the column; that of the two numbers, if left out."""
    if a == b:
        return 0.0, ""
    a, b = a.replace("−", "-"), b.replace("−", "-")
    if NUMBER.split(a) != NUMBER.split(b):
        return np.inf, ""
    worst, how = 0.0, ""
    for x, y in zip(NUMBER.findall(a), NUMBER.findall(b), strict=True):
        step = min(_unit(x), _unit(y)) if unit is None else unit
        most = max(abs(float(x)), abs(float(y)))
        difference = abs(float(x) - float(y))
        if difference and (gap := difference / (RTOL * most + atol + 1.001 * step)) > worst:
            worst, how = gap, f", {100 * difference / most:.2g} % apart"
    return worst, how


def _unit(number: str) -> float:
    """What the last printed decimal counts; 0 for whole numbers and powers of ten, which are not rounded to decimals."""
    return 10.0 ** -len(number.partition(".")[2]) if "." in number and "e" not in number else 0.0


def _pictures(name: str, old: Path, new: Path) -> tuple[float, str]:
    (a, size), (b, other) = _picture(old), _picture(new)
    if size != other:
        return np.inf, f"{name}: {size[0]} x {size[1]} pixels committed, {other[0]} x {other[1]} here"
    apart = np.abs(a - b).max(-1)
    y, x = np.unravel_index(apart.argmax(), apart.shape)
    where = f"{(x + 0.5) / len(a):.0%} from the left, {(y + 0.5) / len(a):.0%} from the top"
    return apart.max() / PICTURE, f"{name}, {where}: colours {apart.max():.0%} apart" if apart.any() else ""


def _picture(path: Path) -> tuple[np.ndarray, tuple[int, int]]:
    """A PNG on white, (96, 96, 3) in [0, 1], blurred, for lines may sit a pixel elsewhere; and its size in pixels."""
    image = Image.open(path).convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    flat = flat.resize((480, 480), Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(5))
    return np.asarray(flat.resize((96, 96), Image.Resampling.BOX), float) / 255, image.size
