"""What the first patches cost: multiply-adds of classifier, ranking and tokenizer, and measured throughput."""

from collections.abc import Mapping

import pandas as pd
import timm
import torch

from cop.configs import Profile, as_dict
from cop.lessons import pipeline
from cop.lessons.classification import spread_counts
from cop.lessons.classifiers import build
from cop.measure import cost
from cop.orders import coverage_order, looking_order, registered
from cop.orders.looking import CACHED, bilateral_graph, mean_colours
from cop.paper.cached import CachedPredictor
from cop.paper.comae import CoMAE
from cop.paper.cvit import keep_count
from cop.paper.entropy import TokenPredictor
from cop.paper.kl16 import KL16
from cop.paper.onepass import OnePass
from cop.profiles import get_profile, replace
from cop.train.artefacts import load_or_compute, versioned
from cop.train.loop import seeded, threads


def bills(profile: Profile, rate: float) -> dict[str, dict[str, int]]:
    """`bill` of the profile and of the paper's size, with the two widths that the paper gives CoMAE."""
    paper = get_profile("paper")
    narrow = replace(paper, comae=replace(paper.comae, enc_dim=64, dec_dim=256))
    sizes = {profile.name: profile} | {"paper, section 8": paper, "paper, section 4": narrow}
    return {name: bill(size, rate) for name, size in sizes.items()}


def bill(profile: str | Profile, rate: float = 0.78) -> dict[str, int]:
    """Multiply-adds of one image at a profile's size, counted on the meta device: `all`, the classifier on the whole
    image; `kept`, on the patches left at a mask rate; `ranking`, all N weight vectors of CoMAE as this project computes
    them; `measured`, the N + 1 passes of the predictor; `tokenizer`, the autoencoder's encoder (0 for raw patches)."""
    profile = get_profile(profile)
    d, N = profile.data, profile.num_tokens
    with torch.device("meta"):
        if profile.name == "paper":
            model = timm.create_model("cvit_base_patch16_256", num_classes=d.num_classes).eval()
        else:
            model = build(profile).eval()
        comae = CoMAE(profile.comae, profile.grid, profile.tokens.dim)
        image = torch.empty(1, d.channels, d.image_size, d.image_size)
        predictor = TokenPredictor(N, profile.tokens.dim, profile.predictor)
        tokens, targets = torch.empty(1, N, profile.tokens.dim), torch.arange(N)[None]
        autoencoder = KL16().encoder if profile.tokens.kind == "kl16" else None
    few = torch.arange(keep_count(N, rate))[None]
    return {"all": cost.macs(model, image), "kept": cost.macs(model, image, few),
            "ranking": cost.macs(comae.weights, tokens, targets),
            "measured": (N + 1) * cost.macs(predictor, tokens, torch.zeros_like(tokens[..., 0], dtype=torch.bool)),
            "tokenizer": cost.macs(autoencoder, image) if autoencoder else 0}  # fmt: skip


def end_to_end(b: Mapping[str, int]) -> float:
    """Ranking and first patches in units of the classifier on the whole image."""
    return (b["kept"] + b["ranking"] + b["tokenizer"]) / b["all"]


def affordable(b: Mapping[str, int], num_patches: int) -> int:
    """How many encoder passes a ranking may take before the first patches cost more than the whole image. b: of `bill`, whose
    ranking has one pass for each patch."""
    return int((b["all"] - b["kept"] - b["tokenizer"]) // (b["ranking"] / num_patches))


def cost_table(bills: Mapping[str, Mapping[str, int]], rate: float = 0.78) -> pd.DataFrame:
    """What "95.16 % less" becomes: attention only, the whole classifier, and with the ranking; one row per size."""
    rows = []
    for name, b in bills.items():
        rows.append({"size": name, "whole image, MMAC": f"{b['all'] / 1e6:,.1f}",
                     "saved in attention": f"{cost.attention_saving(round(100 * (1 - rate)), 100):.2%}",
                     "saved in the classifier": f"{cost.saving(b['kept'], b['all']):.1%}",
                     "ranking (and tokens) / whole": f"{(b['ranking'] + b['tokenizer']) / b['all']:.1f}×",
                     "end to end / whole": f"{end_to_end(b):.1f}×"})  # fmt: skip
    return pd.DataFrame(rows)


def order_costs(b: Mapping[str, int]) -> pd.DataFrame:
    """What every registered order costs per image before the classifier can start, in units of classifying the whole image:
    the ranking of CoMAE, a pass of the classifier, or no multiply-adds worth counting. b: of `bill`."""
    price = {"comae": b["ranking"] + b["tokenizer"], "measured": b["measured"] + b["tokenizer"], "classifier": b["all"], "pixels": 0, "nothing": 0}
    rows = []
    for name, order in registered().items():
        if order.settings == "looking":  # notebook 6 counts those
            continue
        macs = 0 if order.shared else price.get(order.needs)  # how often an order asks the predictor, only it knows
        rows.append({"order": name, "computed from": order.needs, "looks at unseen patches": "yes" if order.looks else "no",
                     "one for all images": "yes" if order.shared else "no",
                     "cost / whole image": "not counted" if macs is None else f"{macs / b['all']:.1f}×"})  # fmt: skip
    return pd.DataFrame(rows)


def throughput(profile: str | Profile, rounds: int = 7) -> pd.DataFrame:
    """Images per second of the profile's classifier at each number of kept patches, measured once and stored.

    One thread; the numbers of patches take turns and the fastest round counts, the one least disturbed. Columns:
    kept, share, images_per_s, gain (over all patches, measured) and ideal (by multiply-adds).
    """
    profile = get_profile(profile)
    N, d, batch = profile.num_tokens, profile.data, min(64, profile.classifier.batch_size)
    counts = [k for k in spread_counts(N) if k >= N // 16]
    config = versioned("throughput", 1, {
        "classifier": as_dict(profile.classifier), "image": [d.channels, d.image_size, profile.tokens.patch_size],
        "counts": counts, "rounds": rounds, "batch": batch})  # fmt: skip

    def compute(_):
        model, generator = build(profile).eval(), seeded(70)
        images = torch.randn(batch, d.channels, d.image_size, d.image_size, generator=generator)
        ranking = torch.rand(batch, N, generator=generator).argsort(1)
        with threads(1):
            speed = [[cost.throughput(lambda x, k=k: model(x, ranking[:, :k]), images, repeats=3, warmup=1)
                      for k in counts] for _ in range(rounds)]  # fmt: skip
        return {"images_per_s": torch.tensor(speed, dtype=torch.float64)}, None

    best = load_or_compute("throughput", config, compute).tensors["images_per_s"].max(0).values
    work = torch.tensor([float(macs_at(profile, k)) for k in counts])
    return pd.DataFrame({"kept": counts, "share": [k / N for k in counts], "images_per_s": best.numpy(),
                         "gain": (best / best[-1]).numpy(), "ideal": (work[-1] / work).numpy()})  # fmt: skip


def macs_at(profile: Profile, kept: int) -> int:
    """Multiply-adds of the profile's classifier on `kept` patches of one image."""
    with torch.device("meta"):
        model = build(profile).eval()
        image = torch.empty(1, profile.data.channels, profile.data.image_size, profile.data.image_size)
    return cost.macs(model, image, torch.arange(kept)[None])


def looking_costs(profile: Profile, rate: float, batch: int = 32, rounds: int = 5) -> pd.DataFrame:
    """What an order and the classifier on the first patches cost together, in units of the classifier on the whole image: counted
    in multiply-adds, and measured, images per second of a batch on one thread, all in one run, the fastest of `rounds`.

    Networks are untrained: what they compute does not change what it costs."""
    N, K, c = profile.num_tokens, keep_count(profile.num_tokens, rate), profile.looking
    g, d, b = seeded(71), profile.data, bill(profile, rate)
    images = torch.randn(batch, d.channels, d.image_size, d.image_size, generator=g)
    tokens = torch.randn(batch, N, profile.tokens.dim, generator=g)
    model, shape = build(profile).eval(), (profile.grid, profile.grid)
    predictor = TokenPredictor(N, profile.tokens.dim, profile.predictor).eval()
    cached = CachedPredictor(N, profile.tokens.dim, profile.predictor).eval()
    comae = CoMAE(profile.comae, profile.grid, profile.tokens.dim).eval()
    ranker = OnePass(profile.grid, profile.tokens.dim, profile.onepass).eval()
    chance = torch.rand(batch, N, generator=g).argsort(1)
    seen = torch.zeros(1, N, dtype=torch.bool)

    def active(per_step: int):
        return lambda: looking_order(predictor, tokens, "active", c.width, per_step, K)

    def active_cached(per_step: int, images: int = batch):
        return lambda: looking_order(cached, tokens[:images], CACHED, c.width, per_step, K)

    def of_graph(graph):
        return lambda: pipeline.ranked(graph(tokens), profile)

    with torch.no_grad():
        a_pass, one_pass = cost.macs(predictor, tokens[:1], seen), cost.macs(ranker, tokens[:1])
    rows = {"whole image": (None, 0), "one order for all": (lambda: chance, 0),
            "collapse, exact": (of_graph(lambda x: comae.dependencies(x, profile.ranking.chunk_bytes)), b["ranking"]),
            "measured, one pass": (of_graph(lambda x: ranker(x).clamp(0, 1)), one_pass),
            "coverage": (lambda: coverage_order(bilateral_graph(mean_colours(images, shape), shape, c.near, c.alike)), N * N * K)}  # fmt: skip
    steps = [p for p in (1, 2, 4, 8) if p <= K]
    rows |= {f"active, {p} a step": (active(p), -(-K // p) * a_pass) for p in steps}
    rows |= {f"active cached, {p} a step": (active_cached(p), cost.macs(active_cached(p, 1))) for p in steps}

    def run(order) -> None:
        model(images) if order is None else model(images, order()[:, :K])

    def compute(_):
        with threads(1):  # all take turns, and the fastest round counts
            found = [[cost.throughput(lambda _, o=order: run(o), images, repeats=1, warmup=0) for order, _ in rows.values()]
                     for _ in range(rounds)]  # fmt: skip
        return {"images_per_s": torch.tensor(found, dtype=torch.float64)}, None

    config = {"orders": list(rows), "kept": K, "batch": batch, "rounds": rounds, "image": [d.channels, d.image_size]}
    config |= {k: as_dict(getattr(profile, k)) for k in ("classifier", "tokens", "predictor", "comae", "onepass", "looking")}
    found = load_or_compute("throughput", versioned("order-throughput", 1, config), compute).tensors["images_per_s"]
    speed = dict(zip(rows, found.max(0).values.tolist(), strict=True))
    whole = speed["whole image"]
    return pd.DataFrame([{"order": name, "order / whole image": f"{macs / b['all']:.2f}×",
                          "with the classifier": f"{(macs + (b['kept'] if order else b['all']) + b['tokenizer'] * (order is not None)) / b['all']:.2f}×",
                          "images per second": f"{speed[name]:.0f}", "time / whole image": f"{whole / speed[name]:.2f}×"}
                         for name, (order, macs) in rows.items()])  # fmt: skip
