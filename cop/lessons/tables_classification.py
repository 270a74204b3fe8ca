"""Tables of notebook 5: Table 5 beside the paper's, comparisons on the same images, and what the patches cost."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import timm
import torch
from torch import Tensor

from cop.lessons.classification import RATES, SHOWN, Hits, spread_counts
from cop.lessons.classifiers import build
from cop.measure import cost
from cop.measure.metrics import holm, knee, mcnemar, of_mean, share_interval
from cop.orders import registered
from cop.paper.comae import CoMAE
from cop.paper.cvit import keep_count
from cop.paper.kl16 import KL16
from cop.profiles import Profile, as_dict, get_profile
from cop.show.report import Seeds, paper_numbers
from cop.train.artefacts import load_or_compute, versioned
from cop.train.loop import seeded, threads

# --------------------------------------------------------------------------------------------------- accuracy


def table5(systems: Mapping[str, Hits], seed: int = 0, seeds: Seeds | None = None) -> pd.DataFrame:
    """Table 5: per system our accuracies in per cent with the half-width of their 95 % interval over test images, the
    AuC and the knee; under it the mean over the seeds on record with its interval, and the paper's row."""
    paper = {name: numbers for name, *numbers in paper_numbers()["table5"]["rows"]}
    measured = [(f"T{top}@{rate:.0%}", f"top{top}", rate, top) for rate in SHOWN for top in (1, 5)]
    rows = []
    for name, h in systems.items():
        found = [100 * np.array(share_interval(h.at(rate, top))) for *_, rate, top in measured]
        found.append(of_mean(h.area())[0])
        shown = [f"{v:.1f} ± {(high - low) / 2:.1f}" for v, low, high in found]
        bend = knee(RATES, h.curve())
        rows.append([name, f"seed {seed}", *shown, "–" if bend is None else f"{bend:.0%}"])
        if seeds:
            cells = [seeds.cell(f"{kind}_{name}_{rate:.0%}", 100, 1) for _, kind, rate, _ in measured]
            mean, _, n = seeds.interval(f"knee_{name}")
            rows.append(["", "all seeds", *cells, seeds.cell(f"auc_{name}", 1, 1), f"{mean:.0%}" if n else "–"])
        if name in paper:
            rows.append(["", "paper", *(f"{v:.2f}" for v in paper[name]), "78%" if name == "CViT" else "–"])
    return pd.DataFrame(rows, columns=["system", "", *(m[0] for m in measured), "AuC", "knee"])


def compare(pairs: Mapping[str, tuple[Hits, Hits]], rates: Sequence[float] = SHOWN) -> pd.DataFrame:
    """Difference of accuracy in points, first minus second, on the same images: at each rate and in the AuC.

    Columns: comparison, at, difference, low, high (Student's 95 % over the images' differences), p (exact McNemar; of the AuC
    Student's), holm (p corrected for all rows of this table, which are one family).
    """
    rows = []
    for name, (a, b) in pairs.items():
        for rate in rates:
            x, y = a.at(rate), b.at(rate)
            p = mcnemar(torch.from_numpy(x), torch.from_numpy(y))["p"]
            rows.append([name, f"{rate:.0%}", *of_mean(100.0 * x - 100.0 * y)[0], p])
        gap, p = of_mean(a.area() - b.area())
        rows.append([name, "AuC", *gap, p])
    table = pd.DataFrame(rows, columns=["comparison", "at", "difference", "low", "high", "p"])
    return table.assign(holm=holm(table["p"]))


def show_comparisons(table: pd.DataFrame) -> pd.DataFrame:
    """`compare` for a reader: one row per comparison, one column per rate; a star where the corrected p is below .05."""

    def cell(r) -> str:
        return f"{r.difference:+.1f} [{r.low:+.1f}, {r.high:+.1f}]{' *' if r.holm < 0.05 else ''}"

    shown = table.assign(text=[cell(r) for r in table.itertuples()])
    wide = shown.pivot(index="comparison", columns="at", values="text")
    return wide.loc[table["comparison"].unique(), table["at"].unique()].reset_index().rename_axis(columns=None)


def verdict(table: pd.DataFrame, comparison: str, at: str) -> str:
    """One row of `compare` in words, by its corrected p-value."""
    row = table[(table["comparison"] == comparison) & (table["at"] == at)].iloc[0]
    words = "no difference found" if not row.holm < 0.05 else "better" if row.difference > 0 else "worse"
    return f"{words}: {row.difference:+.1f} points [{row.low:+.1f}, {row.high:+.1f}]"


# ------------------------------------------------------------------------------------------------------- cost


def bill(profile: str | Profile, rate: float = 0.78) -> dict[str, int]:
    """Multiply-adds of one image at a profile's size, counted on the meta device: `all`, the classifier on the whole
    image; `kept`, on the patches left at a mask rate; `ranking`, all N weight vectors of CoMAE as this project computes
    them; `tokenizer`, the autoencoder's encoder (0 for raw patches)."""
    profile = get_profile(profile)
    d, N = profile.data, profile.num_tokens
    with torch.device("meta"):
        if profile.name == "paper":
            model = timm.create_model("cvit_base_patch16_256", num_classes=d.num_classes).eval()
        else:
            model = build(profile).eval()
        comae = CoMAE(profile.comae, profile.grid, profile.tokens.dim)
        image = torch.empty(1, d.channels, d.image_size, d.image_size)
        tokens, targets = torch.empty(1, N, profile.tokens.dim), torch.arange(N)[None]
        autoencoder = KL16().encoder if profile.tokens.kind == "kl16" else None
    few = torch.arange(keep_count(N, rate))[None]
    return {"all": cost.macs(model, image), "kept": cost.macs(model, image, few),
            "ranking": cost.macs(comae.weights, tokens, targets),
            "tokenizer": cost.macs(autoencoder, image) if autoencoder else 0}  # fmt: skip


def cost_table(bills: Mapping[str, Mapping[str, int]], rate: float = 0.78) -> pd.DataFrame:
    """What "95.16 % less" becomes: attention only, the whole classifier, and with the ranking; one row per size."""
    rows = []
    for name, b in bills.items():
        end = b["kept"] + b["ranking"] + b["tokenizer"]
        rows.append({"size": name, "whole image, MMAC": f"{b['all'] / 1e6:,.1f}",
                     "saved in attention": f"{cost.attention_saving(round(100 * (1 - rate)), 100):.2%}",
                     "saved in the classifier": f"{cost.saving(b['kept'], b['all']):.1%}",
                     "ranking (and tokens) / whole": f"{(b['ranking'] + b['tokenizer']) / b['all']:.1f}×",
                     "end to end / whole": f"{end / b['all']:.1f}×"})  # fmt: skip
    return pd.DataFrame(rows)


def order_costs(b: Mapping[str, int]) -> pd.DataFrame:
    """What every registered order costs per image before the classifier can start, in units of classifying the whole image:
    the ranking of CoMAE, a pass of the classifier, or no multiply-adds worth counting. b: of `bill`."""
    price = {"comae": b["ranking"] + b["tokenizer"], "classifier": b["all"], "pixels": 0, "nothing": 0}
    rows = []
    for name, order in registered().items():
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


# --------------------------------------------------------------------------------------------------- one image


@torch.no_grad()
def guesses(model, image: Tensor, label: int, ranking: Tensor, ks: Sequence[int], class_names: Sequence[str]) -> list:
    """What the classifier says of one image (1, C, H, W) at its first k patches: [(class, probability, right?)]."""
    found = []
    for k in ks:
        p, y = model(image, ranking[None, :k]).softmax(-1)[0].max(0)
        found.append((class_names[int(y)], float(p), int(y) == label))
    return found
