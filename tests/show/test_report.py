"""Figures are pure and drawn once; files are atomic; records and the gallery say where numbers come from."""

import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cop.__main__ import main
from cop.lessons import collapse_order, dependency_autoencoder, gallery, patch_entropy
from cop.profiles import demo
from cop.show import (
    diagrams,
    figures,
    figures_classification,
    figures_generation,
    figures_orders,
    figures_scorecard,
    report,
)
from cop.train.loop import seeded

G, N = 4, 16
RNG = np.random.default_rng(0)
IMAGE = RNG.random((16, 16))
ORDER = np.stack([RNG.permutation(N) for _ in range(6)])
W = RNG.random((3, N))
CURVES = {"collapse": RNG.random((2, 5)), "random": RNG.random((2, 5)), "raster": RNG.random((2, 5))}
AT = {"collapse": (0.4, 0.3, 0.5), "random": (0.5, 0.45, 0.6)}
HISTORY = pd.DataFrame({"step": range(9), "reconstruction": W[0, :9], "mask_entropy": 1 + W[1, :9], "contrastive": W[2, :9]})
RATES = np.linspace(0, 0.9, 5)

DRAWN = {
    "order_curves": lambda: figures_orders.order_curves(range(5), CURVES, "y", "t", ["collapse"], (np.zeros(5), np.ones(5))),
    "dots": lambda: figures_orders.dots(AT, "x", "t", ["random"], {"collapse": [0.3, 0.5]}, -1, True),
    "fig8_accuracy": lambda: figures_classification.fig8_accuracy(RATES, {"CViT": CURVES["collapse"], "ViT": CURVES["random"]},
                                                                  {"CViT": 0.5, "ViT": None}, 0.1, [0.0, 0.5]),
    "knee_range": lambda: figures_classification.knee_range(RATES, {"CViT": np.full((2, 5), np.nan), "ViT": np.ones((2, 5))}),
    "order_controls": lambda: figures_classification.order_controls(RATES, CURVES, AT, 0.5, "t", {"collapse": [0.3, 0.5]}, (0.25, 0.9)),
    "cost_chart": lambda: figures_classification.cost_chart(
        {"demo": {"whole image": 1, "first patches": 0.2, "ranking": 200, "end to end": 200.2}}, RATES[1:], RATES[:0:-1], RATES[:0:-1]),
    "metric_dots": lambda: figures_generation.metric_dots({"tFID": {"none": {"MAR": (2, 1, 3)}}}, {"tFID": 0.1}, {"tFID": ("tFID", -1)},
                                                          {("tFID", "none", "MAR"): [2, 3]}, "t"),
    "losses": lambda: figures_generation.losses({"random": {"MAR": (1, 0, 2)}}, {("random", "MAR"): [1, 2]}, "x", "t"),
    "score_scatter": lambda: figures.score_scatter(W[0], W[1], "x", "y", "t", G),
    "fig1_reveal": lambda: figures.fig1_reveal(IMAGE, {"random": ORDER[0], "collapse": ORDER[1]},
                                               {"random": [0.1, 0.9], "collapse": [0.2, 0.8]}, [4, 16], G, "cat"),
    "fig6_training": lambda: figures.fig6_training(HISTORY, {"ridge": 0.4}, {"reconstruction": [0.3, 0.4]}, N),
    "polarisation": lambda: figures.polarisation(W.ravel(), np.arange(9), W[0, :9], W[1, :9], {"low": [0.1, 0.2]}),
    "masks": lambda: figures.masks(IMAGE[None], [[0, 5, 9]], W[None], RNG.random((1, 3, 4, 4)), G),
    "fig4_order": lambda: figures.fig4_order(np.stack([IMAGE] * 2), ORDER, G, 5, ["a", "b"]),
    "fig5_heatmaps": lambda: figures.fig5_heatmaps({"a": ORDER, "b": ORDER, "c": ORDER}, N),
    "mean_rank_maps": lambda: figures.mean_rank_maps({"a": W[0].reshape(G, G), "b": W[1].reshape(G, G)}, N),
    "shares": lambda: figures.shares({"a": {"p": 0.5, "q": 0.2, "r": 0.3}}, "t"),
    "fig2_pipeline": lambda: diagrams.fig2_pipeline(IMAGE, [0, 5, 9], W, RNG.random((3, 4, 4)), RNG.random((N, N)),
                                                    W[0], ORDER[0], G),
    "fig3_comparison": lambda: diagrams.fig3_comparison(IMAGE, ORDER[0], ORDER[1], G, 0.22),
    "scorecard": lambda: figures_scorecard.sheet(
        [figures_scorecard.Panel("C1", "x", 0, None, 1.0, [("a", [1, 2], "holds (2 of 2)"), ("b", [], "not measured")])]
    ),
    "fig10_architecture": lambda: diagrams.fig10_architecture(demo.comae, 64, 16, (1000, 2000)),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWN)
def test_figures_return_a_closed_figure_and_leave_no_global_state(name):
    before = dict(plt.rcParams)
    fig = DRAWN[name]()
    assert isinstance(fig, Figure) and not plt.get_fignums()
    assert dict(plt.rcParams) == before
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    assert np.asarray(canvas.buffer_rgba())[..., :3].std() > 5


def test_what_a_comparison_of_orders_says_and_in_which_colours():
    values = {"random": 3.0, "greedy": 1.0, "collapse": 2.0}
    assert figures_orders.standing(values, -1) == "greedy leads, collapse is no. 2, random is no. 3 of 3"
    assert figures_orders.standing(values, 1) == "random leads, collapse is no. 2 of 3"
    ax = DRAWN["order_curves"]().axes[0]
    thick = {line.get_label(): line.get_color() for line in ax.lines if line.get_label() in CURVES}
    assert thick == {"collapse": figures.line_of("collapse")[0], "random": figures_orders.PALE, "raster": figures_orders.PALE}
    assert len(ax.lines) == 9 and [t.get_text() for t in ax.texts] == ["collapse"], "two runs and their mean, each"
    assert "2 runs" in ax.get_xlabel() and "grey: random, raster" in ax.get_xlabel()
    wide = figures_orders.dots({"a": (68.8, 67.8, 69.7), "b": (83.7, 83, 84.4)}, "x", "t", percent=True).axes[0]
    assert all(float(x).is_integer() for x in wide.get_xticks()), "72.5 would be printed as 72"


def test_shares_that_orders_have_in_common_and_colours_of_places():
    a, b = np.array([[0, 1, 2, 3], [0, 1, 2, 3]]), np.array([[1, 0, 2, 3], [2, 3, 0, 1]])
    assert figures.in_common(a, b, 2) == 0.5 and figures.of_pairs(np.concatenate([a[:1], b]), 2) == pytest.approx(1 / 3)
    assert len(np.unique(figures.place_colours(8).reshape(-1, 3).round(3), axis=0)) == 64


def test_reveal_shows_exactly_the_seen_patches():
    seen = np.zeros(N, bool)
    seen[[0, 5]] = True
    out = figures.reveal(IMAGE, np.flatnonzero(seen), G)
    for channel in range(3):
        np.testing.assert_array_equal(out[:4, :4, channel], IMAGE[:4, :4])
        np.testing.assert_array_equal(out[4:8, 4:8, channel], IMAGE[4:8, 4:8])
    assert (out[8:] == figures.UNSEEN).all() and (out[:4, 4:] == figures.UNSEEN).all()
    np.testing.assert_array_equal(figures.reveal(np.stack([IMAGE] * 3, -1), np.flatnonzero(seen), G), out)


@pytest.fixture
def out(tmp_path, monkeypatch):
    monkeypatch.setenv("COP_FIGURES", str(tmp_path))
    monkeypatch.setitem(report.SHOWN, "fig_a", report.Shown("09_test", "Figure A", "0.9, printed", [("share", "a", 100, 1), ("never recorded", "b", 1, 1)]))
    monkeypatch.setitem(report.SHOWN, "tab_b", report.Shown("09_test", "Table B"))
    return report.Report("09_test", "demo", 0)


def test_a_report_writes_every_file_and_the_gallery_lists_it(out, tmp_path):
    out.figure(DRAWN["dots"](), "fig_a", "two dots with bars", pd.DataFrame({"x": [1.0]}))
    table = pd.DataFrame({"method": ["a"], "value": [0.12345], "paper": [float("nan")]})
    assert out.table(table, "tab_b", "one row") is table
    names = {f.name for f in (tmp_path / "demo").iterdir()}
    assert names == {"fig_a.png", "fig_a.svg", "fig_a.csv", "fig_a.json", "tab_b.csv", "tab_b.md", "tab_b.json"}
    page = gallery.gallery(tmp_path)
    assert "![two dots with bars](demo/fig_a.png)" in page and "| a | 0.123 | – |" in page
    (tmp_path / "demo" / "NOTE.md").write_text("> Made before lunch.\n")
    assert "## Profile `demo`\n\n> Made before lunch.\n\n###" in gallery.gallery(tmp_path)
    with pytest.raises(ValueError, match="'fig_z' is no figure or table of 09_test; expected one of fig_a, tab_b"):
        out.figure(DRAWN["dots"](), "fig_z", "nothing")


def test_the_gallery_has_the_papers_value_ours_seconds_seed_and_configuration(out, tmp_path, monkeypatch):
    for seed, a in ((0, 0.5), (1, 0.6), (2, 0.7)):
        report.Report("09_test", "demo", seed).record(a=a)
    for profile in ("demo", "natural", "smoke", "paper-dry-run"):
        here = report.Report("09_test", profile, 0)
        here.figure(DRAWN["dots"](), "fig_a", f"two dots of {profile}")
        here.table(pd.DataFrame({"x": [1]}), "tab_b", "one row")
    (tmp_path / "demo" / "timings.json").write_text('{"09_test": {"released": 31, "retrain": 245}}')
    page = gallery.gallery(tmp_path)
    top, demo, natural = re.split("^## Profile .*", page, flags=re.M)
    assert "- [Figure A](#figure-a): share 60.0 ± 24.8\n- [Table B](#table-b): one row" in top
    assert "- [Figure A](#figure-a-1): two dots of natural" in top, "the second heading of that name"
    figure, table = demo.split("### Table B")
    assert "- **Paper**: 0.9, printed" in figure and "**Paper**" not in table
    assert "- **Here**: share 60.0 ± 24.8 (mean over seeds 0, 1 and 2 ± 95 %)\n" in figure
    assert "31 s with released artefacts · 245 s trained anew · seed 0 · configuration `" in figure
    assert "(../notebooks/09_test.ipynb)" in figure and "(natural/fig_a.svg)" in natural and "**Here**" not in natural
    for hidden in ("smoke", "paper-dry-run"):  # never on the page that is committed; a page of their own
        assert hidden not in page
        assert f"![two dots of {hidden}](fig_a.png)" in (tmp_path / hidden / "README.md").read_text()


def test_a_wide_table_of_the_gallery_stands_in_parts():
    wide = "| system |  | a | b | c | d | e | f |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n| |x| | n | 1 | 2 | 3 | 4 | 5 | 6 |"
    first, second = gallery.narrow(wide).split("\n\n")
    assert first.splitlines()[0] == "| system |  | a | b | c |" and second.splitlines()[2] == "| |x| | n | 4 | 5 | 6 |"
    assert gallery.narrow(first) == first
    page = (report.paths.figures / "README.md").read_text()
    assert max(line.count(" | ") + 1 for line in page.splitlines() if line.startswith("| ---")) <= 7


def test_profiles_stand_beside_each_other_each_with_its_seeds(out, tmp_path, monkeypatch):
    monkeypatch.setattr(report.paths, "figures", tmp_path)
    for seed, a in ((0, 0.5), (1, 0.6), (2, 0.7)):
        report.Report("09_test", "demo", seed).record(a=a, b=0.1)
    report.Report("09_test", "natural", 0).record(a=0.25)
    names = {"share": "a", "difference": ("a", "b"), "never recorded": "c"}
    table = out.beside({"clothes": "demo", "photographs": "natural", "nothing yet": "paper"}, names, 100, 1)
    assert list(table) == ["", "clothes, mean over seeds 0, 1 and 2 ± 95 %", "photographs, seed 0", "nothing yet, seed –"]
    assert table.to_numpy().tolist() == [["share", "60.0 ± 24.8", "25.0", "–"], ["difference", "+50.0 ± 24.8", "–", "–"],
                                         ["never recorded", "–", "–", "–"]]  # fmt: skip


def test_every_figure_and_table_of_the_paper_has_a_word_on_what_the_paper_shows():
    assert all(of.paper for name, of in report.SHOWN.items() if re.fullmatch(r"(fig|tab)\d+", name))
    for of in report.SHOWN.values():
        assert {number for _, number, _, _ in of.here} <= set(report.Seeds("demo", of.notebook).values.index)


def test_a_figure_has_its_title_and_alt_text_beside_its_function(out, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "SHOWN", {})

    @report.shown("09_test", "Figure C", paper="nothing")
    def fig_c(out, count):
        """Bars of {count}
        things.

        Not for readers."""
        return DRAWN["shares"](), pd.DataFrame({"x": [count]}), {"count": count}

    @report.shown("09_test", "Table D")
    def tab_d(out):
        """One row."""
        return pd.DataFrame({"y": [2.0]})

    assert fig_c(out, 3) is None and tab_d(out)["y"].tolist() == [2.0]
    card = json.loads((tmp_path / "demo" / "fig_c.json").read_text())
    assert (card["title"], card["alt"]) == ("Figure C", "Bars of 3 things.") and report.SHOWN["fig_c"].paper == "nothing"
    assert {f.name for f in (tmp_path / "demo").iterdir()} >= {"fig_c.csv", "fig_c.svg", "tab_d.md", "tab_d.json"}


def test_png_and_svg_are_reproducible(out, tmp_path):
    folder, contents = tmp_path / "demo", []
    for _ in range(2):
        out.figure(DRAWN["shares"](), "fig_a", "bars")
        contents.append((folder / "fig_a.png").read_bytes() + (folder / "fig_a.svg").read_bytes())
    assert contents[0] == contents[1]


def test_saving_does_not_move_panels_placed_by_hand(out):
    for name in ("fig2_pipeline", "fig3_comparison"):
        fig = DRAWN[name]()
        before = [ax.get_position().bounds for ax in fig.axes], fig.get_layout_engine()
        out.figure(fig, "fig_a", "a figure with panels placed by hand")
        assert before == ([ax.get_position().bounds for ax in fig.axes], fig.get_layout_engine())


def test_records_replace_their_own_numbers_only(out, tmp_path):
    out.record(a=1, b=2)
    report.Report("08_other", "demo", 0).record(a=5)
    out.record(a=3)
    rows = pd.read_csv(tmp_path / "demo" / "records" / "seed0.csv")
    got = {(r.notebook, r.name_): r.value for r in rows.rename(columns={"name": "name_"}).itertuples()}
    assert got == {("09_test", "a"): 3, ("09_test", "b"): 2, ("08_other", "a"): 5}


def test_seeds_give_means_with_students_interval_and_paired_differences(out, tmp_path, monkeypatch):
    monkeypatch.setattr(report.paths, "figures", tmp_path)
    for seed, a, b in ((0, 0.5, 0.4), (1, 0.6, 0.4), (2, 0.7, 0.6)):
        report.Report("09_test", "demo", seed).record(a=a, b=b)
    seeds = report.Seeds("demo", "09_test")
    mean, half, n = seeds.interval("a")
    assert (mean, n) == (pytest.approx(0.6), 3) and half == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)
    assert seeds.cell("a", 100, 1) == "60.0 ± 24.8" and seeds.cell("absent") == "–"
    table = seeds.table({"a": "a", "a less b": ("a", "b")}, 100, 1)
    assert table["seed 2"].tolist() == ["70.0", "+10.0"] and table["mean ± 95 %"][1].startswith("+13.3 ±")
    report.Report("07_other", "demo", 0).record(a=0.5)
    assert list(report.Seeds("demo", "07_other").table({"a": "a"})) == ["", "seed 0"], "one seed has no mean"
    assert report.Seeds("demo", "08_other").cell("a") == "–", "another notebook's records are not ours"


def test_orders_of_several_seeds_are_kept_and_compared(out, tmp_path, monkeypatch):
    monkeypatch.setattr(report.paths, "figures", tmp_path / "committed")
    assert out.kept("orders") == {}
    monkeypatch.setenv("COP_FIGURES", str(tmp_path / "committed"))
    same, other = pd.DataFrame([[0, 1, 2, 3], [1, 0, 3, 2]]), pd.DataFrame([[3, 2, 1, 0], [2, 3, 0, 1]])
    for seed, table in ((0, same), (1, same), (12, other)):
        report.Report("09_test", "demo", seed).keep("orders", table)
    monkeypatch.setenv("COP_FIGURES", str(tmp_path / "own"))
    out.keep("orders", same)  # this run's goes before the committed one
    found = out.kept("orders")
    assert list(found) == ["0", "1", "12"] and found["12"].to_numpy().tolist() == other.to_numpy().tolist()
    elsewhere = tmp_path / "committed" / "demo" / "records" / "one_thread"
    elsewhere.mkdir()
    (elsewhere / "orders_seed0.csv").write_text(other.to_csv(index=False))
    again = out.kept("orders")
    assert list(again) == ["0", "1", "12", "0, one thread"], "what differs in more than the seed comes last, and says so"
    assert again["0, one thread"].to_numpy().tolist() == other.to_numpy().tolist()
    table = collapse_order.across_seeds({s: torch.from_numpy(t.to_numpy()) for s, t in found.items()})
    assert table["seeds"].tolist() == ["0 and 1", "0 and 12", "1 and 12"]
    assert table["Spearman, same image"][0].startswith("+1.00") and table["Spearman, same image"][1].startswith("-1.00")
    assert table["Spearman, mean orders"][0] == "+1.00"


def test_this_runs_record_goes_before_the_committed_one(out, tmp_path, monkeypatch):
    """Else, under `make test`, the columns over all seeds compare a committed file with itself."""
    monkeypatch.setattr(report.paths, "figures", tmp_path / "committed")
    for folder, numbers in (("own", {1: 7.0}), ("committed", {0: 1.0, 1: 2.0})):
        monkeypatch.setenv("COP_FIGURES", str(tmp_path / folder))
        for seed, a in numbers.items():
            report.Report("09_test", "demo", seed).record(a=a, old=a)
    monkeypatch.setenv("COP_FIGURES", str(tmp_path / "own"))
    out.record(a=5)
    assert out.seeds().of("a").to_dict() == {0: 5.0, 1: 2.0}, "the other seeds' numbers are the committed ones"
    assert out.seeds().of("old").to_dict() == {0: 1.0, 1: 2.0}, "what was not recorded yet is the committed number"
    assert out.beside({"x": "demo"}, {"a": "a"}, 1, 1).iloc[0, 1].startswith("3.5 ±")


def test_records_of_other_parameters_and_strays_are_left_aside_with_a_note(out, tmp_path, monkeypatch, capsys):
    report.note.cache_clear()
    monkeypatch.setattr(report.paths, "figures", tmp_path)
    monkeypatch.setattr(report, "parameters", lambda notebook: {"profile": "demo", "seed": 0, "images": 64})
    for seed in (0, 1, 2):
        report.Report("09_test", "demo", seed, images=64).record(a=seed)
    few = report.Report("09_test", "demo", 3, images=20)
    few.record(a=9)
    few.keep("orders", pd.DataFrame(np.zeros((20, 4))))
    assert few.folder == tmp_path / "demo-images-20" and few.seeds().of("a").to_dict() == {3: 9.0}
    records = tmp_path / "demo" / "records"
    for file in (few.folder / "records").iterdir():  # as if put there by hand
        file.rename(records / file.name)
    for name in ("seed1.5.csv", "seed0 (1).csv", "orders_seed0 (1).csv"):
        (records / name).write_text("notebook,name,value\n09_test,a,100\n")
    (records / "seed4.csv").write_text("")
    (records / "seed5.csv").write_text("shopping,list\n1,2\n")
    pd.DataFrame(np.zeros((20, 4))).to_csv(records / "orders_seed1.csv", index=False)  # from before records had a key
    pd.read_csv(records / "seed2.csv").drop(columns="config").to_csv(records / "seed2.csv", index=False)
    out.keep("orders", pd.DataFrame(np.zeros((64, 4))))
    capsys.readouterr()
    assert out.seeds().of("a").to_dict() == {0: 0.0, 1: 1.0, 2: 2.0}
    assert list(out.kept("orders")) == ["0"]
    said = capsys.readouterr().err.splitlines()
    for name in ("seed1.5", "seed0 (1)", "orders_seed0 (1)", "seed3", "seed4", "seed5", "orders_seed1", "orders_seed3"):
        (line,) = [line for line in said if f"/{name}.csv" in line]
        assert line.startswith("cop: ") and "left aside" in line
    assert len(said) == 8
    gallery.gallery(tmp_path)


@pytest.mark.parametrize("notebook, given, message", [
    ("03_collapse_order", {"seed": 1.5}, "seed is 1.5; expected a whole number of 0 or more"),
    ("03_collapse_order", {"seed": -1}, "seed is -1; expected a whole number of 0 or more"),
    ("03_collapse_order", {"images": 0}, "images is 0; expected a whole number of 1 or more"),
    ("03_collapse_order", {"images": -3}, "images is -3; expected a whole number of 1 or more"),
    ("03_collapse_order", {"images": 2.5}, "images is 2.5; expected a whole number of 1 or more"),
    ("03_collapse_order", {"images": True}, "images is True; expected a whole number of 1 or more"),
    ("03_collapse_order", {"top": "all"}, "top is 'all'; expected a whole number of 1 or more"),
    ("01_patch_entropy", {"prefixes": 1}, "prefixes is 1; expected a whole number of 2 or more"),
    ("01_patch_entropy", {"device": "gpu"}, "device is 'gpu'; expected auto, cpu or cuda"),
    ("01_patch_entropy", {"profile": "huge"}, "unknown profile 'huge'; expected one of smoke, demo, natural, evening, paper, or a TOML file"),
    ("01_patch_entropy", {"profile": 3}, "profile is 3; expected a name"),
    ("05_first_patches", {"rate": 1.0}, "rate is 1.0; expected a number from 0 to 1, and less than 1"),
    ("05_first_patches", {"brief": "no"}, "brief is 'no'; expected true or false"),
    ("04_generation_along_the_order", {"example": 60}, "example is 60; expected one of the 60 images shown, counted from 0"),
    ("04_generation_along_the_order", {"exmaple": 6}, "unknown parameter 'exmaple' for 04_generation_along_the_order; expected one of "
                                                      "profile, seed, shown, example, brief, device"),
])  # fmt: skip
def test_wrong_parameters_get_the_same_line_from_the_notebook_and_from_the_command(notebook, given, message, tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        report.Report(notebook, **{"profile": "smoke", "seed": 0} | given)
    monkeypatch.setattr(report.paths, "build", tmp_path)
    if not set(given) & {"profile", "seed"}:
        assert main(["figures", "--only", notebook, *(str(x) for kv in given.items() for x in ("-p", *kv))]) == 2
        assert capsys.readouterr().err == f"cop: {message}\n"


def test_a_gpu_that_is_not_there_is_said_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device is 'cuda', but torch finds no GPU on this machine; expected auto or cpu"):
        report.Report("03_collapse_order", "demo", 0, device="cuda")


def test_a_key_of_digits_alone_stays_a_key(out, monkeypatch):
    monkeypatch.setattr(report, "key", lambda _: "0123456789e1")
    out.record(a=1)
    out.record(b=2)
    assert out.seeds().of("a").to_dict() == {0: 1.0} and out.seeds().of("b").to_dict() == {0: 2.0}


def test_only_the_profiles_own_parameters_write_under_its_name(tmp_path, monkeypatch):
    monkeypatch.delenv("COP_FIGURES", raising=False)
    monkeypatch.setattr(report.paths, "build", tmp_path)

    def name(notebook, profile="demo", seed=0, **given):
        run = report.Report(notebook, profile, seed, **given)
        assert run.folder.parent == tmp_path / "figures"
        return run.folder.name

    assert name("03_collapse_order", images=1000, top=16, device="cpu") == "demo"
    assert name("03_collapse_order", images=20, top=16) == "demo-images-20"
    assert name("05_first_patches", "natural", rate=0.5, brief=True) == "natural-rate-0.5-brief-True"
    assert name("05_first_patches", seed=1, brief=True) == name("05_first_patches", seed=1, brief=False) == "demo"
    assert name("03_collapse_order", "smoke-dry-run", images=2) == "smoke-dry-run"


def test_other_seeds_leave_a_record_and_no_figure(out, tmp_path):
    second = report.Report("09_test", "demo", 1)
    second.figure(DRAWN["dots"](), "fig_a", "two dots with bars")
    second.record(a=1)
    assert [f.name for f in (tmp_path / "demo").rglob("*.*")] == ["seed1.csv"]


def test_write_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / "x.txt"
    report.write(path, b"old")
    monkeypatch.setattr(report.os, "replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        report.write(path, b"new")
    assert path.read_bytes() == b"old" and [f.name for f in tmp_path.iterdir()] == ["x.txt"]


def test_paper_numbers_reach_table_1(out):
    rows = {k: {"mask_entropy": 4.0, "mask_entropy_raw": 9.0, "reconstruction": 5.0, "contrastive": 0.5} for k in ("without", "with", "trained")}
    table = dependency_autoencoder.tab1.__wrapped__(out, rows, {"mean token": 12.0})
    assert table["paper: L_r"].tolist()[:2] == [8.392, 1.567] and table["paper: mask entropy"].tolist()[:2] == [4.816, 4.267]


def test_of_first_by_hand():
    values, ranking = torch.tensor([[0.0, 0.0, 3.0, 0.0]]), torch.tensor([[2, 0, 1, 3]])
    assert collapse_order.of_first(values, ranking, 0.25).item() == pytest.approx(4)
    assert collapse_order.of_first(values, ranking.flip(1), 0.25).item() == 0
    assert collapse_order.of_first(values, ranking, 1.0).item() == pytest.approx(1)


def test_orders_are_compared_with_random_as_one_family():
    """Ten orders without any effect, one of which looks faster by chance (p about .02); and one that is far faster."""
    g = seeded(1)
    area = {"random": torch.rand(100, generator=g).double()}
    noise = torch.randn(100, generator=g).double()
    noise = (noise - noise.mean()) / noise.std()
    area |= {f"o{i}": area["random"] + 0.1 * torch.randn(100, generator=seeded(3, i)).double() for i in range(8)}
    area["lucky"], area["fast"] = area["random"] + 0.1 * (noise - 0.235), area["random"] - 0.5 + 0.1 * noise
    interval, table = patch_entropy.entropy_table(area)
    verdict = dict(zip(table["order"], table["than random"], strict=True))
    assert verdict["fast"] == "faster" and verdict["lucky"] == "no difference found" and verdict["random"] == "–"
    alone = patch_entropy.entropy_table({n: area[n] for n in ("random", "lucky")})[1]
    assert alone["than random"].tolist().count("faster") == 1
    assert interval["fast"].low < interval["fast"].value == pytest.approx(area["fast"].mean().item())


def test_masks_that_stay_in_between_polarise_partly(out):
    history = pd.DataFrame({"step": np.arange(0, 200, 10), "share_low": np.linspace(0, 0.3, 20), "share_high": 0.0,
                            "mask_entropy": np.r_[np.linspace(4, 3.5, 10), np.linspace(3.5, 3.8, 10)]})  # fmt: skip
    rows = {k: {"mask_entropy": 3.8, "reconstruction": 5.0, "share_low": 0.3, "share_high": 0.1} for k in ("without", "with", "trained")}
    table = dependency_autoencoder.verdicts(out, history, rows, {"ridge regression": 2.0}, 64)
    this = dict(zip(table["claim"], table["this run"], strict=True))
    assert this["masks polarise as L_r falls (C1)"] == "partly: 0% → 40% of the weights below .1 or above .9, 60% between"
    assert "of at most 4.14" in this["mask entropy falls with L_r (C1)"] and "lowest at step 1" in this["mask entropy falls with L_r (C1)"]
    assert this["reconstructs better than: ridge regression"] == "2.00 → 5.00"


def test_a_message_through_the_mask_would_be_found(out):
    g = seeded(2)
    own = 5 + torch.rand(50, generator=g)
    names = ("its own mask", "another image's mask", "its own mask over the mean image", "the mean mask over the mean image")
    swaps = dict(zip(names, (own, own + 0.001 * torch.randn(50, generator=g), own + 1, own + 2 + 0.1 * torch.rand(50, generator=g)), strict=True))
    table = dependency_autoencoder.swap_table(out, swaps).set_index("what the decoder gets")
    assert table.loc[names[2], "less that of"] == names[3] and table.loc[names[2], "difference"].startswith("-1.0")
    assert float(table.loc[names[2], "p (Holm)"]) < 0.001 < 0.05 < float(table.loc[names[1], "p (Holm)"])


def test_seeds_are_counted_with_their_direction(out, tmp_path, monkeypatch):
    monkeypatch.setattr(report.paths, "figures", tmp_path)
    for seed, value in enumerate((1.0, 3.0, -1.0)):
        report.Report("01_patch_entropy", "demo", seed).record(a=value, b=0.0)
    seeds = report.Seeds("demo", "01_patch_entropy", tmp_path)
    assert seeds.verdict(("a", "b"), -1).endswith("better with 1 of 3 seeds")
    assert seeds.verdict("a").startswith("1.00 ± ") and seeds.verdict("missing") == "–"
