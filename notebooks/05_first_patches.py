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

import cop
from cop.lessons import classification, exercises
from cop.lessons import first_patches as lesson
from cop.measure import metrics

pd.options.display.max_colwidth = None  # whole sentences in tables

# %%
out, config = lesson.start(profile, seed, rate=rate, example=example, rounds=rounds, brief=brief, device=device)
data, N = cop.load_data(config, "test"), config.num_tokens
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

# %%
lesson.fig8(out, systems, 1 / config.data.classes)

# %%
lesson.tab5(out, systems)

# %% [markdown]
# Intervals of accuracies are Wilson's over the test images, those of the AuC Student's.
#
# **Where is the knee?** Kneedle stretches a curve to the unit square and takes the point farthest from the diagonal, so the knee
# depends on where the curve ends. The paper's ends at 99 %. The same curves, cut at lower mask rates:

# %%
lesson.knee_range(out, systems)

# %% [markdown]
# A curve whose knee moves along with its end has no knee of its own: "up to 78 % costs little" is then a statement about the range.
#
# At 0 % ViT and ViT + C *must* agree: same weights, no patch dropped. The paper prints 82.91 and 82.84.
# DynamicViT's "mask rate" is the share that *each* of its three stages drops: at 78 % and 64 patches it goes on with
# 14, then 3 and then 0 patches. Below, the same network pruned so that it carries, averaged over its blocks, as many
# tokens as CViT. It cannot go below a quarter, since its first quarter sees everything.

# %%
matched = classification.hits(config, "DynamicViT", seed=seed, matched=True, device=device)
lesson.matched_table(matched, systems, N)

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
at = lesson.intervals(own, rate) | {"coarser patches": metrics.share_interval(coarse)}
lesson.controls(out, own, at, coarse.mean(), rate)

# %% [markdown]
# A network that is trained along an order can gain in two ways: the order's first patches *show* more of the image, and the
# network can *rely* on where they come from. Which of the two it is, the next section separates; and one seed is one draw of
# the orders that come from CoMAE (table by seed below).
#
# The star is a plain ViT on whole images with patches of twice the side: a quarter of the tokens and no ranking. Beside the
# ViT on all fine patches, trained for the same steps:

# %%
fine = metrics.share_interval(systems["ViT"].at(0.0))
lesson.accuracies({"ViT, fine patches, all of them": (N, fine), "ViT, coarser patches, all of them": (N // 4, at["coarser patches"])})

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
lesson.cross(out, one, rate)

# %% [markdown]
# How much of what an order gains over random masks does RViT, never trained along it, gain as well? That part is what
# the patches show (coverage of the image); only the rest is training along the order, be it that a network can rely on
# positions or that RViT is at a loss with them.

# %%
lesson.gains(at, lesson.intervals(one, rate))

# %% [markdown]
# And the other way round: does a network that was trained along one order still work when it is tested along another?

# %%
grid = {(s, o): classification.hits(config, s, o, seed, device=device)
        for s in ("ViT", "RViT", "CViT") for o in ("random", "collapse")}
lesson.crossed(grid, rate)

# %% [markdown]
# ## The differences, on the same images
#
# Two systems are compared image by image. Brackets hold the 95 % interval of each difference in points, by itself. A star marks
# differences that remain after Holm's correction; the family is every cell of this table (p-values: McNemar's exact test, of the
# AuC Student's). All of it covers the choice of test images, not the luck of training; that is what `make seeds` is for.

# %%
differences = lesson.all_differences(systems, own, one)
lesson.comparisons(out, differences)

# %%
lesson.classification_seeds(out, own, one, at, rate)

# %%
lesson.p_values(differences, rate)

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
bills = lesson.bills(config, rate)
lesson.cost_table(bills, rate)

# %% [markdown]
# An order that looks at no image costs nothing here, one of CoMAE its ranking. What has to be done per image before the
# classifier of this profile can start, along each order:

# %%
lesson.order_costs(bills[config.name])

# %%
lesson.cost(out, bills, lesson.throughput(config, rounds))

# %% [markdown]
# ## On photographs
#
# The profile `natural` repeats this notebook on Tiny-ImageNet (64 px, 256 patches): 20 of its 200 classes, every tenth
# WordNet id, and the same small network from scratch, 400 steps on 1,800 images; chance is 5 %. Accuracy with 22 % of the
# patches, beside the demo's:

# %%
lesson.photographs_classified(out, list(at), list(one), rate)

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
order = lesson.ranking_of(config, "test", "collapse", seed, device)
pick = lesson.first_known(systems["CViT"], example)
lesson.first_patches(out, model, data, order, pick)

# %% [markdown]
# The same for any test image and any number of patches: in JupyterLab, Colab or Binder run the cell and move the slider,
# or press Play. Elsewhere its first picture stands here.

# %%
lesson.slider(model, data, order, pick)

# %% [markdown]
# ## Paper vs ours

# %%
lesson.verdicts(out, systems, differences, bills)

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
