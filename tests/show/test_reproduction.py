"""What a run made against the committed figures: float noise agrees, a wrong number or picture is named, and what agrees
is left as it is."""

import csv
import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cop import paths, runner
from cop.lessons import gallery
from cop.show import report, reproduction

NOTEBOOKS = [s.stem for s in paths.sources()]


@pytest.fixture
def both(tmp_path):
    """A fresh folder that equals the committed one, and that one."""
    for side in ("fresh", "committed"):
        shutil.copytree(paths.figures / "demo", tmp_path / side / "demo")
    return tmp_path / "fresh" / "demo", tmp_path / "committed" / "demo"


def contents(folder):
    return {f.relative_to(folder): f.read_bytes() for f in folder.rglob("*.*")}


def wrong(findings):
    return [f.name for f in findings if f.status != "agrees"]


def alter(path, row, column, factor):
    """Multiply one cell of a CSV (row 1 is the first below the heading) and leave the other bytes."""
    with path.open(newline="") as f:
        rows = list(csv.reader(f))
    j = rows[0].index(column)
    rows[row][j] = f"{float(rows[row][j]) * factor:.6g}"
    with path.open("w", newline="") as f:
        csv.writer(f, lineterminator="\n").writerows(rows)


def test_a_copy_of_the_committed_figures_agrees(both):
    findings = reproduction.compare(*both, NOTEBOOKS)
    assert not wrong(findings) and {f.gap for f in findings} == {0}
    kept = {f"records/{f.name}" for f in (both[0] / "records").glob("*seed0.csv")}
    assert {f.name for f in findings} == {*report.SHOWN, *kept} and {"records/seed0.csv", "records/orders_seed0.csv"} <= kept
    n = len(findings)
    assert f"\n{n} of {n} figures, tables and records agree.\n" in reproduction.text(findings, "paper_figures/demo")


ALTERED = {
    "controls": (3, "random"), "entropy_areas": (1, "area"), "fig6": (20, "loss"), "shares": (2, "class"), "tab1": (1, "L_r"),
    "certainty": (2, "raster"), "fig2": (5, "score"), "relied_upon": (1, "mean_weight"), "generation_seeds": (1, "seed 0"),
    "records/seed0": (7, "value"),
}  # fmt: skip


def test_a_number_altered_by_5_per_cent_is_named_and_alone_replaced(both):
    fresh, committed = both
    before = contents(committed)
    for name, (row, column) in ALTERED.items():
        alter(fresh / f"{name}.csv", row, column, 1.05)
    findings = reproduction.compare(fresh, committed, NOTEBOOKS)
    found = {f.name.removesuffix(".csv"): f.note for f in findings if f.status != "agrees"}
    assert set(found) == set(ALTERED)
    for name, (row, column) in ALTERED.items():
        note = rf"{name}\.csv, row {row}( \(.+\))?, column {column}: \S+ committed, \S+ here, (4\.\d|5) % apart"
        assert re.fullmatch(note, found[name])
        assert found[name] in reproduction.text(findings, "x")
    reproduction.replace(findings, fresh, committed)
    assert {str(f) for f, c in contents(committed).items() if before[f] != c} == {f"{name}.csv" for name in ALTERED}
    assert not wrong(reproduction.compare(fresh, committed, NOTEBOOKS))


def test_float_noise_agrees_and_leaves_every_byte(both):
    """The sixth digit of every number, and every pixel by up to two grey levels: another processor."""
    fresh, committed = both
    rng, before = np.random.default_rng(0), contents(committed)
    for file in [*fresh.glob("*.csv"), fresh / "records" / "seed0.csv"]:
        with file.open(newline="") as f:
            rows = list(csv.reader(f))
        for r in rows[1:]:
            r[:] = [f"{float(x) * (1 + rng.uniform(-3e-6, 3e-6)):.6g}" if re.fullmatch(r"-?\d+\.\d{4,}", x) else x for x in r]
        with file.open("w", newline="") as f:
            csv.writer(f, lineterminator="\n").writerows(rows)
    for file in fresh.glob("fig*.png"):
        image = np.asarray(Image.open(file).convert("RGB")).astype(int)
        Image.fromarray((image + rng.integers(-2, 3, image.shape)).clip(0, 255).astype(np.uint8)).save(file)
    for file in fresh.glob("*.svg"):
        file.write_text(file.read_text() + "<!-- other paths -->")
    (fresh / "tab1.md").write_text((fresh / "tab1.md").read_text().replace("12.935", "12.934"))  # a last digit flips
    findings = reproduction.compare(fresh, committed, NOTEBOOKS)
    assert not wrong(findings) and max(f.gap for f in findings) > 0
    reproduction.replace(findings, fresh, committed)
    assert contents(committed) == before


def test_a_wrong_picture_is_named(both):
    fresh, committed = both
    Image.new("RGB", Image.open(fresh / "fig8.png").size, "white").save(fresh / "fig8.png")
    for name in ("fig2", "fig5", "fig6", "relied_upon", "masks"):  # of other data
        shutil.copy(paths.figures / "natural" / f"{name}.png", fresh / f"{name}.png")
    turned = Image.open(fresh / "mean_rank.png")
    turned.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(fresh / "mean_rank.png")
    findings = {f.name: f for f in reproduction.compare(fresh, committed, NOTEBOOKS)}
    assert set(wrong(findings.values())) == {"fig8", "fig2", "fig5", "fig6", "relied_upon", "masks", "mean_rank"}
    assert re.match(r"fig8\.png, \d+% from the left, \d+% from the top: colours \d+% apart", findings["fig8"].note)


def test_what_is_new_missing_or_made_otherwise_is_named(both):
    fresh, committed = both
    card = json.loads((fresh / "fig5.json").read_text())
    (fresh / "fig5.json").write_text(json.dumps(card | {"config": "0" * 12}))
    for file in fresh.glob("fig4.*"):
        file.unlink()
    for file in committed.glob("fig3.*"):
        file.unlink()
    (fresh / "fig2.csv").unlink()
    record = pd.read_csv(fresh / "records" / "seed0.csv")
    record = record[record["notebook"] == "03_collapse_order"][1:]
    record.to_csv(fresh / "records" / "seed0.csv", index=False)
    findings = reproduction.compare(fresh, committed, ["03_collapse_order"])
    assert {f.name: f.status for f in findings if f.status != "agrees"} == {
        "fig2": "differs", "fig3": "new", "fig4": "not made", "fig5": "differs", "records/seed0.csv": "differs"}  # fmt: skip
    before = pd.read_csv(committed / "records" / "seed0.csv")
    reproduction.replace(findings, fresh, committed)
    assert (committed / "fig3.png").exists() and (committed / "fig4.png").exists() and not (committed / "fig2.csv").exists()
    assert len(pd.read_csv(committed / "records" / "seed0.csv")) == len(before) - 1, "rows of notebooks that did not run stay"


def test_a_retraining_is_held_against_the_interval_of_the_seeds(tmp_path, monkeypatch):
    monkeypatch.setenv("COP_FIGURES", str(tmp_path / "committed"))
    for seed, a in ((0, 0.50), (1, 0.54), (2, 0.58)):
        report.Report("09_test", "demo", seed).record(a=a, b=1.0, c=a, **({} if seed else {"d": 7.0}))
    monkeypatch.setenv("COP_FIGURES", str(tmp_path / "fresh"))
    report.Report("09_test", "demo", 0).record(a=0.70, b=1.0, c=0.80, d=8.0, e=1.0)  # 0.54 ± 4.303 x 0.04 x (4/3)^.5 = 0.199
    table = reproduction.retrained(tmp_path / "fresh" / "demo", tmp_path / "committed" / "demo", 0)
    text, table = reproduction.retrained_text(table), table.set_index("number")
    assert dict(table["verdict"]) == {"a": "inside", "b": "inside", "c": "outside", "d": "no interval", "e": "no interval"}
    assert table.loc["c", ["low", "high"]].tolist() == pytest.approx([0.54 - 0.1987, 0.54 + 0.1987], abs=1e-3)
    assert dict(table["seeds"]) == {"a": 3, "b": 3, "c": 3, "d": 1, "e": 0} and table.loc["d", "committed"] == 7
    head, *lines = text.splitlines()
    assert "95 % interval of one more run" in head and lines[2].split() == ["09_test", "2", "1", "2"]
    assert [line.split()[1] for line in lines[5:]] == ["c", "d", "e"], "what is inside is only counted"
    nothing = reproduction.retrained(tmp_path / "none" / "demo", tmp_path / "committed" / "demo", 0)
    assert nothing.empty and not reproduction.retrained_text(nothing)


def test_git_ignores_what_notebooks_run_by_hand_leave():
    left = ["build/figures/demo/fig2.png", "build/demo/timings.json", "notebooks/03_collapse_order.nbconvert.ipynb",
            "notebooks/03_collapse_order.html", "notebooks/03_collapse_order_files/a.png"]  # fmt: skip
    done = subprocess.run(["git", "-C", str(paths.root), "check-ignore", *left], capture_output=True, text=True)
    if done.returncode == 128:
        pytest.skip("not a git repository")
    assert done.stdout.split() == left


@pytest.fixture
def ran(both, tmp_path, monkeypatch):
    """`runner.run` whose notebooks leave what lies in `fresh`."""
    fresh, committed = both
    monkeypatch.delenv("COP_FIGURES", raising=False)
    monkeypatch.setattr(paths, "build", tmp_path / "build")
    monkeypatch.setattr(paths, "figures", committed.parent)
    monkeypatch.setattr(runner, "train_shared", lambda *_: 0)
    gallery.gallery()

    def execute(*_):
        shutil.copytree(fresh, f"{runner.os.environ['COP_FIGURES']}/demo", dirs_exist_ok=True)

    monkeypatch.setattr(runner, "execute", execute)
    return fresh, committed


def test_figures_ends_with_the_report_and_keeps_what_agrees(ran, tmp_path, capsys):
    fresh, committed = ran
    before = contents(committed.parent)
    runner.run("demo")
    said = capsys.readouterr().out
    assert contents(committed.parent) == before, "not a byte, nor a second, differs"
    assert (tmp_path / "build" / "demo" / "seed0" / "reproduction.txt").read_text() in said and "records agree" in said
    assert set(json.loads((tmp_path / "build" / "demo" / "timings.json").read_text())) == set(NOTEBOOKS)
    shutil.copytree(committed, tmp_path / "before")
    alter(fresh / "shares.csv", 1, "class", 1.05)
    with pytest.raises(RuntimeError, match=r"^1 of \d+ figures, tables and records do not agree: shares$"):
        runner.run("demo", check=True)
    assert contents(committed.parent) == before, "check replaces nothing"
    capsys.readouterr()
    runner.run("demo", timings=True)
    after = contents(committed.parent)
    assert {str(f) for f in after if after[f] != before[f]} - {"README.md"} == {"demo/shares.csv", "demo/timings.json"}
    was, now = (pd.read_csv(f / "shares.csv").loc[0, "class"] for f in (tmp_path / "before", committed))
    assert f"shares.csv, row 1 (collapse), column class: {was} committed, {now} here" in capsys.readouterr().out and now != was


def test_figures_elsewhere_are_compared_and_stay_there(ran, tmp_path, monkeypatch, capsys):
    fresh, committed = ran
    before = contents(committed.parent)
    monkeypatch.setenv("COP_FIGURES", str(tmp_path / "mine"))
    alter(fresh / "shares.csv", 1, "class", 1.05)
    runner.run("demo", only="03")
    assert "differs: shares\n" in capsys.readouterr().out and contents(committed.parent) == before
    assert (tmp_path / "mine" / "demo" / "shares.csv").exists()
