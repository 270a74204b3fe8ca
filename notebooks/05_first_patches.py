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
# | **Time** | to read: 50 minutes; to run: under a minute with the released artefacts, two hours more when everything is trained |
# | **Hardware** | a laptop; two cores are enough |
# | **Before** | [3 · The collapse order](03_collapse_order.ipynb) |
# | **Next** | [6 · An order that looks](06_an_order_that_looks.ipynb) |
#
# **You will see** five classifiers that are shown fewer and fewer patches; the same classifier trained along
# other orders, which tells what the *collapse* order is worth; one network tested along all of them; and the bill:
# what is saved, and what the ranking costs. Text in quotation marks is the paper's; the rest is ours.
#
# **After this you can** show a ViT a few patches only, by dropping the others from its sequence; compare two classifiers on the same
# images and say whether they differ; and name the controls that an order of patches has to beat, and its price.
#
# **You need to know** vision transformers ([the paper](https://arxiv.org/abs/2010.11929),
# [built step by step](https://d2l.ai/chapter_attention-mechanisms-and-transformers/vision-transformer.html)), attention
# ([in pictures](https://jalammar.github.io/illustrated-transformer/), [line by line](https://nlp.seas.harvard.edu/annotated-transformer/))
# and what a collapse order is ([notebook 2](02_dependency_autoencoder.ipynb), [notebook 3](03_collapse_order.ipynb)). Terms are
# explained where they first occur, and in the [glossary](../book/glossary.md).

# %% tags=["colab"]
import sys

if "google.colab" in sys.modules:  # a clean runtime: fetch and install
    url = "https://github.com/YOUR_ACCOUNT/cop.git"
    run = get_ipython().system
    run(f"git clone -q --depth 1 {url} /content/cop")
    run(f"{sys.executable} -m pip install -q -e /content/cop")
    sys.path.insert(0, "/content/cop")

# %% tags=["parameters"]
profile: str = "demo"  # smoke | demo | natural | paper
seed: int = 0  # seed of training and of the random orders
rate: float = 0.78  # mask rate of the comparisons; the paper's knee
example: int = 0  # which of the test images that CViT gets right is drawn
rounds: int = 7  # measurements of throughput; the fastest counts
brief: bool = False  # True: without the further controls
device: str = "auto"  # auto | cpu | cuda

# %%
import math

import numpy as np
import pandas as pd
import torch

import cop
from cop.lessons import classification, exercises
from cop.lessons import first_patches as lesson
from cop.measure import metrics

pd.options.display.max_colwidth = None  # whole sentences in tables

# %%
out, config = lesson.start(
    profile,
    seed,
    rate=rate,
    example=example,
    rounds=rounds,
    brief=brief,
    device=device,
)
fold = lesson.first_fold(config)  # of the networks shown below
data, N = cop.load_data(fold, "test"), config.num_tokens
brief = brief or config.classifier.folds  # five networks an order
where = " in each of five folds" if config.classifier.folds else ""
f"{len(data)} test images{where}, {N} patches each"

# %% [markdown] tags=["slide"]
# ## The result first
#
# From the records of all seeds, with the mean over seeds and its 95 % interval:

# %% tags=["slide"]
lesson.in_short(out, rate)

# %% [markdown]
# ## A classifier that sees only the first patches
#
# > "it's intuitive to ask if such classifiers can maintain accurate when only high-rank (i.e. highly independent)
# > patches in the collapse order are present." (section 3.4)
#
# **CViT** is a ViT from whose sequence all but the first $K$ patches are dropped; in training the share of dropped patches, the
# [mask rate](../book/glossary.md#mask-rate), changes from batch to batch and is mostly small. Its rivals differ in what they are trained and tested on:
#
# | | trained on | tested along |
# |---|---|---|
# | ViT | whole images | random orders |
# | ViT + C | the same weights | collapse orders |
# | RViT | random patches | random orders |
# | CViT | the first patches of collapse orders | collapse orders |
# | DynamicViT | prunes inside the network, by its own predictors | itself |
#
# The paper fine-tunes a ViT-B/16. Here all start from one *base*, a ViT that was trained on whole images of the same data until more
# steps no longer helped (coarser patches have a base of their own, trained for as long), and see the same batches; DynamicViT is fine-tuned with the trained
# ViT as teacher for its [distillation](../book/glossary.md#distillation), as in the original paper.

# %% [markdown] tags=["slide"]
# ## By hand, once
#
# **Dropping patches.** The paper has no numbered equation for CViT; it is this: patches get their embedding and the embedding of their
# place, and those that are not kept leave the sequence before the first block. The [class token](../book/glossary.md#class-token) is put
# in front, and the rest is any ViT. With every fifth patch kept, it has the logits that the package has for `keep_idx`, and with all of
# them those of the whole image.

# %% tags=["slide"]
vit = classification.classifier(fold, "CViT", seed, device)[0]
image = data.batch([0])[0].to(vit.pos_embed.device)
keep = torch.arange(0, N, 5)[None]
with torch.no_grad():
    x = vit.patch_embed(image) + vit.pos_embed[:, 1:]  # (1, N, D)
    x = x[:, keep[0]]  # (1, K, D): dropped, not blackened
    x = torch.cat([vit.cls_token + vit.pos_embed[:, :1], x], dim=1)
    x = vit.norm(vit.blocks(x))  # (1, 1 + K, D)
    logits = vit.forward_head(x)
    assert logits.allclose(vit(image, keep), atol=1e-3)
    assert vit(image, torch.arange(N)[None]).equal(vit(image))
f"{N} patches, {keep.shape[1]} kept: a sequence of {x.shape[1]} tokens"

# %% [markdown] tags=["slide"]
# **The mask rate in training.** "A cosine annealing schedule favouring lower mask rates" is read as a draw for each batch:
# $r=0.99\,(1-\cos(\pi u/2))$ with $u$ uniform between 0 and 1. Solved for $u$, it says how many batches have a rate below $r$:
# $\frac{2}{\pi}\arccos(1-r/0.99)$. The package's draws have the same shares, drawn here as bars:

# %% tags=["slide"]
edges = np.append(np.arange(0, 1, 0.1), 0.99)
below = [2 / math.pi * math.acos(1 - r / 0.99) for r in edges]
share = np.diff(below)
even = (np.arange(10_000) + 0.5) / 10_000
drawn = [lesson.mask_rate_schedule(u) for u in even]
assert np.allclose(share, np.histogram(drawn, edges)[0] / 10_000, atol=1e-3)
for low, high, x in zip(edges[:-1], edges[1:], share, strict=True):
    print(f"{low:4.0%} to {high:3.0%}: {x:4.0%} {'█' * round(100 * x)}")

# %% [markdown] tags=["slide"]
# **[AuC](../book/glossary.md#auc) and [knee](../book/glossary.md#knee).** A curve of six points: the AuC is the mean of its accuracies.
# For the knee both axes are stretched to run from 0 to 1; the point that lies farthest above the falling diagonal is the knee.

# %% tags=["slide"]
rates = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
top1 = np.array([0.9, 0.9, 0.85, 0.8, 0.6, 0.1])
area = 100 * top1.sum() / len(top1)
stretched = (top1 - top1.min()) / (top1.max() - top1.min())
above = stretched - (1 - rates)
knee = rates[above.argmax()]
assert np.isclose(area, metrics.auc(top1))
assert knee == metrics.knee(rates, top1)
print(f"AuC {area:.1f} %, knee at {knee:.0%} masked")
columns = {"rate": rates, "top-1": top1, "above the diagonal": above}
pd.DataFrame(columns).round(2)

# %% [markdown] tags=["slide"]
# **[McNemar's test](../book/glossary.md#mcnemars-test)** has two numbers: on how many images only the first of two classifiers is right, and
# on how many only the second. If both were equally good, each of these images would be a throw of a coin; $p$ is the chance of a split at
# least as uneven.

# %% tags=["slide"]
first = torch.tensor([1, 1, 1, 1, 0, 1, 1, 0, 1, 1, 0, 1]).bool()
second = torch.tensor([1, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0, 0]).bool()
pairs = list(zip(first.tolist(), second.tolist(), strict=True))
only_first = pairs.count((True, False))
only_second = pairs.count((False, True))
n, fewer = only_first + only_second, min(only_first, only_second)
p = min(1, 2 * sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n)
assert np.isclose(p, metrics.mcnemar(first, second)["p"])
f"only the first {only_first}, only the second {only_second}: p = {p:.3f}"

# %% [markdown] tags=["slide"]
# > **In short.** Dropped patches leave the sequence, which saves their time. Low mask rates are trained more often than high ones. A curve
# > has a mean (AuC) and a bend (knee), and two classifiers are compared by the images on which they disagree.

# %% [markdown]
# ## Five classifiers
#
# <details><summary>Predict before you run: at which mask rate do ViT and ViT + C have exactly the same accuracy?</summary>
#
# At 0 %: they are the same weights, and no patch is dropped. Everywhere else they see different patches.
#
# </details>

# %%
tested = {
    "ViT": ("ViT", "random"),
    "DynamicViT": ("DynamicViT", None),
    "ViT+C": ("ViT", "collapse"),
    "RViT": ("RViT", "random"),
    "CViT": ("CViT", "collapse"),
}
systems = classification.all_hits(config, tested, seed, device)
curves = {name: h.curve() for name, h in systems.items()}

# %% tags=["slide"]
lesson.fig8(out, systems, 1 / config.data.classes)

# %%
lesson.tab5(out, systems)

# %% [markdown]
# Intervals of accuracies are [Wilson's](../book/glossary.md#wilsons-interval) over the test images, those of the AuC
# [Student's](../book/glossary.md#students-interval).
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
how = {"seed": seed, "matched": True, "device": device}
matched = classification.hits(config, "DynamicViT", **how)
lesson.matched_table(matched, systems, N)

# %% [markdown] tags=["slide"]
# > **In short.** ViT was never trained with missing patches, and RViT and CViT were: part of what separates them is that. Whether the
# > *order* matters is the next question.

# %% [markdown]
# ## Is it the collapse order?
#
# In the paper CViT beats ViT, but ViT was never trained with missing patches, and RViT never knows *which* patches come. Any
# **fixed habit** of choosing patches might do what the collapse order does. So the same network is trained and tested
# in exactly CViT's way along other orders: the [mean](../book/glossary.md#mean-order) of all collapse orders (one order for every image,
# so it knows nothing of the image), the collapse order backwards, and plain patch variance; and, with seed 0, two more that are the
# same for every image and know nothing of any image (centre-out and [low-discrepancy](../book/glossary.md#low-discrepancy-order), which
# spreads evenly), [in-strength](../book/glossary.md#in-strength) (CoMAE without PageRank), and the attention of the trained ViT.
#
# <details><summary>Predict before you run: how can an order that looks at no image beat one that does?</summary>
#
# By showing more of the image, if it spreads its patches and the other does not; and by being the same for all images, so that the
# network always knows where the patches come from.
#
# </details>

# %% tags=["slide"]
own = {"collapse": systems["CViT"], "random": systems["RViT"]}
names = (*classification.controls(brief), "coarser")
controls = {o: (o, None) for o in names}
own |= classification.all_hits(config, controls, seed, device)
coarse = own.pop("coarser").top1[0]
at = lesson.intervals(own, rate)
at["coarser patches"] = metrics.share_interval(coarse)
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
whole = {
    "ViT, fine patches, all of them": (N, fine),
    "ViT, coarser patches, all of them": (N // 4, at["coarser patches"]),
}
lesson.accuracies(whole)

# %% [markdown]
# If coarser patches are ahead even of *all* fine ones, fewer tokens cannot be the reason that they do well; that the fine-patch
# networks are not trained to the end may be. Then the star says that this budget suits coarse patches, not that patches should be coarse.

# %% [markdown] tags=["slide"]
# > **In short.** The order has to beat its own mean, its reversal, plain variance and coarser patches; random masks alone are no
# > sufficient control.

# %% [markdown]
# ## One network, many orders
#
# Each network above had its own training. Keep the network and change the order only: **RViT**, which was trained on random
# subsets, is tested along all of them. No training can adapt to an order here, but the comparison has a bias of its own: a
# prefix that lies all in one place, such as the border, is unlike any random subset, so RViT may fail on it for being unusual and
# not for being empty. The judge of [notebook 1](01_patch_entropy.ipynb) and its predictor share that bias.

# %% tags=["slide"]
names = ("collapse", "random", *classification.controls())
along = {o: ("RViT", o) for o in names}
one = classification.all_hits(config, along, seed, device)
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
grid = {
    (s, o): classification.hits(config, s, o, seed, device=device)
    for s in ("ViT", "RViT", "CViT")
    for o in ("random", "collapse")
}
lesson.crossed(grid, rate)

# %% [markdown] tags=["slide"]
# > **In short.** What one network gains along an order without training for it is what the patches show. The rest is training, and a
# > network can be at a loss with orders unlike those it was trained on.

# %% [markdown]
# ## The differences, on the same images
#
# Two systems are compared image by image. Brackets hold the 95 % interval of each difference in points, by itself. A star marks
# differences that remain after [Holm's correction](../book/glossary.md#holms-correction); the family is every cell of this table (p-values: McNemar's exact test, of the
# AuC Student's). All of it covers the choice of test images, not the luck of training; that is what `make seeds` is for.

# %%
differences = lesson.all_differences(systems, own, one)
lesson.comparisons(out, differences)

# %%
lesson.classification_seeds(out, own, one, at, rate)

# %%
lesson.p_values(differences, rate)

# %% [markdown] tags=["slide"]
# > **In short.** Look at the row of an order for the seeds: a difference whose sign changes from seed to seed is the luck of training,
# > however small its p-value in one run.

# %% [markdown]
# ## What it costs
#
# > "the computational cost is reduced by 95.16% from the $O(n^2)$ complexity of attention process." (section 4.5)
#
# That is $1-0.22^2$, the attention's quadratic term alone. Three accounts of the same thing, for our classifier and
# for the paper's ViT-B/16 at 256 px. The last one adds what has to happen *before* the classifier can start: $N$
# encoder passes of CoMAE, and at paper scale the autoencoder whose latents it ranks. The paper gives CoMAE's encoder two
# widths, 64 in section 4 and 256 in section 8, and the ranking's cost depends on it: both are counted.
#
# <details><summary>Predict before you run: the classifier sees 22 % of the patches. Is the whole computation cheaper or dearer?</summary>
#
# The classifier is cheaper, roughly in proportion to its patches. But to know which patches come first, CoMAE's encoder runs once for each patch of the whole
# image, and whether that eats the gain depends on its size: the bill below has both.
#
# </details>

# %%
bills = lesson.bills(config, rate)
lesson.cost_table(bills, rate)

# %% [markdown]
# An order that looks at no image costs nothing here, one of CoMAE its ranking. What has to be done per image before the
# classifier of this profile can start, along each order:

# %%
lesson.order_costs(bills[config.name])

# %% tags=["slide"]
lesson.cost(out, bills, lesson.throughput(config, rounds))

# %% [markdown] tags=["slide"]
# > **In short.** What is saved is saved in the classifier; what an order costs is paid before it starts. Fixed orders cost nothing.

# %% [markdown]
# ## On photographs
#
# The profile `natural` repeats this notebook on Tiny-ImageNet, on every tenth of its classes by WordNet id. All networks start from one
# base, which was trained on the other classes; in five folds every image is tested once, by networks that were not trained on it. The
# orders that only seed 0 has here are left out there ([notebook 6](06_an_order_that_looks.ipynb) compares them all at one mask rate).
# Accuracy with 22 % of the patches, beside the demo's:

# %%
photos = cop.get_profile("natural")
kinds = photos.data.num_classes // photos.classifier.class_step
print(f"{photos.data.image_size} px, {photos.num_tokens} patches, ", end="")
print(f"{kinds} classes, {photos.classifier.steps} steps; ", end="")
print(f"accuracy by chance {1 / kinds:.0%}")
lesson.photographs_classified(out, list(at), list(one), rate)

# %% [markdown]
# On photographs compare the collapse order with the mean order first: where every image has the same order
# ([notebook 3](03_collapse_order.ipynb)) they are one order, and there is nothing of the image in it to gain from. A column without
# intervals has one seed: five networks of each kind.
#
# ## See for yourself
#
# One image at more and more of its first patches, with CViT's guess at each (teal: right). It is the first test image
# that CViT gets right when it sees everything: chosen by a rule, not by its looks.

# %%
model, _ = classification.classifier(fold, "CViT", seed, device)
order = lesson.ranking_of(fold, "test", "collapse", seed, device)
hits = classification.hits(fold, "CViT", seed=seed, device=device)
pick = lesson.first_known(hits, example)
lesson.first_patches(out, model, data, order, pick)

# %% [markdown]
# The same for any test image and any number of patches: in JupyterLab, Colab or Binder run the cell and move the slider,
# or press Play. Elsewhere its first picture stands here.

# %%
lesson.PatchSlider(model, data, order, pick)

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
# **What would change our mind.** Accuracy along the collapse order above that along its own mean order, with every one of five seeds or
# more and on photographs too: then the order of the single image helps.
#
# **Recap.** Answer before you unfold.
#
# <details><summary>1. CViT beats RViT. Why does that not show that the collapse order is special?</summary>
#
# RViT never knows which patches come. Any fixed habit of choosing patches may gain as much: the mean order, variance, even the reversal.
#
# </details>
# <details><summary>2. Why are two classifiers compared on the same images, and not by whether their intervals overlap?</summary>
#
# What makes an image hard is common to both and cancels in the difference. Intervals of two separate means count it twice, and may
# overlap where the difference is certain.
#
# </details>
# <details><summary>3. "95.16 % less computation": what does the number leave out?</summary>
#
# All layers whose cost grows in proportion to the tokens, and everything that has to be done before the classifier starts.
#
# </details>
#
# ## Exercises
#
# Replace the dots and run the cell: it says whether you are right. A cell with a solution follows, but not in the
# copies that `make student` writes.
#
# 1. (Five minutes.) `curves["CViT"]` holds CViT's top-1 at the mask rates 0, 1, …, 99 %. What is the highest rate, as a whole number of
#    per cent, at which it is still within five points of its accuracy on whole images?

# %% tags=["exercise"]
answer = ...
enough = curves["CViT"] >= curves["CViT"][0] - 0.05
truth = max(r for r in range(100) if enough[r])
usual = {
    "that is the first rate at which it is no longer so": truth + 1,
    "that is the share that is seen": 100 - truth,
    "a whole number of per cent is asked for": truth / 100,
}
exercises.check(answer, truth, hints=usual)

# %% tags=["solution"]
answer = np.flatnonzero(enough)[-1]
exercises.check(answer, truth, hints=usual)

# %% [markdown]
# 2. (Ten minutes.) McNemar's test looks only at images that exactly one of two systems gets right. At 78 % masked `a` says of every
#    image whether CViT is right, `b` the same of RViT. How many does only CViT get right, how many only RViT?

# %% tags=["exercise"]
a, b = (torch.from_numpy(systems[n].at(0.78)) for n in ("CViT", "RViT"))
only_a, only_b = ..., ...
truth = [metrics.mcnemar(a, b)[k] for k in ("only_a", "only_b")]
usual = {
    "these are all that each gets right": (a.sum(), b.sum()),
    "the two are swapped": truth[::-1],
    "these are what each gets wrong": ((~a).sum(), (~b).sum()),
}
exercises.check((only_a, only_b), truth, hints=usual)

# %% tags=["solution"]
only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
exercises.check((only_a, only_b), truth, hints=usual)

# %% [markdown]
# 3. (A quarter of an hour.) `bills[config.name]` holds multiply-adds: of the classifier on the whole image (`all`) and on the first patches
#    (`kept`), of the ranking with its $N$ encoder passes, and of the tokenizer. How many passes may a ranking take
#    before the first patches cost more than the whole image?

# %% tags=["exercise"]
answer = ...
bill = bills[config.name]
a_pass, saved = bill["ranking"] / N, bill["all"] - bill["kept"]
usual = {
    "the first patches have to be paid for, too": bill["all"] // a_pass,
    "'ranking' holds all the passes": saved // bill["ranking"],
    "passes are whole: round down": (saved - bill["tokenizer"]) / a_pass,
}
exercises.check(answer, lesson.affordable(bill, N), hints=usual)

# %% tags=["solution"]
budget = bill["all"] - bill["kept"] - bill["tokenizer"]
answer = budget // (bill["ranking"] / N)
exercises.check(answer, lesson.affordable(bill, N), hints=usual)

# %% [markdown]
# 4. (An hour, without a check.) Invent an order: the last exercise of [notebook 6](06_an_order_that_looks.ipynb) tests it with this
#    notebook's RViT and places it on a leaderboard. Expect to beat random masks only if your first patches show more of the image than
#    randomly placed ones.
#
# ## References
#
# The paper: Guo et al., *The Collapse of Patches*, arXiv 2511.22281. Further reading:
#
# - Dosovitskiy et al., [*An Image is Worth 16x16 Words*](https://arxiv.org/abs/2010.11929), ICLR 2021: the ViT that all five systems are.
# - Rao et al., [*DynamicViT*](https://arxiv.org/abs/2106.02034), NeurIPS 2021: a network that learns itself which tokens it may drop.
# - Abnar and Zuidema, [*Quantifying Attention Flow in Transformers*](https://arxiv.org/abs/2005.00928), ACL 2020: how the order "attention"
#   follows from the weights of all layers.
# - Satopää et al., *Finding a "Kneedle" in a Haystack*, ICDCS workshops 2011: the definition of the knee, four pages.
# - McNemar, *Note on the sampling error of the difference between correlated proportions or percentages*, Psychometrika 1947: the
#   test by the images on which two classifiers disagree.
