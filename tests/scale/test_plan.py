"""The plan on paper against closed forms, its proportions, and hours by hand."""

from dataclasses import replace

import pytest
import torch

from cop.measure.cost import macs
from cop.paper.kl16 import KL16
from cop.profiles import demo, evening, get_profile, paper
from cop.scale import budget, plan

STAGES = {s.name: s for s in plan.plan(paper)}


def transformer(tokens: int, width: int) -> int:
    """Multiply-adds of one block: q, k, v and their output, the MLP of four times the width, and the attention."""
    return 12 * width**2 * tokens + 2 * tokens**2 * width


def test_training_a_vit_by_closed_form():
    image = 12 * transformer(257, 768) + 256 * 768 * 768 + 768 * 1000  # blocks, patch projection, head
    stage = STAGES["ViT training"]
    assert stage.macs == 15_012 * 256 * 3 * image  # forward once, backward twice
    h100 = 2 * stage.macs / (989e12 * 0.35) / 3600
    assert (
        budget.hours(stage, budget.device("H100"), budget.Assumptions())
        == pytest.approx(h100)
        == pytest.approx(0.43, abs=0.005)
    )


def test_ranking_by_closed_form():
    """Of the 256 passes of an image the first layer's q, k, v are shared, and the last block serves one token alone."""
    N, D = 256, 256
    qkv, attention, rest = 3 * D * D, 2 * N * N * D, 9 * D * D  # per token; per sequence; output and MLP, per token
    first = (16 * D + qkv) * N + N * (
        qkv + attention + rest * N
    )  # shared; read-out token, attention and MLP per target
    last = N * (qkv * N + 2 * N * D + rest)
    image = first + 10 * N * transformer(N, D) + last + N * D * N  # and the linear map to N weights
    stage = STAGES["ranking"]
    assert stage.macs == 2 * (1_281_167 + 50_000) * image
    assert stage.disk == pytest.approx(1.363e9, rel=1e-3)  # one byte a rank, of two orders


def test_the_paper_profile_has_every_stage_once_and_says_how_each_was_derived():
    first = ["KL-16 moments", "CoMAE training", "ranking", "entropy predictor (ours)"]
    first += ["CMAR, ascending and random fine-tuning", "sampling without guidance", "sampling with guidance"]
    first += [f"sampling, other order sources {guidance} guidance (ours)" for guidance in ("without", "with")]
    last = [*(f"{s} training" for s in plan.CLASSIFIERS), "curves over 100 mask ratios"]
    assert list(STAGES) == [*first, "ranking drafts, other order sources (ours)", "judging samples", *last]
    for s in STAGES.values():
        assert s.total > 0 and s.disk >= 0 and s.memory(s.batch) > 0 and "GMAC" in s.derivation
    assert [s.name for s in plan.plan(demo)][2] == "entropy predictor (ours)"  # raw tokens need no autoencoder
    assert "MAR training" in [s.name for s in plan.plan(demo)]  # nor are there released weights


def test_costs_are_proportional_to_steps_images_and_devices():
    longer = replace(paper, comae=replace(paper.comae, steps=3 * paper.comae.steps))
    training, ranking = plan.comae_stages(longer)
    assert training.macs == 3 * STAGES["CoMAE training"].macs and ranking == STAGES["ranking"]
    assert training.memory(256) == STAGES["CoMAE training"].memory(256)
    one, eight = (
        budget.hours(training, budget.device(n), budget.Assumptions(scaling=0.5)) for n in ("H100", "8 x H100")
    )
    assert one == pytest.approx(4 * eight)
    assert budget.hours(training, budget.device("H100"), budget.Assumptions(0.7)) == pytest.approx(one / 2)


def test_a_transformers_multiply_adds_are_a_parabola_in_its_tokens():
    model, image, at = plan.cvit_on_meta(demo)
    assert [at(k) for k in (1, 17, 40, 64)] == [macs(model, image, torch.arange(k)[None]) for k in (1, 17, 40, 64)]


def test_sampling_sums_every_step():
    """MAR-B at one token a step: the sum over the known tokens, as closed forms of encoder, decoder and last block."""
    total, D, L = 0, 768, 256 + 64
    for known in range(256):
        encoder = 12 * transformer(64 + known, D) + 16 * D * known + D * D * (64 + known)
        last = 2 * D * D * L + 10 * D * D + 2 * L * D  # keys and values of all, the rest of one token
        total += encoder + 11 * transformer(L, D) + last
    stage = STAGES["sampling without guidance"]
    assert stage.macs / 250_000 == pytest.approx(total, rel=1e-9)


def test_every_stage_is_counted_in_the_precision_it_runs_in():
    """As `cop.devices.inference` says, and training: under autocast, but for MAR's diffusion."""
    mixed = {s.name: s.precision for s in STAGES.values() if s.precision != "100% bf16"}
    assert mixed.pop("KL-16 moments") == "100% TF32" and "float32" in mixed.pop(
        "CMAR, ascending and random fine-tuning"
    )
    assert set(mixed) == {n for n in STAGES if "sampl" in n or "drafts" in n} and all(
        "TF32" in p and "float32" not in p for p in mixed.values()
    )
    assert {s.precision for s in plan.plan(demo)} == {"100% float32"}
    one = budget.Stage("", macs=3, macs_tf32=5, macs_fp32=7)
    alone = 2 * (3 / 100 + 5 / 50 + 7 / 10) / 1e12 / 3600
    assert budget.hours(one, budget.Device("card", 100, 10, 1), budget.Assumptions(1)) == pytest.approx(alone)
    with torch.device("meta"):
        decoder, latent = KL16().eval(), torch.empty(1, 256, 16)
    chains = [STAGES[f"sampling {n} guidance"] for n in ("without", "with")]
    assert 2 * chains[0].macs_tf32 / 250_000 - chains[1].macs_tf32 / 350_000 == pytest.approx(
        macs(decoder.decode, latent)
    )


def test_random_numbers_of_the_cpu():
    assert STAGES["CoMAE training"].normals == 512 * 5004 * 256 * 256 * 16  # latents; the noise is drawn on the GPU
    assert STAGES["sampling with guidance"].normals == 7 * 50_000 * 256 * 100 * 16
    assert STAGES["RViT training"].normals == STAGES["ranking"].normals == 0
    row = budget.table([STAGES["sampling with guidance"]], budget.Assumptions(drawn=1e6)).iloc[0]
    assert row["CPU h, random numbers"] == budget.amount(7 * 50_000 * 409_600 / 1e6 / 3600)


def test_memory_and_what_fits():
    s = budget.Stage("", fixed=2**30, per_image=2**30, batch=64)
    assert s.memory(3) == 4
    card = budget.Device("card", 1, 1, memory=10)
    assert (
        s.images_that_fit(card, budget.Assumptions(memory_share=1)) == 8
    )  # 9 would fit; a power of two divides a batch
    assert s.images_that_fit(replace(card, memory=1000), budget.Assumptions()) == 64
    assert s.images_that_fit(replace(card, memory=1), budget.Assumptions()) == 0
    assert budget.trained(10) == 160 and budget.trained(10, ema=True) == 200


def test_tables_and_command_line(capsys):
    table = budget.table(list(STAGES.values()), devices=["RTX 5090"])
    assert table["stage"].tolist() == [*STAGES, "**all**"] and "h, H100" not in table
    plan.main("demo", ["H100"], 0.5)
    out = capsys.readouterr().out
    assert (
        "| CoMAE training |" in out
        and "## What can be cut" in out
        and "50% of the dense bf16 rate (H100: 1 x 989" in out
    )
    assert "a quarter of the sampling steps" in out and "10,000 images per system" not in out, "it draws fewer"


def test_an_evening_takes_eight_hours_at_most_on_a_card_of_24_gb_and_fits_one_of_12():
    stages, card, assumptions = plan.plan(evening), budget.device("RTX 4090"), budget.Assumptions()
    assert 4 < sum(budget.hours(s, card, assumptions) for s in stages) <= 8
    for s in stages:
        trains = any(word in s.name for word in ("training", "tuning", "predictor"))
        at_once = s.batch // evening.scale.micro_batches if trains else s.batch
        assert s.memory(at_once) <= 12 * assumptions.memory_share, s.name
    assert plan.looks(evening)[0] == 2 * (9469 + 3925 + 9025 + 3929)  # of Imagenette and Imagewoof


def test_every_layout_of_imagenet_has_the_same_plan():
    for name in ("imagenet-hf", "imagenet-wds"):
        assert plan.looks(replace(paper, data=replace(paper.data, name=name))) == plan.looks(paper)
    assert plan.IMAGES["imagenet"] == (1_281_167, 50_000)


def test_the_images_of_a_class_are_counted():
    assert plan.looks(get_profile("natural"))[0] == 2 * (200 * 100 + 10_000)


def test_cores_that_decode_as_fast_as_a_gpu_trains():
    (stage,) = (s for s in plan.classifying(paper) if s.name == "CViT training")
    assumptions, h100 = budget.Assumptions(utilisation=0.5, decoded=100), budget.device("H100")
    rate = 3 * 5004 * 256 / (3600 * budget.hours(stage, h100, assumptions))
    text = plan.reading("paper", plan.classifying(paper), h100, assumptions)
    assert f"{rate:,.0f} a second on H100" in text and f"{rate / 100:,.0f} cores decode, at 100 each" in text
    assert plan.reading("demo", [], h100, assumptions) == ""


def test_bad_input():
    with pytest.raises(ValueError, match="unknown device 'A100'; expected one of H100, RTX 5090, RTX 4090, 8 x H100"):
        budget.table([], devices=["A100"])
    with pytest.raises(ValueError, match="no plan for data 'folder'.*expected one of fashion-subset"):
        plan.plan(replace(demo, data=replace(demo.data, name="folder")))
    with pytest.raises(ValueError, match="utilisation is 35"):
        plan.main("paper", utilisation=35)
