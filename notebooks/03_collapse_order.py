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
# # 3 · The collapse order
#
# > *All dependencies of an image form a graph. PageRank on it says which patch to look at first.*
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/YOUR_ACCOUNT/cop/blob/main/notebooks/03_collapse_order.ipynb)
# [![Open in Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/YOUR_ACCOUNT/cop/main?labpath=notebooks/03_collapse_order.ipynb)
#
# | | |
# |---|---|
# | **Paper** | Sections 3.2 and 6, Figs. 2–5 of [*The Collapse of Patches*](https://arxiv.org/abs/2511.22281) |
# | **Time** | half a minute with the released artefacts, a minute more when the orders are computed |
# | **Hardware** | a laptop; two cores are enough |
# | **Before** | [2 · The dependency autoencoder](02_dependency_autoencoder.ipynb) |
# | **Next** | [4 · Generation along the order](04_generation_along_the_order.ipynb) or [5 · Classification from the first patches](05_first_patches.ipynb) |
#
# **You will see** a dependency graph of a real image, its PageRank and order, the orders of many images, how
# much of an order is the image rather than mere position, and, after the paper's graph, one of ours that two trainings agree on.

# %% tags=["colab"]
import sys

if "google.colab" in sys.modules:  # a clean runtime of Colab: fetch the project and install it; elsewhere nothing happens
    get_ipython().system("git clone -q --depth 1 https://github.com/YOUR_ACCOUNT/cop.git /content/cop")
    get_ipython().system(f"{sys.executable} -m pip install -q -e /content/cop")
    sys.path.insert(0, "/content/cop")

# %% tags=["parameters"]
profile: str = "demo"  # smoke | demo | natural | paper
seed: int = 0  # seed of the CoMAE behind the orders
images: int = 1000  # test images for the statistics
top: int = 16  # first patches joined by a line in Fig. 4 (the paper: 64 of 256)
device: str = "auto"  # auto | cpu | cuda

# %%
import pandas as pd
import torch

import cop
from cop.lessons import collapse_order as lesson
from cop.lessons import exercises, pipeline
from cop.paper import ranking

# %%
out, config = lesson.start(profile, seed, images=images, top=top, device=device)
sample = pipeline.sample(config, "test", images, device)
model, _ = pipeline.comae(config, seed, device)
N = config.num_tokens
A = model.dependencies(sample.tokens[:8], config.ranking.chunk_bytes)
f"{tuple(A.shape)}: A[b, i, j] says how much target i of image b relies on patch j"

# %% [markdown]
# ## From dependencies to scores
#
# > "Together they form a patch dependency graph with an N × N adjacency matrix A where $A_{ij}=w_i^j$. (…) A patch
# > with high PageRank score has more influence on other patches."
# >
# > $$r=(1-c)\,\beta+c\,P\,r\qquad(15)$$
#
# Which way do the arrows point? Read literally, the "column-stochastic $P$ of $A$" of section 6 rewards patches that
# *rely on* others, the opposite of the prose. A star shows it: every patch relies on patch 0 and on nothing else.

# %%
star = torch.zeros(5, 5)
star[1:, 0] = 1
{o: ranking.pagerank(star, orientation=o).numpy().round(3).tolist() for o in ("relied_upon", "literal")}

# %% [markdown]
# We follow the prose (`relied_upon`: rows normalised, then transposed, as networkx does on edges target → source).
# The same graph is there as a networkx object; its PageRank is ours to eight digits.

# %%
import networkx as nx

scores = pipeline.scores_of(A, config)
graph = ranking.to_networkx(A[0], scores[0])
theirs = nx.pagerank(graph, alpha=config.ranking.damping, tol=1e-12, max_iter=500)
gap = max(abs(theirs[n] - scores[0, n].item()) for n in graph)
f"{graph.number_of_edges()} edges; networkx agrees to 1e-8: {gap < 1e-8}"

# %%
order = cop.collapse_order(scores)
targets = order[0, [0, N // 2, N - 1]]
with torch.no_grad():
    noise = torch.randn(1, 3, N, config.tokens.dim, generator=pipeline.seeded(seed, 2))
    guess = model.reconstruct(sample.tokens[:1], targets[None], A[:1, targets], noise)
patches = pipeline.target_patches(pipeline.tokenizer(config, device), sample.tokens[:1], targets[None], guess)[0]
lesson.fig2(out, sample.images[0], targets, patches, A[0], scores[0], order[0])

# %% [markdown]
# ## The order at work
#
# The same order serves a generator and a classifier (Fig. 3). Drawn here on the same image with its real order.

# %%
lesson.fig3(out, sample, order[0])

# %% [markdown]
# > "One can observe that top patches outline important shapes in each image." (Fig. 4)

# %%
lesson.fig4(out, sample, order, top)

# %% [markdown]
# ## Many images
#
# > "The inter-class collapse order patterns are also similar judged by the locations of their heat lines (…) it's
# > reasonable to assume that the identified collapse order exhibit moderate consistency over classes and instances."

# %%
ranks = lesson.sample_orders(config, "test", images, seed, device=device)
lesson.fig5(out, sample, ranks["collapse"])

# %% [markdown]
# Vertical lines at both ends: some patches come first, and some last, in nearly every image. **How much of an order is
# the image?** The rank of a patch is its mean position, plus what the class adds, plus what is left for the image.

# %%
agreement = lesson.agreement_of(ranks, sample.labels, seed)
lesson.shares(out, agreement)

# %%
lesson.agreement(out, agreement)

# %%
lesson.mean_rank(out, ranks)

# %% [markdown]
# And this is what a network sees of an image that it is shown along an order:

# %%
lesson.first_of_each(out, sample, ranks)

# %% [markdown]
# **Which patches does everybody rely on?** Their mean weight over all targets of a hundred images, against how much
# their content varies from image to image:

# %%
hundred = sample.tokens[:100]
relied = ranking.in_strength(model.dependencies(hundred)).mean(0) / (N - 1)
varied = sample.tokens.std(0).mean(-1)
lesson.relied_upon(out, varied, relied)

# %% [markdown]
# A correlation below 0 says that everybody relies on patches that **never change**, such as the black border: letting a
# constant patch through costs the decoder nothing, while noise in its place would only distract it. One near 0 says that what
# is relied upon depends neither on content nor on its absence. Either way reliance in the sense of Eq. 2 is not the same as
# being informed, and which of the two it is changes with the seed (table at the end of this notebook).
#
# ## Does PageRank add anything to counting?
#
# On a dense graph PageRank and plain in-strength (the column sums of $A$) nearly agree. And how near is either to
# the controls?

# %%
pairs = lesson.nearness(out, ranks)
pd.DataFrame([{"order": n, "Spearman with the collapse order": f"{v:.2f}"} for n, v in pairs.items() if n != "collapse"])

# %% [markdown]
# ## Paper vs ours

# %%
lesson.verdicts(out, config, sample, ranks, agreement, pairs, device)

# %% [markdown]
# ## Is the order a property of the image?
#
# Everything so far is one training run. If a CoMAE that differs in nothing but its seed relied on the same patches, its
# orders of the same images would agree. A hundred test images, ordered by the CoMAE of every seed on record
# (`make seeds`), and by one that was trained with seed 0 again, on two threads instead of one:

# %%
by_seed = lesson.by_seed(out, ranks["collapse"][:100])
lesson.mean_rank_seeds(out, by_seed)

# %%
lesson.seeds_agree(out, by_seed)

# %% [markdown]
# Were the order a property of the image, all rows of the table would be near 1: what one run puts first the others would
# put first too. The second column compares what is left when the images are averaged out, the mean orders of the runs.
#
# The run on two threads starts from the same weights and sees the same batches in the same order; sums are only rounded
# differently. Where even its orders differ, not even the seed decides.
#
# As far as the rows are far from 1, the collapse order, as Eqs. 2–6 and PageRank define it, is a property of the training run.
# Our reading: a patch can be reconstructed through many others that know much the same, nothing in the objective prefers
# some of them, and training settles on a choice. Pictures of one run, ours above or the paper's, cannot show this. Read
# every result along one collapse order with it in mind; the tables of notebooks [1](01_patch_entropy.ipynb),
# [4](04_generation_along_the_order.ipynb) and [5](05_first_patches.ipynb) show all seeds.

# %%
lesson.order_seeds(out)

# %% [markdown]
# ## On photographs
#
# Small grey clothes on black are a special case. The profile `natural` repeats this notebook on Tiny-ImageNet, patches of
# 64 px photographs in colour (`make figures PROFILE=natural`, with the data in `COP_DATA`). What its run left, beside
# the demo's:

# %%
lesson.photographs(out)

# %% [markdown]
# Where the share of the image is near 0 and tau near 1, within and between classes, **nothing of an order is the image**: every
# photograph gets the same order, whatever it shows (Fig. 5 and the first patches of each order, under `natural` in the gallery of
# figures). The edges say whether those places hold more than others; patch variance, which does look, is beside them.

# %% [markdown]
# ## A graph that is measured
#
# An order that belongs to the image needs a graph that the data determine. CoMAE's mask is a *selection*: many sets of
# patches are equally good, and each training picks its own (notebook [2](02_dependency_autoencoder.ipynb)). An *influence* is no choice. Notebook
# [1](01_patch_entropy.ipynb)'s predictor of masked tokens says how uncertain it is about a patch, and what patch $j$ gives away about
# patch $n$ in *this* image can be read off:
#
# > $$A_{nj}=1-\frac{s(n\mid j)}{s(n\mid\varnothing)}$$
#
# where $s(n\mid j)$ is the predicted scale, summed over the values of patch $n$, when patch $j$ alone is seen. These are $N+1$ passes
# per image.
#
# - **The paper's** are CoMAE, whose masks are the graph of everything above; PageRank on a graph; and sorting by it.
# - **Ours** are the predictor of masked tokens, the graph that it measures, coverage, and the networks that know a graph in one
#   pass, all below. PageRank and sorting are the paper's on this graph too, unchanged.
#
# A result along the measured order therefore says nothing for or against the paper's order. It says what PageRank makes of a graph
# that does not depend on the training.

# %%
M = lesson.measured(config, sample.tokens[:8], seed, device)  # (8, N, N), laid out like A: by target and source
lesson.two_graphs(out, sample, A, M)

# %%
lesson.first_by_graph(out, sample, A, M)

# %%
lesson.graph_orders(out, config, sample.class_names, device)

# %%
lesson.graph_statistics(out, config, device)

# %% [markdown]
# Read the last columns with the pictures: what does "relied upon" mean? A patch has many votes when others become *predictable*
# once it is seen. On photographs that is what a **flat** patch does: sky says that more sky follows, and an edge raises as many
# doubts as it settles. There the contrast of the first patches lies far below 1: this well-defined order begins with the least to
# see. On clothes the black border is certain anyway, and what tells most about the rest is the garment itself. So being relied
# upon is not the same as being informative; notebook [5](05_first_patches.ipynb) asks which patches a classifier wants.
#
# Is that the graph, or what is made of it? Uncertainty can be counted as predicted scale or in nats, in nats of the *actual* value, so
# that a surprise counts and not a doubt; targets can vote as loudly as there is to learn about them; columns can be summed instead
# of PageRank; coverage does not pay twice for the same; and instead of what $j$ tells alone one can ask what is lost when $j$ alone is
# hidden. A random order has contrast and spread 1, and Spearman 0:

# %%
lesson.other_readings(out, config, device)

# %% [markdown]
# "Relied upon" **means** that other patches become more predictable, on average over what this predictor has learned about such images.
# It does **not** mean that a patch shows the object, that it is hard to guess from the others, or that a classifier needs it. On
# photographs flat patches come first by whatever a patch *tells alone*, however that is counted; by what is *lost without it* they
# do not. So the contrast of the first patches is decided by the question that the graph answers, and not by the data alone.
#
# ### Do two trainings measure the same?
#
# The test that CoMAE's order failed, on the same images. Its own rows are those of CoMAEs that were trained to the end
# (notebook 2), but for the one of threads, where a short training is enough to show what rounding does. *Own part*: after the mean graph or mean order of all images is taken out, so that position does not count.

# %%
lesson.graph_seeds(out, config, device)

# %% [markdown]
# Where the own parts of the measured graph are near 1 and those of CoMAE's near 0, the order is a property of the *image* for the
# one and of the *training* for the other. Both graphs go through the same PageRank, so it is the graph that makes the
# difference.
#
# ### Where the truth is known
#
# If tokens are Gaussian, $s(n\mid j)$ is a closed form and nothing need be trained: with $\Sigma$ the covariance,
# $\Sigma_{nn\mid j}=\Sigma_{nn}-\Sigma_{nj}\Sigma_{jj}^{-1}\Sigma_{jn}$. So two things can be tested on samples of a small random
# field: does the measured graph converge to the true one, and is sorting by PageRank the greedy order, as section 6
# says, or even the optimal one, which brute force finds among nine patches?

# %%
lesson.exact_and_found(out)

# %% [markdown]
# Left: what is left of the error with the most samples is the training's, not the data's, whose own error is the dashed line. Right: section 6 needs gains
# that do not shrink as patches are seen. But two patches that tell the same are *both* relied upon, PageRank takes both, and
# the second adds nothing: compare the rows from independent hubs to copies. **Coverage** discounts what is already known,
# on the same graph.
#
# ### In one pass
#
# A column of $A$ depends on one patch alone: its content and its place. A small network from a patch to its column therefore needs no
# attention and no $N$ passes. Let it speak of *offsets* $n-j$ from the patch's content alone, and one network ranks any
# grid. CoMAE's graph is no function of single patches, so there a network with attention predicts the edges, with PageRank
# as a differentiable layer on top.

# %%
lesson.one_pass(out, config, device)

# %% [markdown]
# Multiply-adds are counted for the graph of one image; speeds were taken in one run on one machine, and only their ratio travels. Agreement
# is with the exact graphs of held-out images, of which a rectangle has the same edges as the whole.
#
# ## See for yourself
#
# An image along any two orders side by side. In JupyterLab, Colab or Binder run the cell: Play or the slider adds patches
# (the newest is framed), the menus change image and orders. Elsewhere its first picture stands here.

# %%
lesson.player(sample, ranks)

# %% [markdown]
# ## Your own image
#
# `cop.rank` takes a file, a folder, a PIL image, an array or a tensor:

# %%
cop.rank(sample.images[:2], profile=profile, device=device)[:, :8]

# %% [markdown]
# ## Exercises
#
# Replace the dots and run the cell: it says whether you are right. A cell with a solution follows, but not in the
# copies that `make student` writes.
#
# 1. Eq. 15 is a linear system, $(I-cP)\,r=(1-c)\,\beta$. Solve it for the first image, `A[0]`, in double precision; $c$ is
#    `config.ranking.damping` and $\beta$ uniform.

# %% tags=["exercise"]
answer = ...
exercises.check(answer, scores[0], 1e-8)

# %% tags=["solution"]
c, rows = config.ranking.damping, A[0].double()
P = (rows / rows.sum(1, keepdim=True)).T
answer = torch.linalg.solve(torch.eye(N).double() - c * P, torch.full((N,), (1 - c) / N).double())
exercises.check(answer, scores[0], 1e-8)

# %% [markdown]
# 2. Now let $\beta$ be in proportion to `varied`, so that the walk starts anew on patches that change from image to image.

# %% tags=["exercise"]
answer = ...
exercises.check(answer, ranking.pagerank(A[0], config.ranking.damping, teleport=varied), 1e-8)

# %% tags=["solution"]
beta = varied.double() / varied.double().sum()
answer = torch.linalg.solve(torch.eye(N).double() - c * P, (1 - c) * beta)
exercises.check(answer, ranking.pagerank(A[0], config.ranking.damping, teleport=varied), 1e-8)

# %% [markdown]
# Without a check: with a teleport vector from each image's *own* variance, does the share of "image" grow?
#
# ## References
#
# Guo et al., arXiv 2511.22281 · Page, Brin, Motwani and Winograd, *The PageRank Citation Ranking*, 1999 ·
# Kendall, *A New Measure of Rank Correlation*, Biometrika 1938.
