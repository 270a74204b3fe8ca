"""CoMAE: no leak, the equations, and dependencies() against a textbook loop."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from cop.paper.blocks import Block, rope_angles, rotate
from cop.paper.comae import (
    OBJECTIVES,
    Budget,
    CoMAE,
    budgeted,
    comae_loss,
    draw_masks,
    draw_targets,
    mask_statistics,
    objective,
)
from cop.paper.reconstruction import Baseline, baselines, evaluate, mask_swaps, ridge
from cop.profiles import smoke
from cop.train.loop import seeded, seeded_build

CONFIG, GRID, DIM = smoke.comae, 4, 6


@pytest.fixture(scope="module")
def model() -> CoMAE:
    return seeded_build(lambda: CoMAE(CONFIG, GRID, DIM), 0).eval()


def tokens_of(batch: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, GRID**2, DIM, generator=seeded(seed))


def textbook_weights(model: CoMAE, tokens: torch.Tensor, n: int) -> torch.Tensor:
    """Eq. 2 for target n the plain way: drop it, put [cls] + q_n in front, run every block on everything."""
    trunk = model.encoder["trunk"]
    keep = [i for i in range(tokens.shape[1]) if i != n]
    cls = (trunk.readout + trunk.target_embed.weight[n]).expand(len(tokens), 1, -1)
    x = torch.cat([cls, trunk.embed(tokens[:, keep])], 1)
    place = torch.tensor([-1, *keep])
    angles = rope_angles(place, model.grid, x.shape[-1] // trunk.blocks[0].heads)
    for block in trunk.blocks:
        x = block(x, torch.polar(torch.ones_like(angles), angles))
    w = (1 + torch.tanh(model.encoder["to_weights"](trunk.norm(x[:, 0])))) / 2
    w[:, n] = 0
    return w


def test_dependencies_equal_a_textbook_loop_in_any_chunks(model):
    tokens = tokens_of(3)
    want = torch.stack([textbook_weights(model, tokens, n) for n in range(GRID**2)], 1)
    for chunk in (1, 60_000, 256 << 20):
        torch.testing.assert_close(model.dependencies(tokens, chunk), want, atol=1e-6, rtol=1e-5)


def test_one_block_encoder_equals_the_textbook_too():
    model = seeded_build(lambda: CoMAE(replace(CONFIG, enc_depth=1), GRID, DIM), 3).eval()
    tokens = tokens_of(2)
    want = torch.stack([textbook_weights(model, tokens, n) for n in range(GRID**2)], 1)
    torch.testing.assert_close(model.dependencies(tokens), want, atol=1e-6, rtol=1e-5)


@settings(max_examples=16, deadline=None)
@given(n=st.integers(0, GRID**2 - 1), seed=st.integers(0, 99))
def test_no_gradient_reaches_the_target(model, n, seed):
    x = tokens_of(2, seed).requires_grad_()
    target = torch.full((2, 1), n)
    w = model.weights(x, target)
    guess = model.reconstruct(x, target, w, torch.randn(2, 1, GRID**2, DIM, generator=seeded(seed, 1)))
    for out in (w, guess):
        (g,) = torch.autograd.grad(out.square().sum(), x, retain_graph=True)
        assert (g[:, n] == 0).all()
        assert g.abs().sum() > 0


def test_dependencies_have_a_zero_diagonal_and_stay_in_the_unit_interval(model):
    A = model.dependencies(tokens_of(2))
    assert (A.diagonal(dim1=1, dim2=2) == 0).all() and (A >= 0).all() and (A <= 1).all()
    assert A.std() > 0


def test_alpha_is_eq_4(model):
    assert model.alpha(torch.tensor(1.0)) == 1
    assert model.alpha(torch.tensor(0.0)).item() == pytest.approx(math.exp(-1 / (2 * 0.3**2)))


def test_noise_is_eq_3(model):
    tokens, noise = tokens_of(2), torch.randn(2, 1, GRID**2, DIM, generator=seeded(5))
    everything, nothing = torch.ones(2, 1, GRID**2), torch.full((2, 1, GRID**2), -10.0)
    torch.testing.assert_close(model.noised(tokens, everything, noise)[:, 0], tokens)
    torch.testing.assert_close(model.noised(tokens, nothing, noise), noise)
    half = model.noised(tokens, torch.full((2, 1, GRID**2), 0.5), noise)[:, 0]
    a = math.exp(-0.25 / (2 * 0.09))
    torch.testing.assert_close(half, a * tokens + (1 - a) * noise[:, 0])
    kept = replace(CONFIG, noise="variance_preserving")
    model2 = CoMAE(kept, GRID, DIM)
    torch.testing.assert_close(
        model2.noised(tokens, torch.full((2, 1, GRID**2), 0.5), noise)[:, 0],
        a * tokens + math.sqrt(1 - a * a) * noise[:, 0],
    )


def test_contrastive_loss_by_hand(model):
    same = torch.ones(1, 3, GRID**2)
    assert model.contrastive_loss(same).item() == pytest.approx(math.log(3), rel=1e-5)
    orthogonal = torch.eye(GRID**2)[:2][None]
    tau = CONFIG.tau_init
    want = -math.log(math.exp(1 / tau) / (math.exp(1 / tau) + 1))
    assert model.contrastive_loss(orthogonal).item() == pytest.approx(want, rel=1e-3)
    w = torch.rand(2, 3, GRID**2, generator=seeded(6))
    rows = [[torch.stack([F.cosine_similarity(a, b, dim=0) for b in image]) for a in image] for image in w]
    want = torch.stack([(row / tau).logsumexp(0) - row[k] / tau for image in rows for k, row in enumerate(image)]).mean()
    for scale in (torch.ones(2, 3, 1), torch.rand(2, 3, 1, generator=seeded(7))):  # of a target's own weights
        torch.testing.assert_close(model.contrastive_loss(w * scale), want, rtol=1e-4, atol=0)


def test_temperature_is_clamped():
    model = CoMAE(CONFIG, GRID, DIM)
    w = torch.rand(1, 3, GRID**2, generator=seeded(1))
    with torch.no_grad():
        model.encoder.log_tau.fill_(math.log(CONFIG.tau_min))
        at_floor = model.contrastive_loss(w)
        model.encoder.log_tau.fill_(-20.0)
    torch.testing.assert_close(model.contrastive_loss(w), at_floor)
    model.contrastive_loss(w).backward()  # a clamp of the value instead of the parameter has gradient 0 and never comes back
    assert model.encoder.log_tau.item() == pytest.approx(math.log(CONFIG.tau_min)) and model.encoder.log_tau.grad != 0


def test_contrastive_scope_batch_sees_other_images():
    model = CoMAE(replace(CONFIG, contrastive_scope="batch"), GRID, DIM)
    assert model.contrastive_loss(torch.ones(4, 3, GRID**2)).item() == pytest.approx(math.log(12), rel=1e-5)


def test_mask_statistics_by_hand():
    N, targets = 5, torch.tensor([[0]])
    uniform = torch.tensor([[[0.0, 1, 1, 1, 1]]])
    s = mask_statistics(uniform, targets)
    assert s["mask_entropy"].item() == pytest.approx(math.log(N - 1), rel=1e-6)
    assert s["mask_entropy_raw"].item() == pytest.approx(0, abs=1e-6)
    assert s["share_high"] == 1 and s["share_low"] == 0 and s["mean_weight"] == 1
    one = mask_statistics(torch.tensor([[[0.0, 1, 0, 0, 0]]]), targets)
    assert one["mask_entropy"].item() == pytest.approx(0, abs=1e-6) and one["share_low"] == 0.75


def test_targets_are_distinct_and_seeded():
    a, b = (draw_targets(50, 16, 8, seeded(3)) for _ in range(2))
    assert torch.equal(a, b)
    assert all(len(set(row.tolist())) == 8 for row in a)


def test_loss_gradients_are_finite_everywhere(model):
    fresh = seeded_build(lambda: CoMAE(CONFIG, GRID, DIM), 1)
    comae_loss(fresh, tokens_of(4), seeded(2))["loss"].backward()
    for name, p in fresh.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all(), name


def test_bad_input_is_named(model):
    bad = tokens_of(1)
    bad[0, 2, 3] = float("nan")
    with pytest.raises(ValueError, match=r"tokens\[0, 2, 3\] is nan"):
        model.dependencies(bad)
    with pytest.raises(ValueError, match="expected"):
        model.dependencies(torch.zeros(1, 9, DIM))
    with pytest.raises(ValueError, match="unknown weight_act 'softmax'"):
        CoMAE(replace(CONFIG, weight_act="softmax"), GRID, DIM)
    with pytest.raises(ValueError, match="unknown noise 'pink'"):
        CoMAE(replace(CONFIG, noise="pink"), GRID, DIM)
    with pytest.raises(ValueError, match="width 17 does not divide into 2 heads"):
        CoMAE(replace(CONFIG, enc_dim=17, enc_heads=2), GRID, DIM)
    with pytest.raises(ValueError, match="divide by 4"):
        CoMAE(replace(CONFIG, enc_dim=18, enc_heads=3), GRID, DIM)


def test_rotation_keeps_length_and_depends_on_the_difference_only():
    x = torch.randn(1, 1, 2, 8, generator=seeded(1))
    q, k = x[:, :, :1], x[:, :, 1:]

    def turn(place: int) -> torch.Tensor:
        angles = rope_angles(torch.tensor([place]), 8, 8)
        return torch.polar(torch.ones_like(angles), angles)

    def dot(p: int, r: int) -> float:
        rq, rk = rotate(q, turn(p)), rotate(k, turn(r))
        torch.testing.assert_close(rq.norm(), q.norm())
        return (rq * rk).sum().item()

    assert dot(0, 9) == pytest.approx(dot(18, 27), rel=1e-4)  # one step down and right, from two places
    assert dot(0, 9) != pytest.approx(dot(0, 10), rel=1e-3)
    torch.testing.assert_close(rotate(q, turn(-1)), q)


def test_only_is_that_output_of_the_whole_block():
    block, x = Block(8, 2), torch.randn(2, 5, 8, generator=seeded(1))
    angles = rope_angles(torch.arange(-1, 4), 2, 4)
    rotation, only = torch.polar(torch.ones_like(angles), angles), torch.tensor([3, 0])
    full, one = block(x, rotation), block(x, rotation, only=only)
    torch.testing.assert_close(one[:, 0], full[[0, 1], only])


def test_mask_swaps_are_equal_where_the_masks_are():
    """An encoder that cannot see (its weights depend on the target alone) gives every image the same mask."""
    blind = seeded_build(lambda: CoMAE(CONFIG, GRID, DIM), 2).eval()
    with torch.no_grad():
        blind.encoder["trunk"].embed.weight.zero_()
    each = mask_swaps(blind, tokens_of(4), seeded(1))
    assert all(v.shape == (4,) for v in each.values()), "one loss per image"
    swaps = {name: v.mean().item() for name, v in each.items()}
    for other in ("the mean mask of all images", "another image's mask"):
        assert swaps[other] == pytest.approx(swaps["its own mask"], rel=1e-5)
    assert swaps["its own mask over the mean image"] == pytest.approx(swaps["the mean mask over the mean image"], rel=1e-5)
    assert swaps["everything shown, w = 1"] != pytest.approx(swaps["its own mask"], rel=1e-5)


def test_evaluate_is_repeatable(model):
    a, b = (evaluate(model, tokens_of(6), seeded(4), batch=6) for _ in range(2))
    assert a == b and set(a) > {"loss", "reconstruction", "contrastive", "mask_entropy"}


def test_ridge_of_all_patches_at_once_is_each_regression_by_itself():
    train, new = tokens_of(50, 5) @ torch.randn(DIM, DIM, generator=seeded(6)), tokens_of(3, 7)
    train = train + train.mean(1, keepdim=True)  # patches that know of one another
    strength = 0.1
    got = ridge(train, [strength])(new)
    fit = train[torch.arange(50) % 10 > 0].double()
    penalty = strength * (fit - fit.mean(0)).square().mean() * len(fit)
    for n in (0, 6, 15):
        others = [i for i in range(GRID**2) if i != n]
        x, y = ((fit - fit.mean(0))[:, rows].flatten(1) for rows in (others, [n]))
        W = torch.linalg.solve(x.T @ x + penalty * torch.eye(x.shape[1]).double(), x.T @ y)
        expected = (new.double() - fit.mean(0))[:, others].flatten(1) @ W + fit.mean(0)[n]
        torch.testing.assert_close(got[:, n].double(), expected, rtol=1e-3, atol=1e-3)
    changed = new.clone()
    changed[:, 6] = 100.0
    torch.testing.assert_close(ridge(train, [strength])(changed)[:, 6], got[:, 6], rtol=1e-3, atol=1e-3)
    assert torch.isfinite(ridge(train[:2])(new)).all(), "the dry run has two images"


def test_baselines_get_the_targets_of_comae_and_rank_as_they_should(monkeypatch, model):
    base = torch.randn(300, 1, DIM, generator=seeded(8)).expand(-1, GRID**2, -1)
    place = 3 * torch.randn(1, GRID**2, 1, generator=seeded(10)).abs()
    train = base + place + 0.1 * torch.randn(300, GRID**2, DIM, generator=seeded(9))
    found = {n: evaluate(b, train[:20], seeded(4))["reconstruction"] for n, b in baselines(CONFIG, GRID, train).items()}
    assert list(found) == ["mean token", "per-position median", "mean of the neighbours", "ridge regression"]
    assert found["ridge regression"] < 0.5 * found["per-position median"] < 0.5 * found["mean token"]
    seen = []
    monkeypatch.setattr(CoMAE, "forward", lambda self, tokens, targets, noise: seen.append(targets) or {"loss": tokens.sum()})
    monkeypatch.setattr(Baseline, "__call__", lambda self, tokens, targets, noise: seen.append(targets) or {})
    for network in (model, Baseline(CONFIG, torch.zeros_like)):
        evaluate(network, train[:6], seeded(4))
    assert torch.equal(*seen)


def test_the_neighbours_of_a_flat_image_are_its_patches():
    flat = torch.ones(20, GRID**2, DIM)
    for name, baseline in baselines(CONFIG, GRID, flat).items():
        assert evaluate(baseline, flat, seeded(1))["reconstruction"] == pytest.approx(0, abs=1e-5), name


def test_a_budget_is_spent_exactly_and_its_gradient_is_that_of_the_implicit_function():
    logits = torch.randn(3, 7, dtype=torch.double, generator=seeded(1), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: Budget.apply(x, 2.1), logits)
    targets = torch.tensor([[0, 5, 8]])
    w = budgeted(5 * torch.randn(1, 3, 9, generator=seeded(2)), targets, 0.15)
    assert w.sum(-1).allclose(torch.tensor(0.15 * 8), atol=1e-4) and (w.gather(2, targets[..., None]) == 0).all()
    for budget in (0.0, 1.0):
        with pytest.raises(ValueError, match=f"budget is {budget}; expected a share"):
            CoMAE(replace(CONFIG, budget=budget), GRID, DIM)


def test_the_price_of_information_is_the_divergence_of_two_gaussians():
    """Of a noised value N(alpha e, (1 - alpha)^2) from the standard normal one that nothing leaves behind."""
    paid = CoMAE(replace(CONFIG, objective="information", sparsity_weight=2.0), GRID, DIM)
    N = GRID**2
    tokens, targets = torch.randn(2, N, DIM, generator=seeded(1)), torch.tensor([[0, 3], [1, 2]])
    w = torch.rand(2, 2, N, generator=seeded(2)).scatter(2, targets[..., None], 0.0)
    zero = torch.tensor(0.0)
    price = OBJECTIVES["information"](paid, tokens, targets, {"reconstruction": zero, "contrastive": zero, "w": w})
    alpha = paid.alpha(w)[..., None]
    nats = torch.distributions.kl_divergence(
        torch.distributions.Normal(alpha * tokens[:, None], 1 - alpha), torch.distributions.Normal(0.0, 1.0)
    )
    others = torch.ones_like(w).scatter(2, targets[..., None], 0.0).bool()
    assert price.item() == pytest.approx(2 * nats.mean(-1)[others].mean().item(), rel=1e-4)


def test_half_of_the_decoders_turns_show_random_masks_of_every_density():
    any_mask = CoMAE(replace(CONFIG, any_mask=0.5), GRID, DIM)
    shown = []
    any_mask.forward = lambda tokens, targets, noise, mask=None: shown.append((targets, mask)) or {}
    for step in range(400):
        comae_loss(any_mask, torch.zeros(4, GRID**2, DIM), seeded(step), step)
    masks = [(t, m) for t, m in shown if m is not None]
    assert [step for step, (_, m) in enumerate(shown) if m is not None] == list(range(3, 400, 4))
    assert all((m.gather(2, t[..., None]) == 0).all() for t, m in masks)
    density = torch.cat([m.mean(-1).flatten() for _, m in masks])
    assert (density < 0.2).float().mean() > 0.1 and (density > 0.8).float().mean() > 0.1
    assert draw_masks((1, 1, 5), seeded(0)).unique().numel() <= 2


def test_an_objective_is_a_registered_function_of_the_configured_name(monkeypatch):
    monkeypatch.setattr("cop.paper.comae.OBJECTIVES", dict(OBJECTIVES))

    @objective("squared")
    def squared(model, tokens, targets, out):
        return out["w"].square().mean()

    toy = CoMAE(replace(CONFIG, objective="squared"), GRID, DIM)
    out = comae_loss(toy, torch.randn(2, GRID**2, DIM, generator=seeded(0)), seeded(1))
    assert out["loss"] == out["w"].square().mean()
    with pytest.raises(ValueError, match="'squared' exists already"):
        objective("squared")(squared)
    with pytest.raises(ValueError, match="unknown objective 'cubed'.*printed, information, squared"):
        CoMAE(replace(CONFIG, objective="cubed"), GRID, DIM)
