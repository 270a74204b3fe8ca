"""The leaderboard: what stands on it is what the classifier does, and who cannot stand on it is named."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import cop
from cop.__main__ import main
from cop.lessons import classification, leaderboard, pipeline
from cop.orders import registry

pytestmark = pytest.mark.usefixtures("own_cache")
ORDER = """
from cop.orders import collapse_order, order


@order("mine", stored=True)
def mine(batch):
    return collapse_order({sign}batch.patches.mean(-1))
"""
LATE = """
from cop.orders import order


@order("late")
def late(batch):
    return batch.nothing
"""


@pytest.fixture
def folder(tmp_path):
    """Two students' orders of one name, and five files that cannot stand on the board."""
    (tmp_path / "anna").mkdir()
    files = {"anna/a": ORDER.format(sign=""), "b": ORDER.format(sign="-"), "syntax": "def f(:", "exits": "raise SystemExit(3)",
             "taken": ORDER.format(sign="").replace("mine", "raster"), "none": "x = 1", "late": LATE}  # fmt: skip
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def test_a_folder_of_orders_becomes_a_figure_and_a_table_and_broken_files_a_line_each(folder, capsys):
    known = dict(registry.registered())
    assert main(["leaderboard", str(folder), "--profile", "smoke", "--out", str(folder / "board")]) == 1
    said = capsys.readouterr()
    assert said.out.split() == [str(folder / "board" / f"leaderboard.{kind}") for kind in ("png", "csv")]
    lines = [line for line in said.err.splitlines() if line.startswith("cop: ")]
    for file, reason in {
        "exits.py": "fails with SystemExit: 3",
        "none.py": 'registers no order; expected a function under @order("its name")',
        "syntax.py": "fails with SyntaxError: invalid syntax (syntax.py, line 1)",
        "taken.py": "fails with ValueError: an order named 'raster' is registered already; choose another name",
    }.items():
        assert f"cop: {folder / file} {reason}" in lines
    assert lines[-1] == "cop: order 'late' is left out: AttributeError: 'Batch' object has no attribute 'nothing'" and len(lines) == 5
    table = pd.read_csv(folder / "board" / "leaderboard.csv")
    assert set(table["order"]) == {*leaderboard.BESIDE, "mine (anna/a)", "mine (b)"}
    assert Image.open(folder / "board" / "leaderboard.png").size[0] > 500
    assert registry.registered() == known, "files of a folder leave nothing in the registry"


def test_a_leaderboard_without_an_order_writes_nothing(tmp_path, capsys):
    for place, said in ((tmp_path / "nowhere", "is no folder; expected one"), (tmp_path, "holds no Python file")):
        assert main(["leaderboard", str(place), "--profile", "smoke"]) == 2
        assert said in capsys.readouterr().err
    (tmp_path / "late.py").write_text(LATE)
    assert main(["leaderboard", str(tmp_path), "--profile", "smoke"]) == 2
    assert [f.name for f in tmp_path.iterdir()] == ["late.py"] and "order 'late' is left out" in capsys.readouterr().err


def test_numbers_on_the_board_are_those_of_the_classifier():
    def mine(batch):
        return cop.collapse_order(batch.patches.mean(-1))

    found, left_out = leaderboard.tested("smoke", [mine, lambda batch: 3], device="cpu")
    assert list(found) == [*leaderboard.BESIDE, "mine"] and list(left_out) == ["<lambda>"]
    for name, order in {"active": "active", "mine": mine, "random": "random"}.items():
        assert (found[name][0] == classification.hits("smoke", "RViT", order, device="cpu").at(0.78)).all()
    made = {"random": np.array([[0, 0, 0, 1, 1]]), "variance": np.ones((1, 5)), "collapse": np.zeros((1, 5)), "active": np.ones((1, 5)),
            "mine": np.array([[0, 0, 1, 1, 1]])}  # fmt: skip
    table = leaderboard.standings(made, "smoke")
    assert table["order"].tolist() == ["variance", "active", "mine", "random", "collapse"]
    row = table.set_index("order").loc["mine"]
    assert row["top-1 in %"].startswith("60.0 [") and row["against random"].startswith("+20.0 [") and row["against active"].startswith("-40.0 [")
    assert leaderboard.board(made).axes[0].get_title() == "mine: -40.0 points against variance"
    assert leaderboard.judge("natural").name == "demo", "five folds have five classifiers, none of which is released"


def test_a_cell_may_register_its_order_again_but_not_that_of_a_file(monkeypatch):
    monkeypatch.setattr(registry, "_orders", dict(registry._orders))
    cell = "import cop\n@cop.orders.order({name!r})\ndef mine(batch):\n    return cop.collapse_order({sign}batch.patches.mean(-1))"
    images = pipeline.load_data("smoke", "test").batch(slice(None))[0]
    found = []
    for sign in ("", "-"):
        exec(compile(cell.format(name="mine", sign=sign), "<cell>", "exec"), {})
        found.append(cop.rank(images, "smoke", order="mine", device="cpu"))
    assert not torch.equal(*found)
    with pytest.raises(ValueError, match="an order named 'variance' is registered already"):
        exec(compile(cell.format(name="variance", sign=""), "<cell>", "exec"), {})
