"""Order bank, stages, pairing and evaluation on the smoke profile; the bank and the jackknife also by themselves."""

import tempfile
from pathlib import Path

import pytest
import torch

from cop.configs import ScaleConfig
from cop.lessons import classifiers, evaluation, generation, held_out, pipeline
from cop.lessons import generation_along_the_order as lesson
from cop.lessons.doubt import DOUBTS, along_doubt, by_doubt
from cop.measure import metrics
from cop.orders import check_ranking, mean_order, random_order
from cop.orders.bank import MODES, OrderBank
from cop.orders.looking import gaussian_kernel
from cop.paper.mar import mask_lengths
from cop.profiles import PROFILES, get_profile, replace
from cop.show import report
from cop.train.loop import seeded

N, K = 16, 4
SMOKE = get_profile("smoke")
SMALL = replace(SMOKE, generation=replace(SMOKE.generation, count=20))


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as m:
        m.setenv("COP_CACHE", str(tmp_path_factory.mktemp("cache")))
        m.delenv("COP_RETRAIN_SINCE", raising=False)
        yield


@pytest.fixture
def orders():
    return random_order(20, N, seeded(1)), torch.arange(20) % K


# ------------------------------------------------------------------------------------------------- order bank


def bank(orders, mode) -> OrderBank:
    return OrderBank(*orders, K, mode)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_lends_orders_and_stores_one_byte_per_rank(orders, mode):
    b = bank(orders, mode)
    labels = torch.arange(20) % K
    drawn = b.draw(labels, seeded(2))
    assert drawn.shape == (20, N) and b.ranks.dtype == torch.uint8 and b.ranks.element_size() == 1
    check_ranking(drawn, N)
    assert torch.equal(drawn, b.draw(labels, seeded(2)))


def rows(x):
    return {tuple(r) for r in x.tolist()}


def test_a_class_gets_its_own_orders_and_a_wrong_class_never_does(orders):
    rankings, labels = orders
    asked = torch.arange(K).repeat(100)
    for mode, own in (("train", True), ("val", True), ("wrong_class", False)):
        drawn = bank(orders, mode).draw(asked, seeded(3))
        for y in range(K):
            mine = rows(drawn[asked == y])
            assert (mine == rows(rankings[labels == y])) is own
            if not own:
                assert mine == rows(rankings[labels != y])


def test_all_256_patches_fit_a_byte():
    rankings = random_order(3, 256, seeded(4))
    b = OrderBank(rankings, torch.zeros(3, dtype=torch.long), 1, "train")
    assert b.ranks.numel() == 3 * 256 and rows(b.draw(torch.zeros(50, dtype=torch.long), seeded(5))) == rows(rankings)


def test_mean_modes_lend_mean_orders(orders):
    rankings, labels = orders
    asked = torch.tensor([2, 0, 2])
    means = torch.stack([mean_order(rankings[labels == y]) for y in range(K)])
    assert torch.equal(bank(orders, "class_mean").draw(asked, seeded(0)), means[asked])
    assert torch.equal(bank(orders, "global_mean").draw(asked, seeded(0)), mean_order(rankings).expand(3, -1))


def test_two_pass_lends_draft_i_to_image_i_and_refuses_other_classes(orders):
    b = bank(orders, "two_pass")
    assert torch.equal(b.draw(orders[1][:5], seeded(0)), orders[0][:5])
    with pytest.raises(ValueError, match="not those of the drafts"):
        b.draw(orders[1][:5].flip(0), seeded(0))


def test_equal_seeds_pair_the_modes(orders):
    """Right class and the global control take the same numbers, so that a mode changes nothing but the order."""
    rankings, labels = orders
    doubled = OrderBank(rankings.flip(-1), labels, K, "val")
    asked = torch.arange(40) % K
    assert torch.equal(bank(orders, "train").draw(asked, seeded(6)), doubled.draw(asked, seeded(6)).flip(-1))


@pytest.mark.parametrize(("change", "message"), [
    (dict(mode="best"), "unknown mode 'best'.*expected one of train"),
    (dict(rankings=torch.zeros(20, N, dtype=torch.long)), "repeats or misses a patch"),
    (dict(rankings=torch.zeros(20, 300, dtype=torch.long)), "N <= 256"),
    (dict(labels=torch.arange(19) % K), "one per order"),
    (dict(labels=torch.arange(20)), "expected 0 to 3"),
    (dict(labels=torch.arange(20) % 3), "no order of class 3"),
    (dict(labels=torch.zeros(20)), "expected int64"),
    (dict(mode="wrong_class", labels=torch.zeros(20).long(), num_classes=1), "needs at least two classes"),
    (dict(mode="global_mean", rankings=torch.zeros(0, N).long(), labels=torch.zeros(0).long()), "the bank is empty"),
])  # fmt: skip
def test_bad_banks_are_refused(orders, change, message):
    given = {"rankings": orders[0], "labels": orders[1], "num_classes": K, "mode": "train"} | change
    with pytest.raises(ValueError, match=message):
        OrderBank(**given)


def test_bad_classes_are_refused(orders):
    for labels in (torch.tensor([4]), torch.tensor([-1]), torch.tensor([0.0]), torch.tensor([[0]])):
        with pytest.raises(ValueError, match="expected int64"):
            bank(orders, "train").draw(labels, seeded(0))


# ---------------------------------------------------------------------------------------------------- stages


def test_fine_tunes_start_from_the_base_with_equal_steps_and_differ_only_in_order():
    base, trained = generation.mar(SMALL)
    tuned = {k: generation.fine_tuned(SMALL, 0, k) for k in generation.KINDS}
    weights = {k: m.state_dict()["z_proj.weight"] for k, (m, _) in tuned.items()}
    start = base.state_dict()["z_proj.weight"]
    for k, (model, artefact) in tuned.items():
        assert not model.training and artefact.history["step"].max() == SMALL.generation.fine_tune_steps - 1
        assert 0 < (weights[k] - start).abs().max() < 0.1  # near the base, where a fresh model would not be
    assert not torch.equal(weights["descending"], weights["ascending"])
    # with nothing but random orders the collapse order is not used: descending becomes the control
    everything = replace(SMALL, generation=replace(SMALL.generation, random_share=1.0))
    a, b = (generation.fine_tuned(everything, 0, k)[0].state_dict() for k in ("descending", "random"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    with pytest.raises(ValueError, match="unknown kind 'sideways'"):
        generation.fine_tuned(SMALL, 0, "sideways")


def test_the_base_does_not_depend_on_how_images_are_drawn_or_ranked():
    other = replace(SMALL, generation=replace(SMALL.generation, count=7, num_iter=2, fine_tune_steps=9, cfg_scale=5.0))
    assert generation.mar_config(other) == generation.mar_config(SMALL)
    comae = replace(SMALL, comae=replace(SMALL.comae, steps=7))
    assert generation.fine_tuned_config(comae, 0, "random") == generation.fine_tuned_config(SMALL, 0, "random")
    assert generation.fine_tuned_config(comae, 0, "descending") != generation.fine_tuned_config(SMALL, 0, "descending")


def test_paper_profile_is_mar_b():
    from cop.paper.mar import MAR_CONFIGS

    assert generation.mar_sizes(PROFILES["paper"]) == MAR_CONFIGS["mar_base"]
    assert replace(generation.mar_sizes(PROFILES["evening"]), num_classes=1000) == MAR_CONFIGS["mar_base"]


def test_a_few_classes_of_a_checkpoint_keep_their_rows(tmp_path):
    """As in the profile evening: label 0 is class 3 of the weights; what is drawn is what the whole model draws of class 3."""
    whole = generation.MAR(replace(generation.mar_sizes(SMALL), num_classes=30), seeded(5)).eval()
    torch.save({"model_ema": whole.state_dict()}, tmp_path / "mar.pth")

    def few(*rows: int):
        own = {"checkpoint": str(tmp_path / "mar.pth"), "checkpoint_classes": rows}
        return replace(SMALL, generation=replace(SMALL.generation, **own))

    rows = (*range(3, 30, 3), 1)
    model, artefact = generation.mar(few(*rows), "cpu")
    assert artefact is None and generation.mar_config(few(*rows)) != generation.mar_config(few(*rows[::-1]))
    order = random_order(2, SMALL.num_tokens, seeded(1))
    settings = {"num_iter": 2, "num_sampling_steps": 2, "cfg_scale": 2.0}
    drawn = model.sample(torch.tensor([0, 9]), [1, 2], order, **settings)
    assert torch.equal(drawn, whole.sample(torch.tensor([3, 1]), [1, 2], order, **settings))


# ---------------------------------------------------------------------------------------------------- images


def test_images_are_whole_in_any_batch_split_and_repeatable(monkeypatch, tmp_path):
    first = generation.generate(SMALL, 0, "base", "random").tensors
    assert first["images"].dtype == torch.uint8 and first["images"].shape == (20, 1, 32, 32)
    assert first["rankings"].dtype == torch.uint8
    for batch, folder in ((7, "a"), (20, "b")):
        monkeypatch.setattr(generation, "BATCH", batch)
        artefacts = []

        def anew(stage, config, compute, kept=artefacts):
            kept.append(compute(Path(tempfile.mkdtemp(dir=tmp_path))))
            return kept[-1]

        monkeypatch.setattr(generation, "load_or_compute", anew)
        model = generation.MAR(generation.mar_sizes(SMALL), seeded(1)).eval()
        monkeypatch.setattr(generation, "model_of", lambda *a, model=model: model)
        generation.generate(SMALL, 0, "base", "random")
        images = artefacts[-1][0]["images"]
        previous = images if folder == "a" else previous  # noqa: F821
        assert (images.int() - previous.int()).abs().max() <= 1  # round-off moves a pixel by one grey level at most
    other_seed = generation.generate(SMALL, 1, "base", "random")[0]["images"]
    assert not torch.equal(other_seed, images)


def test_systems_share_classes_noise_and_lent_orders():
    c, a = (generation.generate(SMALL, 0, "base", s).tensors for s in ("train", "train"))
    assert torch.equal(c["images"], a["images"])
    down, up = (generation.generate(SMALL, 0, k, "train").tensors["rankings"] for k in ("descending", "ascending"))
    assert torch.equal(down, c["rankings"]) and torch.equal(up, down.flip(-1))
    asked = generation.new_labels(SMALL, 20)
    lent = generation.order_bank(SMALL, 0, "train").draw(asked, seeded(0, 60))
    assert torch.equal(lent, c["rankings"].long()) and asked.tolist() == [*range(10), *range(10)]


def test_stages_of_a_generation_are_prefixes_of_its_order():
    """Fig. 1 cuts the finished image along its order: the same tokens that the sampling callback saw at that step."""
    model, tokens = generation.mar(SMALL)[0], pipeline.tokenizer(SMALL)
    ranking = random_order(2, 64, seeded(7))
    seen = []
    g = SMALL.generation
    done = model.sample(
        torch.tensor([3, 4]), [1, 2], ranking, num_iter=g.num_iter, num_sampling_steps=3, callback=seen.append
    )
    known = [64 - left for left in mask_lengths(64, g.num_iter)]
    for state, k in zip(seen, known, strict=True):
        for b in range(2):
            assert set((~state["mask"][b]).nonzero().flatten().tolist()) == set(ranking[b, :k].tolist())
            assert torch.equal(state["tokens"][b, ranking[b, :k]], done[b, ranking[b, :k]])
    stages = evaluation.stage_sizes("demo")
    assert len(stages) == 6 and stages == sorted(set(stages)) and stages[-1] == 64
    assert tokens.decode(done).shape == (2, 1, 32, 32)


def test_pictures_are_the_first_images_of_the_metrics():
    images, rankings = generation.pictures(SMALL, 0, "base", "random", first=6)
    whole = generation.generate(SMALL, 0, "base", "random").tensors
    assert torch.equal(images, generation.to_float(whole["images"][:6])) and torch.equal(
        rankings, whole["rankings"][:6].long()
    )


@pytest.mark.parametrize("source", DOUBTS)
def test_an_order_made_while_generating_is_that_of_the_predictor_along_it(source):
    made = generation.generate(SMALL, 0, "base", source).tensors
    order = made["rankings"].long()
    assert (order.sort(1).values == torch.arange(64)).all()
    predictor = pipeline.predictor(SMALL, 0)[0]
    doubt = predictor(torch.zeros(1, 64, 16), torch.zeros(1, 64, dtype=torch.bool))[1].sum(-1)[0]
    most = DOUBTS[source]
    kernel = gaussian_kernel((8, 8), SMALL.looking.width).float()
    around = doubt @ kernel if most else (doubt.max() - doubt) @ kernel
    assert (order[:, 0] == around.argmax()).all()  # before anything is generated it is one for all


def test_what_comes_next_depends_on_what_has_been_generated(monkeypatch):
    """With a predictor that doubts what lies beside a white token, and nothing else."""

    def beside_white(tokens, seen, only=None):
        white = ((tokens.mean(-1) > 0.5) & seen).float().view(-1, 1, 8, 8)
        scale = torch.nn.functional.max_pool2d(white, 3, 1, 1).flatten(1)[..., None].expand(-1, -1, 16) + 0.01
        return (scale, scale) if only is None else tuple(scale.gather(1, only[..., None].expand(-1, -1, 16)) for _ in range(2))

    monkeypatch.setattr(pipeline, "predictor", lambda *_: (beside_white, None))
    tokens, mask = torch.zeros(2, 64, 16), torch.ones(2, 64, dtype=torch.bool)
    mask[:, [9, 54]] = False
    tokens[0, 9], tokens[1, 54] = 1, 1
    following = by_doubt(SMALL, 0, "cpu", True)(tokens, mask, 1)[:, 0].tolist()
    assert [abs(p // 8 - q // 8) <= 1 and abs(p % 8 - q % 8) <= 1 for p, q in zip(following, (9, 54), strict=True)] == [True, True]
    calm = by_doubt(SMALL, 0, "cpu", False)(tokens, mask, 1)[:, 0].tolist()
    assert [abs(p // 8 - q // 8) <= 1 and abs(p % 8 - q % 8) <= 1 for p, q in zip(calm, (9, 54), strict=True)] == [False, False]


@pytest.mark.parametrize("kind", DOUBTS)
def test_a_real_image_has_the_order_in_which_it_would_have_been_made(kind):
    """Each step of the order knows the patches before it and no other; and MAR is trained along it."""
    real, chosen = pipeline.token_source(SMALL, "train", "cpu"), torch.arange(6)
    order = along_doubt(SMALL, 0, DOUBTS[kind], real, chosen, False, "cpu").long()
    assert (order.sort(1).values == torch.arange(64)).all()
    made = generation.generate(SMALL, 0, "base", kind).tensors["rankings"].long()
    left = [64, *mask_lengths(64, SMALL.generation.num_iter)]
    assert (order[:, : 64 - left[1]] == made[0, : 64 - left[1]]).all(), "before anything is known it is one for all"

    def spoilt(idx, flip=None):
        return real(idx).scatter(1, order[:, 64 - left[-2] :, None].expand(-1, -1, 16), 100.0)

    assert torch.equal(along_doubt(SMALL, 0, DOUBTS[kind], spoilt, chosen, False, "cpu").long(), order), "the last step is not seen"
    tuned, control = (generation.fine_tuned(SMALL, 0, k)[1] for k in (kind, "random"))
    assert tuned.directory != control.directory and len(tuned.history) == len(control.history)


def test_the_measured_graph_lends_its_orders_too():
    along = pipeline.with_graph(SMALL, "measured")
    ours, theirs = (generation.fine_tuned(p, 0, kind)[1] for p, kind in ((SMALL, "measured"), (along, "descending")))
    assert ours.directory == theirs.directory != generation.fine_tuned(SMALL, 0, "descending")[1].directory
    made = generation.generate(SMALL, 0, "measured", "measured").tensors["rankings"].long()
    bank = generation.order_bank(along, 0, "train")
    assert torch.equal(made, bank.draw(generation.new_labels(SMALL, len(made)), seeded(0, 60)))
    results = evaluation.comparison(SMALL, 0, ["measured"])
    assert {("CMAR", "measured", 1.0), ("MAR+C", "measured", 1.0)} <= results.keys()


def test_unknown_systems_and_sources_are_refused():
    with pytest.raises(ValueError, match="expected one of base, descending.*train, val"):
        generation.generate(SMALL, 0, "base", "trian")
    with pytest.raises(ValueError, match="unknown mode 'trian'"):
        generation.order_bank(SMALL, 0, "trian")


# ------------------------------------------------------------------------------------------------- evaluation


def test_two_pass_and_every_other_source_can_be_evaluated_and_tabulated():
    results = evaluation.comparison(SMALL, 0, ["two_pass", "wrong_class"])
    assert ("CMAR", "two_pass", 1.0) in results and ("CMAR", "train", 3.0) in results and evaluation.REAL in results
    for values, parts in results.values():
        assert torch.isfinite(values).all() and parts.shape == (2, len(evaluation.METRICS))
    heading = evaluation.METRICS["frechet"][0]
    assert "FID" not in heading and heading in lesson.systems_table(results)
    out = report.Report("09_test", "smoke", 0)
    frame = lesson.verdicts(out, results, held_out.losses_by_order(SMALL, 0, count=60), SMALL)
    assert len(frame) == 5 + 2 + 2 and not frame["claim"].str.contains("leak").any(), "held-out orders were not asked for"
    assert set(frame["all seeds"]) == {"–"}
    with pytest.raises(ValueError, match="Table 2 has 6 rows, 1 given"):
        lesson.beside_paper(out, results, 2, {"MAR": ("MAR", "random", 1.0)})


def clouds():
    """60 real and 40 generated images of 4 classes: features, class probabilities, and which are of the right class."""
    g = seeded(8)
    real, fake = torch.randn(60, 4, generator=g).double(), torch.randn(40, 4, generator=g).double() * 1.2
    fake[7] = fake[8]
    probabilities, labels = torch.rand(40, 4, generator=g).double().softmax(-1), torch.arange(40) % 4
    return real, fake, probabilities, probabilities.argmax(1) == labels, evaluation.kept_by_jackknife(labels)


def test_values_are_those_of_the_metrics_module():
    real, fake, probabilities, right, kept = clouds()
    values, parts = evaluation.jackknife_metrics(real, fake, probabilities, right, kept)
    precision, recall = metrics.precision_recall(real, fake, 3)
    inside = (torch.cdist(fake, real) <= evaluation.neighbour_radii(real)).any(1).double().mean()
    covered = (torch.cdist(fake, real) <= evaluation.neighbour_radii(fake)[:, None]).any(0).double().mean()
    assert values[2] == pytest.approx(precision) == pytest.approx(inside.item())
    assert values[3] == pytest.approx(recall) == pytest.approx(covered.item())
    assert parts.shape == (10, 5) and (parts.std(0) > 0).all()


def test_what_is_left_out_has_equally_many_images_of_every_class():
    labels = torch.arange(60) // 6  # 6 images of each of 10 classes, whose order does not matter
    kept = evaluation.kept_by_jackknife(labels)
    assert len(kept) == 6 and all(labels[k].bincount().tolist() == [5] * 10 for k in kept)
    assert torch.cat(kept).bincount().tolist() == [5] * 60, "every image is left out once"
    assert len(evaluation.kept_by_jackknife(torch.arange(200) % 2)) == evaluation.GROUPS
    assert evaluation.kept_by_jackknife(torch.arange(2))[0].tolist() == [0, 1], "one image per class: nothing to leave out"


@pytest.mark.parametrize(("block", "known"), [(8 * 60 * 7, 64), (1, 64), (8 * 60 * 7, 5)])
def test_metrics_in_parts_are_those_of_whole_matrices(monkeypatch, block, known):
    """Recall of every part from its own matrix of distances, against blocks of 7 rows or one, and with so few remembered
    neighbours that many radii must be computed again."""
    real, fake, probabilities, right, kept = clouds()
    _, whole = evaluation.jackknife_metrics(real, fake, probabilities, right, kept)
    monkeypatch.setattr(evaluation, "BLOCK", block)
    monkeypatch.setattr(evaluation, "NEAREST", known)
    _, parts = evaluation.jackknife_metrics(real, fake, probabilities, right, kept)
    assert len(evaluation.blocks(60, 60)) == (9 if block > 1 else 60)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)
    inside = torch.cdist(fake, real) <= evaluation.neighbour_radii(real)
    for row, idx in zip(whole, kept, strict=True):
        precision, recall = metrics.precision_recall(real, fake[idx], 3)
        expected = [inside.any(1)[idx].double().mean().item(), recall]
        assert row[2:4].tolist() == pytest.approx(expected) and precision == pytest.approx(expected[0])
        assert row[0] == pytest.approx(metrics.frechet(metrics.statistics(real), metrics.statistics(fake[idx])))


def test_intervals_cover_and_stay_possible_for_two_samples_of_one_distribution():
    """A generator that is perfect: samples of 100 against 400 of the same five clusters. Each metric's interval should cover
    its mean over all samples in about 95 of 100 of them, and no Fréchet distance may reach 0 or less. The distance's is
    wider than it need be here, where its first-order term vanishes; so 100 of 100 is right for it."""
    labels, centres = torch.arange(100) % 5, 1.2 * torch.randn(5, 6, generator=seeded(20)).double()
    real = centres[torch.arange(400) % 5] + torch.randn(400, 6, generator=seeded(21)).double()
    kept, results = evaluation.kept_by_jackknife(labels), []
    for i in range(120):
        fake = centres[labels] + torch.randn(100, 6, generator=seeded(22, i)).double()
        probabilities = (-torch.cdist(fake, centres)).softmax(1)
        results.append(evaluation.jackknife_metrics(real, fake, probabilities, probabilities.argmax(1) == labels, kept))
    for j, metric in enumerate(evaluation.METRICS):
        found = [evaluation.interval(r, metric) for r in results]
        mean = sum(i.value for i in found) / len(found)
        covered = sum(i.low <= mean <= i.high for i in found) / len(found)
        assert covered >= 0.9, f"{metric}: {covered:.2f}"
        low, high = (0, 1) if metric in evaluation.SHARES else (0, 5)
        assert all(low <= i.low <= i.value <= i.high <= high for i in found), metric
        width = sum(i.high - i.low for i in found) / len(found)
        spread = torch.stack([r[0][j] for r in results]).std().item()
        assert width < 3 * 2 * 1.96 * spread, f"{metric}: {width:.3f} wide, spread {spread:.3f}"
        null = [evaluation.difference(a, b, metric)[1] for a, b in zip(results[::2], results[1::2], strict=True)]
        assert sum(p < 0.05 for p in null) <= 0.13 * len(null), f"{metric}: too many differences of equals"
    assert min(evaluation.interval(r, "frechet").low for r in results) > 0


def test_collapsed_and_tiny_sets_can_be_resampled():
    same = torch.ones(6, 3).double()  # all radii are 0
    inside, recall = evaluation.precisions_and_recalls(same, same, 3, [torch.tensor([0, 0, 0, 0, 0, 0])])
    assert inside.all() and recall.tolist() == [1]
    inside, recall = evaluation.precisions_and_recalls(same, same + 1, 3, [torch.arange(6)])
    assert not inside.any() and recall.tolist() == [0]


def test_real_images_are_judged_by_a_classifier_that_depends_on_its_training():
    configs = [evaluation.evaluation_config(p, 0, "real", "–", 1.0) for p in (SMALL, replace(SMALL, scale=ScaleConfig(4)))]
    assert configs[0] != configs[1]


def test_one_network_judges_the_images_of_all_seeds(monkeypatch):
    asked = []
    monkeypatch.setattr(classifiers, "trained", lambda profile, *asked_for: asked.append(asked_for) or [None])
    evaluation.judge(SMALL)
    assert asked == [("RViT", evaluation.JUDGE, "auto")]
    by_seed = [evaluation.evaluation_config(SMALL, seed, "base", "random", 1.0) for seed in (0, 1)]
    assert by_seed[0] != by_seed[1] and by_seed[0]["judge"] == by_seed[1]["judge"] == classifiers.classifier_config(SMALL, "RViT", 0)
    real = [evaluation.evaluation_config(SMALL, seed, "real", "–", 1.0) for seed in (0, 1)]
    assert real[0] == real[1]


def test_verdicts_know_which_direction_is_better():
    parts = torch.randn(50, 5, generator=seeded(10)).double() * 0.01
    low, high = torch.ones(5).double(), torch.ones(5).double() * 2
    for metric, want in (("frechet", "better"), ("precision", "worse")):
        gap, p = evaluation.difference((low, parts), (high, parts.flip(0)), metric)
        assert gap.value == pytest.approx(-1) and evaluation.verdict(gap.value, p, metric) == want
    gap, p = evaluation.difference((low, parts), (low, parts.flip(0)), "frechet")
    assert evaluation.verdict(gap.value, p, "frechet") == "no difference found"


def test_starred_differences_are_corrected_for_the_size_of_their_table():
    """One difference with p = .02 is starred alone, and not among 14 others that show nothing."""
    noise = torch.randn(50, 5, generator=seeded(10)).double() * 0.01
    error = (49 / 50 * (noise - noise.mean(0)).square().sum(0)).sqrt()
    one, same = torch.ones(5).double(), torch.zeros(50, 5).double()
    results = {("a", "x", 1.0): (one, noise), ("b", "x", 1.0): (one + 2.4 * error, same), ("c", "x", 1.0): (one, same)}
    pair, nothing = (("b", "x", 1.0), ("a", "x", 1.0)), (("c", "x", 1.0), ("a", "x", 1.0))
    alone = lesson.gaps(results, [pair], ["precision"])
    among = lesson.gaps(results, [pair] + [nothing] * 14, ["precision"])
    assert alone["the first is"][0] == "better" and among["the first is"][0] == "no difference found"
    assert float(among["p (Holm)"][0]) == pytest.approx(15 * float(alone["p (Holm)"][0]), rel=0.05)


def test_few_batches_have_students_interval():
    losses = {("a", "random"): torch.tensor([1.0, 2.0, 3.0]).double(), ("b", "random"): torch.zeros(3).double()}
    gap, p = lesson.loss_gap(losses, "a", "b", "random")
    assert gap == pytest.approx((2, 2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), abs=1e-3) and p == pytest.approx(0.0742, abs=1e-3)
    clear = 1 + 0.1 * torch.arange(4).double()
    losses = {(m, o): v for m, v in (("MAR", torch.zeros(4).double()), ("CMAR", clear)) for o in ("random", "collapse", "reversed")}
    losses["CMAR", "reversed"] = torch.tensor([0.3, -0.2, 0.3, -0.2]).double()
    table = lesson.loss_table(losses, control="MAR").set_index("model")
    assert table.loc["CMAR", "collapse, less control"].endswith(" *") and table.loc["MAR", "collapse, less control"] == "–"
    assert not table.loc["CMAR", "reversed, less control"].endswith(" *")


def test_a_better_model_has_a_lower_held_out_loss():
    x = pipeline.sample(SMALL, "test", 40)
    ranking = random_order(40, 64, seeded(11))
    trained = generation.mar(SMALL)[0]
    fresh = generation.MAR(generation.mar_sizes(SMALL), seeded(0, 50)).eval()
    a, b = (held_out.held_out_loss(m, x.tokens, x.labels, ranking, 0, batch=20) for m in (trained, fresh))
    assert a.shape == (2,) and (a < b).all()
    assert torch.equal(a, held_out.held_out_loss(trained, x.tokens, x.labels, ranking, 0, batch=20))
