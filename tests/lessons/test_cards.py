"""The model cards are current, and know every stage that trains."""

import json
import shutil

import pandas as pd

from cop import paths
from cop.lessons import cards


def test_the_cards_are_current():
    page = (paths.released / "MODEL_CARDS.md").read_text()
    assert page == cards.text(), "the model cards are not current; run python -m cop cards"


def test_every_released_model_has_a_row():
    page = (paths.released / "MODEL_CARDS.md").read_text()
    trained = [f.parent.name for f in paths.released.glob("*/history.csv") if "step" in pd.read_csv(f, nrows=0)]
    models = [name for name in trained if not name.startswith("mar-histories")]  # whose models are not released
    assert models and not [name for name in models if f"| `{name}` |" not in page]


def test_a_row_says_what_was_trained_and_what_it_cost(tmp_path, monkeypatch):
    for name in ("comae-1315412be2e8", "comae-fb1e8c9d6126"):
        if not (paths.released / name).exists():
            name = next(paths.released.glob("comae-*")).name
        shutil.copytree(paths.released / name, tmp_path / name)
    monkeypatch.setattr(paths, "released", tmp_path)
    (first, provenance), *_ = cards.provenances().items()
    provenance |= {"seconds": 90, "note": "with an old temperature"}
    (tmp_path / first / "provenance.json").write_text(json.dumps(provenance))
    page = cards.text()
    (line,) = (line for line in page.splitlines() if line.startswith(f"| `{first}`"))
    settings = provenance["config"]["comae"]
    assert f"{settings['steps']:,} × {settings['batch_size']} | 1.5 | 1 | 0 |" in line and "contrastive_weight" in line
    assert f"`{first}`: with an old temperature." in page and "## mar" not in page
