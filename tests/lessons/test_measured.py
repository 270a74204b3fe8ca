"""The stages of the measured graph on the smoke profile, its comparisons, and the Gaussian fields where the truth is known."""

import pytest
import torch

from cop.configs import as_dict
from cop.lessons import comparisons, exactness, measured, pipeline
from cop.orders import check_ranking, random_order
from cop.paper.measured import gaussian_graph, measured_graph
from cop.paper.onepass import OnePass
from cop.profiles import demo, get_profile, replace

pytestmark = pytest.mark.usefixtures("own_cache")


def test_exact_graphs_are_those_of_the_predictor_and_the_images_named():
    model, artefact = measured.measured("smoke", device="cpu")
    images, graphs = artefact.tensors["images"], artefact.tensors["graphs"]
    tokens = pipeline.token_source("smoke", "train")(images)
    torch.testing.assert_close(graphs, measured_graph(model, tokens), rtol=1e-3, atol=1e-4)
    assert len(images) == get_profile("smoke").measured.images and graphs.max() > 0


@pytest.mark.parametrize("kind, learn", [("places", "distil"), ("offsets", "distil"), ("offsets_placed", "likelihood")])
def test_a_ranker_is_found_again_and_compared_with_the_exact_passes(kind, learn):
    profile = get_profile("smoke")
    profile = replace(profile, onepass=replace(profile.onepass, learn=learn))
    model, artefact = measured.onepass(profile, kind=kind, device="cpu")
    again = measured.onepass(profile, kind=kind, device="cpu")[0]
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert len(artefact.history) and artefact.history["loss"].notna().all()
    row = measured.compare_onepass(profile, kind=kind, count=12, device="cpu")
    assert row["ratio"] > 5 and -1 <= row["orders_own"] <= 1
    if kind == "offsets":  # grids that it was not trained on
        wide = measured.compare_onepass(profile, kind=kind, count=12, device="cpu", shape=(3, 7))
        again = measured.compare_onepass(profile, kind=kind, count=12, device="cpu", shape=(8, 8))
        other = measured.compare_onepass(profile, kind=kind, count=12, device="cpu", image_size=28)
        assert again["orders"] == row["orders"] and len({r["orders"] for r in (row, wide, other)}) == 3
    grid, dim = profile.grid * 2, profile.tokens.dim
    with pytest.raises(ValueError, match="grid 8.*grid 16"):
        OnePass(grid, dim, model.cfg).load_state_dict(model.state_dict())


def test_the_graph_network_learns_the_graphs_of_comae():
    model, artefact = measured.graphnet("smoke", device="cpu")
    assert {"edges", "order"} < set(artefact.history)
    row = measured.compare_graphnet("smoke", count=12, device="cpu")
    assert row["ratio"] > 5 and row["graphs"] > 0
    assert not model.training and next(model.parameters()).requires_grad


def test_variants_are_orders_of_every_image():
    profile = get_profile("smoke")
    model, tokens = pipeline.predictor(profile, device="cpu")[0], pipeline.sample_tokens(profile, "test", 2, "cpu")
    found = measured.variant_orders(model, tokens, profile, hidden=True)
    for order in found.values():
        check_ranking(order, 64)
    assert torch.equal(found["reversed"].flip(-1), found["predicted scale"])
    table = comparisons.variants(profile, count=2, device="cpu").set_index("reading")
    assert set(table.index) == set(found) and (table[["contrast", "spread"]] >= 0).all(axis=None)
    assert table.loc["reversed", "variance"] == pytest.approx(-table.loc["predicted scale", "variance"], abs=1e-5)
    different = {tuple(order[0].tolist()) for order in found.values()}
    # equal uncertainty everywhere, as of an untrained predictor, weighs nothing
    assert len(different) >= len(found) - 1


def test_first_patches_that_lie_together_are_told_from_scattered_ones():
    together = torch.arange(64)[None]  # the first 22 %: two rows
    scattered = random_order(200, 64, torch.Generator().manual_seed(0))
    assert comparisons.spread(together, 0.22).item() < 0.85
    assert comparisons.spread(scattered, 0.22).mean().item() == pytest.approx(1, abs=0.02)
    assert comparisons.spread(scattered, 1.0).allclose(torch.ones(200).double())


def test_agreement_counts_what_position_explains_only_where_it_says_so():
    g = torch.Generator().manual_seed(0)
    mean, own = torch.rand(1, 9, 9, generator=g), torch.rand(3, 200, 9, 9, generator=g)
    same = measured.agreement_of_graphs(own[0], own[0])
    assert all(v.value == pytest.approx(1) for v in same.values())
    A, B = mean + 0.2 * own[0], mean + 0.2 * own[1]  # one mean graph, images of their own
    found = measured.agreement_of_graphs(A, B)
    assert found["graphs"].value > 0.8 and found["orders"].value > 0.5
    for name in ("graphs_own", "orders_own"):
        assert abs(found[name].value) < 0.1 and found[name].low < 0 < found[name].high
    half = measured.agreement_of_graphs(own[0] + own[2], own[1] + own[2])[
        "graphs_own"
    ]  # half of the variance is shared
    assert half.low < 0.5 < half.high and half.high - half.low < 0.05


def test_new_fields_of_profiles_rename_nothing_that_is_stored():
    assert "measured" not in as_dict(demo) and "onepass" not in as_dict(demo)
    changed = replace(demo, measured=replace(demo.measured, unit="nats"))
    assert as_dict(changed)["measured"]["unit"] == "nats"
    assert pipeline.measured_config(demo, 0) != pipeline.measured_config(changed, 0)
    assert pipeline.measured_config(demo, 0) == pipeline.measured_config(
        replace(demo, measured=replace(demo.measured, chunk_bytes=1)), 0
    )


def test_hub_fields_have_the_redundancy_they_are_asked_for():
    for redundancy in (0.0, 0.3, 1.0):
        field = exactness.hub_field(redundancy, seed=3)
        cov = field.cov - exactness.FLOOR**2 * torch.eye(18)
        assert torch.allclose(cov.diagonal(), torch.ones(18).double())
        blocks = cov.view(9, 2, 9, 2)[:, 0, :, 0]
        hubs = (blocks - redundancy).abs().lt(1e-9).sum(1) >= 2  # three patches correlate by just that, others by less
        assert redundancy != 0.3 or int(hubs.sum()) == 3
        x = exactness.draw(field, 50_000, torch.Generator().manual_seed(0)).flatten(1).double()
        assert (x.T @ x / len(x) - field.cov).abs().max() < 0.03
    with pytest.raises(ValueError, match="redundancy is 2"):
        exactness.hub_field(2, 0)


def test_a_trained_predictor_comes_nearer_to_the_closed_form():
    few = exactness.convergence(samples=(20, 4000), steps=(20, 400))
    at = few.set_index(["samples", "steps"])
    assert at.loc[(4000, 400), "error"] < 0.5 < at.loc[(4000, 20), "error"]
    assert at.loc[(4000, 400), "error_of_mean"] <= at.loc[(4000, 400), "error"]
    assert at.loc[(4000, 400), "plug_in"] < at.loc[(20, 400), "plug_in"]
    exact = gaussian_graph(exactness.hub_field(0.5, 0))
    assert exactness.graph_error(torch.zeros_like(exact), exact) == pytest.approx(1)


def test_what_is_told_twice_misleads_pagerank_and_not_coverage():
    table = exactness.orders_against_optimum(fields=((0, 1), (1, 1)), seeds=(0, 1, 2))
    mean = table.groupby(["redundancy", "order"])[["excess", "first"]].mean()
    assert mean.loc[(1, "greedy"), "excess"] < 0.05 and mean.loc[(1, "coverage"), "excess"] < 0.3
    assert mean.loc[(1, "PageRank"), "excess"] > 0.8
    assert (mean["first"] > 0.95).all(), "the first patch is right: what misleads comes after it"
    assert (table.loc[table["order"] != "optimal", "excess"] >= -1e-9).all()


def test_trainings_compared_with_themselves_agree_and_nothing_is_trained_unasked():
    profile = get_profile("smoke")
    assert comparisons.seeds_agree(profile, seeds=(7, 8), train=False) is None
    assert comparisons.one_pass_table(profile, 7, train=False) is None
    same = comparisons.seeds_agree(profile, seeds=(0, 0), device="cpu")
    other = comparisons.seeds_agree(profile, seeds=(0, 1), device="cpu")
    assert same["orders_own"].allclose(torch.tensor(1.0), atol=1e-4) and other["orders_own"].mean() < 0.9
    with pytest.raises(ValueError, match="unknown graph 'x'; expected one of CoMAE, measured"):
        comparisons.graph_config("x", profile, 0)
