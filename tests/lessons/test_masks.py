"""The comparison of CoMAE's objectives: agreements and their parts, and one row of the table from end to end."""

from dataclasses import replace

import pytest
import torch

from cop.lessons import masks, pipeline
from cop.profiles import natural, smoke
from cop.show.figures_masks import apart
from cop.train.loop import seeded


def test_what_is_common_to_all_images_is_taken_out_of_an_agreement():
    common, own = 5 * torch.randn(1, 40, generator=seeded(0)), torch.randn(3, 60, 40, generator=seeded(1))
    same_image = masks.alike(common + own[0], common + own[0] + 0.1 * own[1])
    assert same_image["raw"].min() > 0.98 and same_image["own"].mean() > 0.98
    same_place = masks.alike(common + own[0], common + own[2])
    assert same_place["raw"].mean() > 0.9 and abs(same_place["own"].mean()) < 0.1


def test_the_diagonal_is_left_out_and_nothing_else():
    A = torch.arange(2 * 9.0).view(2, 3, 3)
    assert masks.off_diagonal(A).tolist() == [[1, 2, 3, 5, 6, 7], [10, 11, 12, 14, 15, 16]]


def test_a_row_of_the_table(monkeypatch, tmp_path):
    monkeypatch.setenv("COP_CACHE", str(tmp_path))
    profile = replace(smoke, comae=replace(smoke.comae, steps=2))
    row = masks.compared(profile, "budget and any-mask", seeds=(0, 1))
    assert row["losses"].shape == (2, 4) and row["graphs_own"].shape == row["orders_raw"].shape
    assert row["weights"][:, 0].allclose(torch.tensor(0.15), atol=1e-3)  # the budget is spent
    table = masks.table({"budget": row})
    assert table.loc["budget", "mean weight (polarised)"].startswith("0.15 (") and table.shape == (1, 8)
    assert table.loc["budget", "L_r"] == f"{row['losses'][:, 0].mean():.2f}"
    assert masks.compared(profile, masks.WHITENED, train=False) is None  # nothing is trained unasked
    with pytest.raises(ValueError, match="unknown change 'nothing'.*as printed"):
        masks.compared(profile, "nothing")


def test_the_table_shows_every_change_and_a_whitened_row_differs_in_its_tokens_alone():
    assert masks.rows("demo") == tuple(masks.CHANGES) and set(masks.MAIN) < set(masks.CHANGES)
    whitened, one_scale = (masks.changed(natural, change) for change in (masks.WHITENED, "as printed"))
    assert whitened != one_scale == replace(whitened, tokens=natural.tokens)
    assert whitened.tokens.kind == "pca"


def test_a_longer_schedule_is_a_training_of_its_own_and_left_out_where_it_is_not_stored(monkeypatch, tmp_path):
    monkeypatch.setenv("COP_CACHE", str(tmp_path))
    profile = replace(smoke, comae=replace(smoke.comae, steps=2))
    assert set(masks.doubling(profile, train=False).values()) == {None}
    last = pipeline.comae(masks.converged(profile, 4))[1].tensors["watched.loss"][-1]
    assert masks.doubling(profile, train=False) == {1: None, 2: None, 4: float(last)}
    found = masks.doubling(profile)
    assert len(set(found.values())) == 3 and found[4] == float(last)


def test_names_are_moved_apart_and_no_further():
    placed = apart([0.0, 0.01, 0.5], 0.1)
    assert placed[1] - placed[0] == pytest.approx(0.1) and placed[2] - placed[1] == pytest.approx(0.4)
    assert sum(placed) == pytest.approx(0.51) and apart([], 0.1) == []


def test_a_training_is_watched_on_its_way(monkeypatch, tmp_path):
    monkeypatch.setenv("COP_CACHE", str(tmp_path))
    monkeypatch.setattr(masks, "WATCHED", (1,))
    profile = replace(smoke, comae=replace(smoke.comae, steps=2))
    path = masks.on_the_way(profile, seeds=(0, 1))
    assert sorted(path.step.unique()) == [1, 2]
    assert path.quantity.value_counts().to_dict() == {"L_r": 4} | dict.fromkeys(masks.QUANTITIES[1:], 2)
