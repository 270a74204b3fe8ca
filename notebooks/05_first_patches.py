# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: -jupytext.text_representation
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5 · Classification from the first patches
#
# > *How few patches does a classifier need, and does it matter which ones come first?*
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/YOUR_ACCOUNT/cop/blob/main/notebooks/05_first_patches.ipynb)
# [![Open in Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/YOUR_ACCOUNT/cop/main?labpath=notebooks/05_first_patches.ipynb)
#
# | | |
# |---|---|
# | **Paper** | Sections 3.4, 4.4 and 4.5, Fig. 8 and Table 5 of [*The Collapse of Patches*](https://arxiv.org/abs/2511.22281) |
# | **Time** | under a minute with the released artefacts, half an hour more when everything is trained |
# | **Hardware** | a laptop; two cores are enough |
# | **Before** | [3 · The collapse order](03_collapse_order.ipynb) |
# | **Next** | your own photographs: `python -m cop rank photo.jpg` |
#
# **You will see** five classifiers that are shown fewer and fewer patches; the same classifier trained along
# other orders, which tells what the *collapse* order is worth; one network tested along all of them; and the bill:
# what is saved, and what the ranking costs. Text in quotation marks is the paper's; the rest is ours.

# %% tags=["colab"]
import sys

if "google.colab" in sys.modules:  # a clean runtime of Colab: fetch the project and install it; elsewhere nothing happens
    get_ipython().system("git clone -q --depth 1 https://github.com/YOUR_ACCOUNT/cop.git /content/cop")
    get_ipython().system(f"{sys.executable} -m pip install -q -e /content/cop")
    sys.path.insert(0, "/content/cop")

# %% tags=["parameters"]
profile: str = "demo"  # smoke | demo | natural | paper
seed: int = 0  # seed of training and of the random orders
rate: float = 0.78  # mask rate at which orders are compared; the paper's knee
example: int = 0  # which of the test images that CViT gets right is drawn
rounds: int = 7  # measurements of throughput at each number of patches; the fastest counts
brief: bool = False  # True: without the further controls; seeds other than 0 run so, in half the time
device: str = "auto"  # auto | cpu | cuda

# %%
import numpy as np
import pandas as pd
import torch

from cop.lessons import classification, exercises, ordering, pipeline, tables
from cop.lessons import tables_classification as tc
from cop.measure import metrics
from cop.profiles import for_classifiers
from cop.show import figures, report, widgets
from cop.show import figures_classification as fc

pd.options.display.max_colwidth = None  # whole sentences in tables

# %%
out = report.Report("05_first_patches", profile, seed, rate=rate, example=example, rounds=rounds, brief=brief, device=device)
config = for_classifiers(profile)
data = pipeline.load_data(config, "test")
N, G = config.num_tokens, config.grid
rates = classification.RATES
f"{len(data)} test images of {config.data.classes} classes, {N} patches each"

# %% [markdown]
# ## A classifier that sees only the first patches
#
# > "it's intuitive to ask if such classifiers can maintain accurate when only high-rank (i.e. highly independent)
# > patches in the collapse order are present." (section 3.4)
#
# **CViT** is a ViT from whose sequence all but the first $K$ patches are dropped; in training $K$ changes from batch
# to batch, mostly large. Its rivals differ in what they are trained and tested on:
#
# | | trained on | tested along |
# |---|---|---|
# | ViT | whole images | random orders |
# | ViT + C | the same weights | collapse orders |
# | RViT | random patches | random orders |
# | CViT | the first patches of collapse orders | collapse orders |
# | DynamicViT | prunes inside the network, by its own predictors | itself |
#
# The paper fine-tunes a ViT-B/16. Here four of them start from the same random weights and see the same batches;
# DynamicViT is fine-tuned from the trained ViT, with that ViT as distillation teacher, as in the original paper.

# %%
tested = {"ViT": ("ViT", "random"), "DynamicViT": ("DynamicViT", None), "ViT+C": ("ViT", "collapse"),
          "RViT": ("RViT", "random"), "CViT": ("CViT", "collapse")}
systems = classification.all_hits(config, tested, seed, device)
curves = {name: h.curve() for name, h in systems.items()}
knees = {name: metrics.knee(rates, y) for name, y in curves.items()}

# %%
fig = fc.fig8_accuracy(rates, curves, knees, 1 / config.data.classes)
out.figure(fig, "fig8", "Top-1 accuracy of ViT, DynamicViT, ViT+C, RViT and CViT against the mask ratio, with a dot at "
           "the knee of each curve and a line at the paper's 78 percent.", pd.DataFrame({"mask rate": rates} | curves))

# %%
out.record(**{f"top{t}_{n}_{r:.0%}": h.at(r, t).mean() for n, h in systems.items() for r in classification.SHOWN for t in (1, 5)},
           **{f"auc_{n}": h.area().mean() for n, h in systems.items()},
           **{f"knee_{n}": k for n, k in knees.items() if k is not None})
table = tc.table5(systems, seed, out.seeds())
out.table(table, "tab5", "Table 5: top-1 and top-5 accuracy in per cent of five systems at mask rates 0, 30, 50 and 78 "
          "percent, mean over all mask rates (AuC) and knee; intervals over test images, over seeds, and the paper's rows.")

# %% [markdown]
# Intervals of accuracies are Wilson's over the test images, those of the AuC Student's.
#
# **Where is the knee?** Kneedle stretches a curve to the unit square and takes the point farthest from the diagonal, so the knee
# depends on where the curve ends. The paper's ends at 99 %. The same curves, cut at lower mask rates:

# %%
knee_ends = [round(0.89 + i / 100, 2) for i in range(11)]
cut = {n: [metrics.knee(rates[: rates.index(e) + 1], y[: rates.index(e) + 1]) for e in knee_ends] for n, y in curves.items()}
fig = fc.knee_range(knee_ends, cut)
out.figure(fig, "knee_range", "The knee of each classifier's accuracy curve against the mask rate at which the curve ends, from 89 to "
           "99 percent, with a line where the knee is the end itself.", pd.DataFrame({"end": knee_ends} | cut))

# %% [markdown]
# A curve whose knee moves along with its end has no knee of its own: "up to 78 % costs little" is then a statement about the range.
#
# At 0 % ViT and ViT + C *must* agree: same weights, no patch dropped. The paper prints 82.91 and 82.84.
# DynamicViT's "mask rate" is the share that *each* of its three stages drops: at 78 % and 64 patches it goes on with
# 14, then 3 and then 0 patches. Below, the same network pruned so that it carries, averaged over its blocks, as many
# tokens as CViT. It cannot go below a quarter, since its first quarter sees everything.

# %%
matched = classification.hits(config, "DynamicViT", seed=seed, matched=True, device=device)
shown = [r for r in (0.0, 0.3, 0.5, 0.72) if classification.keep_count(N, r) in matched.counts]
pd.DataFrame([{"mask rate": f"{r:.0%}", "DynamicViT, tokens matched": f"{matched.at(r).mean():.1%}",
               "published rule": f"{systems['DynamicViT'].at(r).mean():.1%}", "CViT": f"{systems['CViT'].at(r).mean():.1%}"}
              for r in shown])

# %% [markdown]
# ## Is it the collapse order?
#
# In the paper CViT beats ViT, but ViT was never trained with missing patches, and RViT never knows *which* patches come. Any
# **fixed habit** of choosing patches might do what the collapse order does. So the same network is trained and tested
# in exactly CViT's way along other orders: the mean of all collapse orders (one order for every image, so it knows
# nothing of the image), the collapse order backwards, and plain patch variance; and, with seed 0, two more that are the
# same for every image and know nothing of any image (centre-out and low-discrepancy, which spreads evenly), in-strength
# (CoMAE without PageRank), and the attention of the trained ViT.

# %%
own = {"collapse": systems["CViT"], "random": systems["RViT"]}
controls = {o: (o, None) for o in (*classification.controls(brief), "coarser")}
own |= classification.all_hits(config, controls, seed, device)
coarse = own.pop("coarser").top1[0]
at = {n: metrics.share_interval(h.at(rate)) for n, h in own.items()}
at["coarser patches"] = metrics.share_interval(coarse)

# %%
drawn = {n: h.curve() for n, h in own.items()}
fig = fc.order_controls(rates, drawn, at, rate, "Trained and tested along one order", f"{rate:.0%} masked", (0.25, coarse.mean()))
out.figure(fig, "controls", "Left: top-1 accuracy against mask ratio of one network per order, trained and tested along "
           "it. Right: accuracies with 78 percent masked, with intervals, best on top.", pd.DataFrame({"mask rate": rates} | drawn))

# %% [markdown]
# A network that is trained along an order can gain in two ways: the order's first patches *show* more of the image, and the
# network can *rely* on where they come from. Which of the two it is, the next section separates; and one seed is one draw of
# the orders that come from CoMAE (table by seed below).
#
# The star is a plain ViT on whole images with patches of twice the side: a quarter of the tokens and no ranking. Beside the
# ViT on all fine patches, trained for the same steps:

# %%
pd.DataFrame([{"system": n, "tokens": k, "top-1": f"{v:.1%} [{low:.1%}, {high:.1%}]"} for n, k, (v, low, high) in (
    ("ViT, fine patches, all of them", N, metrics.share_interval(systems["ViT"].at(0.0))),
    ("ViT, coarser patches, all of them", N // 4, at["coarser patches"]))])  # fmt: skip

# %% [markdown]
# If coarser patches are ahead even of *all* fine ones, fewer tokens cannot be the reason that they do well; that the fine-patch
# networks are not trained to the end may be. Then the star says that this budget suits coarse patches, not that patches should be coarse.
#
# ## One network, many orders
#
# Each network above had its own training. Keep the network and change the order only: **RViT**, which was trained on random
# subsets, is tested along all of them. No training can adapt to an order here, but the comparison has a bias of its own: a
# prefix that lies all in one place, such as the border, is unlike any random subset, so RViT may fail on it for being unusual and
# not for being empty. The judge of [notebook 1](01_patch_entropy.ipynb) and its predictor share that bias.

# %%
one = classification.all_hits(config, {o: ("RViT", o) for o in ("collapse", "random", *classification.controls())}, seed, device)
at_one = {n: metrics.share_interval(h.at(rate)) for n, h in one.items()}
drawn = {n: h.curve() for n, h in one.items()}
fig = fc.order_controls(rates, drawn, at_one, rate, "One RViT, tested along each order", f"{rate:.0%} masked")
out.figure(fig, "cross", "Left: top-1 accuracy of one network trained on random patches, tested along nine orders. "
           "Right: its accuracies with 78 percent masked, with intervals.", pd.DataFrame({"mask rate": rates} | drawn))

# %% [markdown]
# How much of what an order gains over random masks does RViT, never trained along it, gain as well? That part is what
# the patches show (coverage of the image); only the rest is training along the order, be it that a network can rely on
# positions or that RViT is at a loss with them.

# %%
gain = {n: 100 * np.array([at[n].value - at["random"].value, at_one[n].value - at_one["random"].value]) for n in own if n != "random"}
pd.DataFrame([{"order": n, "gain of its own training over random, points": f"{trained:+.1f}", "of it RViT has": f"{tested:+.1f}",
               "training along it adds": f"{trained - tested:+.1f}"} for n, (trained, tested) in gain.items()])  # fmt: skip

# %% [markdown]
# And the other way round: does a network that was trained along one order still work when it is tested along another?

# %%
grid = {(s, o): classification.hits(config, s, o, seed, device=device)
        for s in ("ViT", "RViT", "CViT") for o in ("random", "collapse")}
pd.DataFrame([{"trained": s} | {f"tested {o}": f"{grid[s, o].at(rate).mean():.1%}" for o in ("random", "collapse")}
              for s in ("ViT", "RViT", "CViT")])

# %% [markdown]
# ## The differences, on the same images
#
# Two systems are compared image by image. Brackets hold the 95 % interval of each difference in points, by itself. A star marks
# differences that remain after Holm's correction; the family is every cell of this table (p-values: McNemar's exact test, of the
# AuC Student's). All of it covers the choice of test images, not the luck of training; that is what `make seeds` is for.

# %%
pairs = {f"own training: collapse − {o}": (own["collapse"], h) for o, h in own.items() if o != "collapse"}
pairs |= {f"one RViT: collapse − {o}": (one["collapse"], h) for o, h in one.items() if o != "collapse"}
pairs |= {"one ViT: collapse − random (C9)": (systems["ViT+C"], systems["ViT"])}
differences = tc.compare(pairs)
out.table(tc.show_comparisons(differences), "comparisons", "Paired differences of top-1 accuracy in points between "
          "the collapse order and each other order, at four mask rates and in the AuC, with 95 percent intervals.")

# %%
out.record(**{f"top1_own_{n}_{rate:.0%}": v.value for n, v in at.items()},
           **{f"top1_one_{n}_{rate:.0%}": v.value for n, v in at_one.items()},
           **{f"auc_own_{n}": h.area().mean() for n, h in own.items()}, **{f"auc_one_{n}": h.area().mean() for n, h in one.items()})
rows = {f"own training: {n}": f"top1_own_{n}_{rate:.0%}" for n in at} | {f"one RViT: {n}": f"top1_one_{n}_{rate:.0%}" for n in at_one}
for kind, all_of in (("own training", own), ("one RViT", one)):
    short = "own" if all_of is own else "one"
    rows |= {f"{kind}: collapse − {n}": (f"top1_{short}_collapse_{rate:.0%}", f"top1_{short}_{n}_{rate:.0%}")
             for n in ("random", "mean order", "variance", "reversed")}
seeds = out.seeds()
out.table(seeds.table(rows, 100, 1), "classification_seeds", "Top-1 accuracy in per cent with 78 "
          "percent masked per order, trained along it and tested with one RViT, for every seed on record, and differences.")

# %%
p = differences[(differences["at"] == f"{rate:.0%}")][["comparison", "difference", "p", "holm"]]
shown = {"difference": "{:+.1f}".format, "p": "{:.2g}".format, "holm": "{:.2g}".format}
p.assign(**{k: p[k].map(f) for k, f in shown.items()}).rename(columns={"p": "McNemar p", "holm": "p (Holm)"})

# %% [markdown]
# ## What it costs
#
# > "the computational cost is reduced by 95.16% from the $O(n^2)$ complexity of attention process." (section 4.5)
#
# That is $1-0.22^2$, the attention's quadratic term alone. Three accounts of the same thing, for our classifier and
# for the paper's ViT-B/16 at 256 px. The last one adds what has to happen *before* the classifier can start: $N$
# encoder passes of CoMAE, and at paper scale the autoencoder whose latents it ranks. The paper gives CoMAE's encoder two
# widths, 64 in section 4 and 256 in section 8, and the ranking's cost depends on it: both are counted.

# %%
paper = pipeline.get_profile("paper")
narrow = pipeline.replace(paper, comae=pipeline.replace(paper.comae, enc_dim=64, dec_dim=256))
sizes = {config.name: config} | {"paper, section 8": paper, "paper, section 4": narrow}
bills = {name: tc.bill(size, rate) for name, size in sizes.items()}
tc.cost_table(bills, rate)

# %% [markdown]
# An order that looks at no image costs nothing here, one of CoMAE its ranking. What has to be done per image before the
# classifier of this profile can start, along each order:

# %%
tc.order_costs(bills[config.name])

# %%
speed = tc.throughput(config, rounds)
bars = {n: {"whole image": 1.0, "first patches": b["kept"] / b["all"], "ranking": (b["ranking"] + b["tokenizer"]) / b["all"],
            "end to end": (b["kept"] + b["ranking"] + b["tokenizer"]) / b["all"]} for n, b in bills.items()}
fig = fc.cost_chart(bars, speed["share"], speed["gain"], speed["ideal"])
out.figure(fig, "cost", "Left: multiply-adds of the classifier on all and on the first patches, of the ranking, and end "
           "to end, for this profile and the paper's size with either width of CoMAE. Right: measured throughput gain against kept share.", speed)

# %% [markdown]
# ## On photographs
#
# The profile `natural` repeats this notebook on Tiny-ImageNet (64 px, 256 patches): 20 of its 200 classes, every tenth
# WordNet id, and the same small network from scratch, 400 steps on 1,800 images; chance is 5 %. Accuracy with 22 % of the
# patches, beside the demo's:

# %%
both = {"clothes (demo)": "demo", "photographs (natural)": "natural"}
out.table(out.beside(both, rows, 100, 1), "photographs_classified", "Top-1 accuracy in per cent with 78 percent "
          "masked, of clothes and of photographs: per order, trained along it and tested with one RViT, and differences.")

# %% [markdown]
# On photographs compare the collapse order with the mean order first: where every image has the same order
# ([notebook 3](03_collapse_order.ipynb)) they are one order, and there is nothing of the image in it to gain from. One seed and short
# trainings: a column without intervals shows no more than one run.
#
# ## See for yourself
#
# One image at more and more of its first patches, with CViT's guess at each (teal: right). It is the first test image
# that CViT gets right when it sees everything: chosen by a rule, not by its looks.

# %%
model, _ = classification.classifier(config, "CViT", seed, device)
order = ordering.ranking_of(config, "test", "collapse", seed, device)
ks = sorted({max(1, round(N * f)) for f in (0.03, 0.08, 0.14, 0.22, 0.36, 0.6, 1.0)})
known = np.flatnonzero(systems["CViT"].at(0.0))
pick = int(known[example]) if len(known) > example else example
image, label = data.batch([pick])
said = tc.guesses(model, image, int(label), order[pick], ks, data.class_names)

# %%
fig = fc.first_patches(figures.to_array(image)[0], order[pick].numpy(), G, ks, said)
out.figure(fig, "first_patches", f"A test image ({data.class_names[int(label)]}) revealed in collapse order in "
           f"{len(ks)} steps, with the class that CViT guesses at each and its probability.",
           pd.DataFrame(said, columns=["guess", "probability", "right"]).assign(patches=ks))

# %% [markdown]
# The same for any test image and any number of patches: in JupyterLab, Colab or Binder run the cell and move the slider,
# or press Play. Elsewhere its first picture stands here.

# %%
widgets.PatchSlider(model, data, order, pick)

# %% [markdown]
# ## Paper vs ours

# %%
total = {n: f"{(b['kept'] + b['ranking'] + b['tokenizer']) / b['all']:.1f}×" for n, b in bills.items()}
saved = f"classifier {1 - bills['paper, section 8']['kept'] / bills['paper, section 8']['all']:.0%} less"
asked = {"CViT ≥ RViT, most at 78 % (C8)": ("+3.3 points at 78 %", "own training: collapse − random", ("own_collapse", "own_random")),
         "ViT+C > ViT at 78 % (C9)": ("+8.7 points", "one ViT: collapse − random (C9)", ("ViT+C", "ViT")),
         "better than its own mean order": ("not shown", "own training: collapse − mean order", ("own_collapse", "own_mean order")),
         "better than patch variance": ("not shown", "own training: collapse − variance", ("own_collapse", "own_variance")),
         "better than its reversal": ("not shown", "own training: collapse − reversed", ("own_collapse", "own_reversed")),
         "shows RViT, which knows no order, more than random": ("not shown", "one RViT: collapse − random", ("one_collapse", "one_random"))}

# %%
claims = [{"claim": claim, "paper": paper, "this run": tc.verdict(differences, row, "78%"),
           "all seeds": tables.over_seeds(seeds, tuple(f"top1_{n}_78%" for n in pair), 1, 1, 100)} for claim, (paper, row, pair) in asked.items()]
knee = " → ".join("none" if k is None else f"{k:.0%}" for k in (cut["CViT"][0], cut["CViT"][-1]))
knee = f"{knee}, for a curve that ends at {knee_ends[0]:.0%} → {knee_ends[-1]:.0%}"
claims += [{"claim": "the knee of CViT lies near 78 % (C10)", "paper": "78 %", "this run": knee, "all seeds": seeds.cell("knee_CViT", 100, 0)},
           {"claim": "95.16 % less computation (C11)", "paper": "attention only", "all seeds": "–", "this run": f"{saved}; end to end, of "
            f"the whole image: {total['paper, section 4']} (section 4) to {total['paper, section 8']} (section 8)"}]  # fmt: skip
pd.DataFrame(claims)

# %% [markdown]
# **How to read it, with our small CoMAE on small grey images.** *This run* is one seed, and its verdicts are corrected by Holm's
# method within the table of differences; *all seeds* has the mean difference in points, its interval, and in how many
# runs CViT is ahead. A claim that changes its sign from seed to seed depends on the run, because the order does
# ([notebook 3](03_collapse_order.ipynb)).
#
# - *Better than random* (C8) is the paper's claim; it does not say that the collapse order is special.
# - *Better than its own mean order*, one for all images, would say that the order of the single image matters. Where the mean order
#   is as good, any fixed habit does.
# - *Better than its reversal?* If the order matters, reversing it should cost accuracy.
# - *Better than patch variance* and than coarser patches, which cost nothing or less? Else there are cheaper ways.
# - *More for RViT* asks what the first patches show to a network that was never trained along the order, with the bias said above.
#
# What CoMAE relies on to reconstruct need not be what a classifier needs. The paper's masks are 256 latents of photographs,
# its classifier is pretrained, its CoMAE trained for 512 epochs. None of this is refuted for that scale; but the
# controls that decide it (mean order, variance, reversal, a second seed) are missing there.
#
# ## Exercises
#
# Replace the dots and run the cell: it says whether you are right. A cell with a solution follows, but not in the
# copies that `make student` writes.
#
# 1. The AuC is the mean of top-1 over the hundred mask rates, in per cent. Compute CViT's from `curves["CViT"]`.

# %% tags=["exercise"]
answer = ...
exercises.check(answer, metrics.auc(curves["CViT"]))

# %% tags=["solution"]
answer = 100 * np.mean(curves["CViT"])
exercises.check(answer, metrics.auc(curves["CViT"]))

# %% [markdown]
# 2. McNemar's test looks only at images that exactly one of two systems gets right. At 78 % masked `a` says of every
#    image whether CViT is right, `b` the same of RViT. How many does only CViT get right, how many only RViT?

# %% tags=["exercise"]
a, b = (torch.from_numpy(systems[n].at(0.78)) for n in ("CViT", "RViT"))
only_a, only_b = ..., ...
right = metrics.mcnemar(a, b)
exercises.check((only_a, only_b), (right["only_a"], right["only_b"]))

# %% tags=["solution"]
only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
exercises.check((only_a, only_b), (right["only_a"], right["only_b"]))

# %% [markdown]
# 3. `bills[config.name]` holds multiply-adds: of the classifier on the whole image (`all`) and on the first patches
#    (`kept`), of the ranking with its $N$ encoder passes, and of the tokenizer. How many passes may a ranking take
#    before the first patches cost more than the whole image?

# %% tags=["exercise"]
answer = ...
bill = bills[config.name]
budget, one_pass = bill["all"] - bill["kept"] - bill["tokenizer"], bill["ranking"] / N
exercises.check(answer, lambda passes: passes * one_pass <= budget < (passes + 1) * one_pass)

# %% tags=["solution"]
answer = budget // one_pass
exercises.check(answer, lambda passes: passes * one_pass <= budget < (passes + 1) * one_pass)

# %% [markdown]
# ## References
#
# Guo et al., arXiv 2511.22281 · Dosovitskiy et al., *An Image is Worth 16x16 Words*, ICLR 2021 · Rao et al.,
# *DynamicViT*, NeurIPS 2021 · Abnar and Zuidema, *Quantifying Attention Flow in Transformers*, ACL 2020 ·
# Satopää et al., *Finding a "Kneedle" in a Haystack*, 2011 · McNemar, Psychometrika 1947.
