"""The measured graph where the truth is known: Gaussian tokens, whose graph is a closed form, and whose best order is known too.

Section 6 of the paper argues that sorting by PageRank is the greedy order of the collapse. That needs gains which do not shrink as
patches are seen, but what two patches tell about each other is mutual: once one of a pair has been seen the other has less to
say. Only where all dependencies are weak do gains hardly shrink. `orders_against_optimum` measures what this costs, with and
without patches that tell the same, and with weak dependencies.
"""

from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from cop.configs import PredictorConfig, as_dict
from cop.orders import collapse_order, coverage_order, random_order
from cop.paper.entropy import GaussianTokens, TokenPredictor, area, predictor_loss
from cop.paper.measured import gaussian_graph, measured_graph
from cop.paper.ranking import in_strength, pagerank
from cop.profiles import replace
from cop.train.artefacts import load_or_compute, versioned
from cop.train.loop import fit, seeded, seeded_build

GRID, VALUES, FLOOR = 3, 2, 0.05  # 9 patches, few enough for the optimum by brute force
GROUPS = (0, 0, 0, 1, 1, 2)  # which of three hubs each of the other six patches listens to
PREDICTOR = PredictorConfig(dim=32, depth=2, heads=2, steps=3000, batch_size=64, floor=FLOOR)
HELD_OUT = 200  # samples on which a trained predictor is measured


def hub_field(redundancy: float, seed: int, strength: float = 1.0) -> GaussianTokens:
    """Nine patches of two values, unit variance: three hubs, and six patches that follow one of them with random strength.

    redundancy: 0, the hubs are independent, so what they tell is different; 1, they are copies of each other and tell the same.
    strength: a follower correlates with its hub by .5 to .95 times it. The patches stand in a random order. Raises ValueError for
    numbers outside [0, 1]."""
    if not (0 <= redundancy <= 1 and 0 <= strength <= 1):
        raise ValueError(f"redundancy is {redundancy} and strength {strength}; expected numbers in [0, 1]")
    g, N = seeded(seed, 70), GRID**2
    cov = torch.zeros(N, VALUES, N, VALUES, dtype=torch.float64)
    place = torch.randperm(N, generator=g)
    for c in range(VALUES):
        mix = torch.zeros(N, 1 + N, dtype=torch.float64)  # patches from a common source and one of their own each
        mix[:3, 0], mix[range(3), range(1, 4)] = redundancy**0.5, (1 - redundancy) ** 0.5
        loud = strength * (0.5 + 0.45 * torch.rand(6, generator=g, dtype=torch.float64))
        mix[3:] = loud[:, None] * mix[list(GROUPS)]
        mix[range(3, N), range(4, N + 1)] = (1 - loud**2).sqrt()
        cov[:, c, :, c] = (mix @ mix.T)[place][:, place]
    cov = cov.reshape(N * VALUES, N * VALUES)
    return GaussianTokens(torch.zeros(N, VALUES), cov + FLOOR**2 * torch.eye(len(cov)), FLOOR)


def draw(model: GaussianTokens, count: int, generator: torch.Generator) -> Tensor:
    """Samples (count, N, C) of the field."""
    x = torch.randn(count, model.N * model.C, generator=generator, dtype=torch.float64)
    return (x @ torch.linalg.cholesky(model.cov).T).view(count, model.N, model.C).float() + model.mean.float()


def graph_error(found: Tensor, exact: Tensor) -> float:
    """Mean absolute error of the edges over their mean: 1 is what a graph without edges has."""
    return float((found - exact).abs().sum() / exact.sum() / (len(found) if found.ndim == 3 else 1))


def convergence(
    samples: tuple[int, ...] = (100, 1000, 10_000, 100_000), steps: tuple[int, ...] = (100, 300, 1000, 3000),
    redundancy: float = 0.5, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """A predictor trained on samples of `hub_field` measures the closed form: a row per training, the numbers of samples at the
    most steps and the numbers of steps at the most samples.

    Columns: `samples`, `steps`; `error` of the graph of an image against the closed form (`graph_error`), `error_of_mean` of the
    mean graph of 200 fresh samples, `plug_in` of the closed form of the covariance of the same samples: what the samples
    themselves leave open. About two minutes on one core."""
    runs = sorted({(n, max(steps)) for n in samples} | {(max(samples), s) for s in steps})
    predictor = as_dict(replace(PREDICTOR, steps=0))
    config = versioned(
        "gaussian-graph", 1, {"runs": runs, "redundancy": redundancy, "seed": seed, "predictor": predictor}
    )

    def compute(directory: Path):
        field = hub_field(redundancy, seed)
        exact, fresh = gaussian_graph(field), draw(field, HELD_OUT, seeded(seed, 72))
        train, rows = draw(field, max(samples), seeded(seed, 71)), []
        for n, count in runs:
            x = train[:n]

            def loss(model, idx, generator, step, x=x):
                return {"loss": predictor_loss(model, x[idx], generator)}

            net = seeded_build(lambda: TokenPredictor(field.N, field.C, PREDICTOR), seed, 73)
            net, _ = fit(net, loss, replace(PREDICTOR, steps=count), size=n, seed=seed, directory=directory / f"{n}-{count}",
                         checkpoint_every=1000, desc=f"{n} samples, {count} steps")  # fmt: skip
            A = measured_graph(net, fresh).double()
            fitted = GaussianTokens.fit(x, floor=FLOOR, shrinkage=0)
            fitted.cov.diagonal().sub_(FLOOR**2)  # the samples have the noise already
            rows.append({"samples": n, "steps": count, "error": graph_error(A, exact), "error_of_mean": graph_error(A.mean(0), exact),
                         "plug_in": graph_error(gaussian_graph(fitted), exact)})  # fmt: skip
        return {"exact": exact}, pd.DataFrame(rows)

    return load_or_compute("gaussian-graph", config, compute).history


def orders_against_optimum(
    fields: tuple[tuple[float, float], ...] = ((0, 1), (0.5, 1), (1, 1), (0, 0.2)), seeds: tuple[int, ...] = tuple(range(20))
) -> pd.DataFrame:  # fmt: skip
    """Section 6's claim by brute force: a row per field (redundancy and strength), seed and order, all from the closed form.

    Columns: `area` under the entropy curve (Eq. 8); `excess`, the share of the way from the optimal order (0) to a random one (1);
    `first`, how much the first patch takes off the curve, as a share of the most that a patch can. Orders: `PageRank`,
    `in-strength`, `coverage` (weighed by each patch's own entropy), `greedy` (Eq. 8 itself), `optimal`."""
    config = versioned("optimum", 1, {"fields": fields, "seeds": seeds})

    def compute(_: Path):
        rows = []
        for redundancy, strength in fields:
            for seed in seeds:
                field = hub_field(redundancy, seed, strength)
                A = gaussian_graph(field, "logdet")
                first = torch.stack([torch.arange(field.N).roll(-n) for n in range(field.N)])
                H = field.chain_terms(first)[:, 0]  # (N,) of each patch alone
                orders = {"PageRank": collapse_order(pagerank(A)), "in-strength": collapse_order(in_strength(A)),
                          "coverage": coverage_order(A[None], H[None])[0], "greedy": field.greedy_order(),
                          "optimal": field.optimal_order()}  # fmt: skip
                curves = field.sum_curve(torch.stack(list(orders.values())))
                areas, falls = area(curves), curves[:, 0] - curves[:, 1]
                chance = float(area(field.sum_curve(random_order(200, field.N, seeded(seed, 74)))).mean())
                best, most = float(areas[-1]), float(falls[3])  # optimal, greedy
                rows += [{"redundancy": redundancy, "strength": strength, "seed": seed, "order": name, "area": float(a),
                          "excess": (float(a) - best) / (chance - best), "first": float(fall) / most}
                         for name, a, fall in zip(orders, areas, falls, strict=True)]  # fmt: skip
        return {"seeds": torch.tensor(seeds)}, pd.DataFrame(rows)

    return load_or_compute("optimum", config, compute).history
