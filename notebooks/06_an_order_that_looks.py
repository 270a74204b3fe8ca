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
# # 6 · An order that looks
#
# > *Which patch next, given those already seen?*
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/YOUR_ACCOUNT/cop/blob/main/notebooks/06_an_order_that_looks.ipynb)
# [![Open in Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/YOUR_ACCOUNT/cop/main?labpath=notebooks/06_an_order_that_looks.ipynb)
#
# | | |
# |---|---|
# | **Paper** | Section 6 (the greedy argument) and section 3.4 of [*The Collapse of Patches*](https://arxiv.org/abs/2511.22281); the orders here are ours |
# | **Time** | a minute with the released results |
# | **Hardware** | a laptop; two cores are enough |
# | **Before** | [5 · The first patches](05_first_patches.ipynb) |
# | **Next** | `cop.look(photo)`, and an order of your own: `CONTRIBUTING.md` |
#
# **You will see** what each order shows of an image, why a score for each patch alone goes wrong and what a theorem says of asking for
# what is left, and which orders a classifier gains from, beside all controls. Text in quotation marks is the paper's; the rest is ours.
#
# **After this you can** say why a score for each patch alone picks neighbours that tell the same; build an order that asks
# what is left to learn; and judge an order against the controls that it has to beat.

# %% tags=["colab"]
import sys

if "google.colab" in sys.modules:  # a clean runtime of Colab: fetch the project and install it; elsewhere nothing happens
    get_ipython().system("git clone -q --depth 1 https://github.com/YOUR_ACCOUNT/cop.git /content/cop")
    get_ipython().system(f"{sys.executable} -m pip install -q -e /content/cop")
    sys.path.insert(0, "/content/cop")

# %% tags=["parameters"]
profile: str = "demo"  # smoke | demo | natural64
seed: int = 0  # seed of CoMAE, predictor and trainings; the comparison takes as many seeds as `seeds` says
seeds: int = 1  # trainings of each order and fold
rate: float = 0.78  # mask rate at which orders are compared; the paper's knee
images: int = 32  # validation images of the pictures and of the theorem
device: str = "auto"  # auto | cpu | cuda

# %%
import pandas as pd
import torch

from cop.lessons import exercises, pipeline
from cop.lessons import looking as lesson
from cop.orders.looking import coverage_order

pd.options.display.max_colwidth = None  # whole sentences in tables

# %%
out, config = lesson.start(profile, seed, seeds=seeds, rate=rate, images=images, device=device)
sample, N = pipeline.sample(config, "val", images, device), config.num_tokens

# %% [markdown]
# ## What an order shows
#
# Four validation images, and what is left of them when only the first 22 % of the patches are seen, by order. *Low-discrepancy*
# is one order for all images, spread evenly. *Collapse* is the paper's. The last three ask, before each patch, what is still
# to learn given those already taken: *coverage* by a graph of patches that are near and alike, *surprise* by what a predictor
# gets wrong, *active* by what the same predictor doubts, without ever looking at a patch that it has not asked for.

# %%
orders = lesson.orders_of(config, images, lesson.GLANCE, seed, device)
lesson.glance(out, sample, orders, rate)

# %% [markdown]
# ## By hand: two neighbours that say the same
#
# Five patches in a line; patches 1 and 2 are copies of each other and tell much about 0 and 3, patch 4 stands alone. $A_{ij}$ says
# how much of patch $i$ patch $j$ gives away. A score for each patch by itself, such as the column sums of $A$ (or its PageRank),
# takes both copies first.

# %%
A = torch.tensor([[1, .6, .6, 0, 0], [0, 1, .9, 0, 0], [0, .9, 1, 0, 0], [0, .6, .6, 1, 0], [0, 0, 0, 0, 1.0]])
A.sum(0), A.sum(0).argsort(descending=True, stable=True).tolist()[:2]

# %% [markdown]
# **Coverage** asks what is *left*: a set $S$ covers
#
# $$F(S)=\sum_i u_i\Bigl(1-\prod_{j\in S}(1-A_{ij})\Bigr),$$
#
# and the greedy order takes the patch that adds most, then lets what it gives away go off everybody's account.

# %%
left, order = torch.ones(5), []
for _ in range(5):
    gain = left @ A  # what each patch would add: the sum over i of what is left there, times A_ij
    gain[order] = -1
    order.append(int(gain.argmax()))
    left = left * (1 - A[:, order[-1]])
assert order == coverage_order(A[None])[0].tolist()
order

# %% [markdown]
# <details><summary>Predict first: the second patch of this order, and why is it not patch 2?</summary>Once patch 1 is seen, patch 2 has
# one tenth of itself and .4 × .6 of patches 0 and 3 left to give; patch 4, which nobody else tells of, has all of itself.</details>
#
# The same on real images, where only the rule differs: one graph of patches that are near and alike, ranked by PageRank (row by
# row normalised, as in [notebook 3](03_collapse_order.ipynb)) and by coverage.

# %%
rules = lesson.orders_of(config, images, lesson.RULES, seed, device)
lesson.two_rules(out, sample, rules, rate)

# %% [markdown]
# ## The theorem that holds
#
# Section 6 argues that sorting patches by their PageRank is the greedy order, and that it is nearly the best. That needs gains that do
# not shrink as the set grows; they do shrink. What holds is the theorem of Nemhauser, Wolsey and Fisher (1978):
# $F$ is monotone and its gains only shrink (it is *submodular*), and for such functions the greedy set of every size has at
# least $1-1/e\approx 63\,\%$ of what the best set of that size has. By brute force, all subsets of the twelve middle patches:

# %%
A, u = lesson.graph_and_weights(sample, config)
lesson.theorem(out, A, u)

# %% [markdown]
# ## The comparison
#
# One network for each order, fine-tuned along it and tested along it, at this one mask rate. The controls: random patches, even
# spreading, plain contrast, and of each order *its own mean*, one order for all images, which has all of its habits and nothing of
# the image. An order of the image's own has to beat all of them.

# %%
runs = range(seed, seed + seeds)
chosen = lesson.asked(config, rate, runs)
hits = lesson.compared(config, chosen, rate, runs, device)
lesson.accuracies(out, hits, rate)

# %%
lesson.order_differences(out, hits, config)

# %% [markdown]
# Brackets hold the 95 % interval of a difference over the images, in points; stars are corrected by Holm over all cells of this
# table; "in how many trainings" counts folds and seeds.
#
# ## One thing at a time
#
# Only the graph differs, or only the rule:

# %%
single = lesson.asked(config, rate, runs, lesson.ISOLATED)
isolated = lesson.compared(config, single, rate, runs, device)
lesson.isolation(out, isolated)

# %% [markdown]
# ## What it costs
#
# An order has to be made before the classifier can start. Multiply-adds per image in units of the classifier on the whole image,
# and images per second, all measured in one run:

# %%
lesson.looking_cost(out, config, rate)

# %% [markdown]
# ## On photographs and on clothes
#
# The same notebook on both data sets; of photographs every image of the twenty classes is tested once, in five folds, by networks
# that were not trained on it, and what orders them has never seen their classes.

# %%
lesson.both(out)

# %% [markdown]
# ## Paper vs ours

# %%
lesson.verdicts(out, hits, config)

# %% [markdown]
# **What would change our mind**: an order of CoMAE's that beats its own mean order on photographs, in most of the folds.
#
# ## Exercises
#
# Replace the dots and run the cell: it says whether you are right. A cell with a solution follows, but not in the
# copies that `make student` writes.
#
# 1. Two patches that tell nothing of each other, with $u=(1,1)$ and $A$ the identity: what does each cover alone, and both together?

# %% tags=["exercise"]
alone, together = ..., ...
exercises.check((alone, together), (lesson.covered(torch.eye(2), torch.ones(2), [0]), lesson.covered(torch.eye(2), torch.ones(2), [0, 1])))

# %% tags=["solution"]
alone, together = 1, 2
exercises.check((alone, together), (lesson.covered(torch.eye(2), torch.ones(2), [0]), lesson.covered(torch.eye(2), torch.ones(2), [0, 1])))

# %% [markdown]
# 2. Gains only shrink: take the first test graph `A[0]` with weights `u[0]`. By how much does patch 0 raise $F$ of the empty set, and
#    by how much of the set $\{1, 2\}$?

# %% tags=["exercise"]
graph, weights = A[0].clone().fill_diagonal_(1), u[0]


def F(chosen):
    return lesson.covered(graph, weights, chosen)


to_nothing, to_two = ..., ...
exercises.check((to_nothing, to_two), (F([0]), F([0, 1, 2]) - F([1, 2])))

# %% tags=["solution"]
to_nothing, to_two = F([0]), F([0, 1, 2]) - F([1, 2])
exercises.check((to_nothing, to_two), (F([0]), F([0, 1, 2]) - F([1, 2])))

# %% [markdown]
# 3. **Invent an order.** A function from a batch to a ranking is all it takes; this one takes the brightest patches first. What must
#    stand in the place of the dots so that the *darkest* come first? Then try one that asks what is left to learn.

# %% tags=["exercise"]
brightness = -sample.images.mean(1).unfold(1, 4, 4).unfold(2, 4, 4).mean((-1, -2)).flatten(1)[:1]
darkest = ...
exercises.check(darkest, brightness.argsort(descending=True, stable=True))

# %% tags=["solution"]
darkest = brightness.argsort(descending=True, stable=True)
exercises.check(darkest, brightness.argsort(descending=True, stable=True))

# %% [markdown]
# ## References
#
# Guo et al., arXiv 2511.22281 · Nemhauser, Wolsey and Fisher, *An analysis of approximations for maximizing submodular set functions*,
# 1978 · Pardyl et al., *Active Visual Exploration Based on Attention-Map Entropy*, IJCAI 2023 · Krause and Golovin, *Submodular
# Function Maximization*, 2014.
