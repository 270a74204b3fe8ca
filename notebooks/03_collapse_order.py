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
# | **Time** | to read: 50 minutes; to run: about a minute with the released artefacts, some minutes more when everything is computed |
# | **Hardware** | a laptop; two cores are enough |
# | **Before** | [2 · The dependency autoencoder](02_dependency_autoencoder.ipynb) |
# | **Next** | [4 · Generation along the order](04_generation_along_the_order.ipynb) or [5 · Classification from the first patches](05_first_patches.ipynb) |
#
# **You will see** a dependency graph of a real image, its PageRank and order, the orders of many images, how
# much of an order is the image rather than mere position, and, after the paper's graph, one of ours, with the question of how far two
# trainings agree on either. Text in quotation marks is the paper's; the rest is ours.
#
# **After this you can** compute PageRank by repeated multiplication and say which way its arrows point; split an order into what is
# position, class and image; and test whether an order belongs to the image or to the training that made it.
#
# **You need to know** PageRank ([an explanation](https://en.wikipedia.org/wiki/PageRank),
# [the library's page](https://networkx.org/documentation/stable/reference/algorithms/generated/networkx.algorithms.link_analysis.pagerank_alg.pagerank.html)),
# rank correlations ([Spearman's](https://docs.scipy.org/doc/scipy/reference/generated/scipy.stats.spearmanr.html),
# [Kendall's](https://docs.scipy.org/doc/scipy/reference/generated/scipy.stats.kendalltau.html)) and what a mask of CoMAE is
# ([notebook 2](02_dependency_autoencoder.ipynb)). Terms are explained where they first occur, and in the
# [glossary](../book/glossary.md).

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
seed: int = 0  # seed of the CoMAE behind the orders
images: int = 1000  # test images for the statistics
top: int = 16  # first patches shown in Fig. 4 (the paper: 64 of 256)
device: str = "auto"  # auto | cpu | cuda

# %%
import pandas as pd
import torch

import cop
from cop.lessons import collapse_order as lesson
from cop.lessons import exercises, pipeline
from cop.paper import ranking

pd.options.display.max_colwidth = None  # whole sentences in tables

# %%
out, config = lesson.start(
    profile, seed, images=images, top=top, device=device
)
sample = pipeline.sample(config, "test", images, device)
model, _ = pipeline.comae(config, seed, device)
N = config.num_tokens
A = model.dependencies(sample.tokens[:8], config.ranking.chunk_bytes)
print(f"{tuple(A.shape)}: A[b, i, j] says ", end="")
print("how much target i of image b relies on patch j")

# %% [markdown] tags=["slide"]
# ## The result first
#
# From the records of all seeds, with the mean over seeds and its 95 % interval:

# %% tags=["slide"]
lesson.in_short(out)

# %% [markdown]
# ## From dependencies to scores
#
# > "Together they form a patch dependency graph with an N × N adjacency matrix A where $A_{ij}=w_i^j$. (…) A patch
# > with high PageRank score has more influence on other patches."
# >
# > $$r=(1-c)\,\beta+c\,P\,r\qquad(15)$$
#
# The call is `ranking.pagerank`. The letters:
#
# - $A$ is the [dependency graph](../book/glossary.md#dependency-graph) of one image; row $i$ is the mask of target $i$.
# - $r$ holds the scores, one per patch, which sum to 1. Sorting by them, the largest first, is the
#   [collapse order](../book/glossary.md#collapse-order).
# - $P$ is $A$ with each row divided by its sum, and then transposed: column $i$ says how target $i$ divides its vote among the patches
#   that it relies on.
# - $c$ is the [damping](../book/glossary.md#damping), the share of the score that is passed along the edges.
# - $\beta$ says where the rest goes, the *teleport vector*: here every patch gets $1/N$.

# %% [markdown] tags=["slide"]
# ## By hand, once
#
# Eq. 15 has $r$ on both sides. Start with $r=\beta$, put it in on the right, take what comes out, and repeat: the walk settles, for each
# step shrinks what is still wrong by the factor $c$. Three graphs: a *star*, in which every patch relies on patch 0 and on nothing else;
# a *ring*, in which each relies on the next; and three patches of the first test image, with their weights rounded to one digit.
#
# <details><summary>Predict before you run: what are the scores of the ring, and what does the hub of the star do with its score?</summary>
#
# All patches of the ring are alike, so each has 1/5. The hub of the star relies on nobody. Its row of $A$ is empty and is taken to be
# spread over all patches alike, itself among them; else the scores would no longer sum to 1.
#
# </details>

# %% tags=["slide"]
def votes(A):
    """P of Eq. 15: column i says how target i divides its vote."""
    total = A.sum(1, keepdim=True)
    return torch.where(total > 0, A / total, 1 / len(A)).T


def repeated(A, c=0.85, times=200):
    """Eq. 15 put into itself: the scores after 0, 1, 2, … steps."""
    P, beta = votes(A), torch.full((len(A),), 1 / len(A)).double()
    r = [beta]
    for _ in range(times):
        r.append((1 - c) * beta + c * P @ r[-1])
    return torch.stack(r)

# %% tags=["slide"]
star = torch.zeros(5, 5)
star[1:, 0] = 1
ring = torch.eye(5).roll(1, dims=1)
some = torch.tensor([0, N // 2, N // 2 + config.grid // 2])
three = A[0][some][:, some].cpu().double().round(decimals=1)
graphs = {"star": star, "ring": ring, "three patches": three}
steps = {name: repeated(graph.double()) for name, graph in graphs.items()}
for name, graph in graphs.items():
    assert steps[name][-1].allclose(ranking.pagerank(graph), atol=1e-9)
rows = [0, 1, 2, 3, 200]
after = {n: pd.DataFrame(r[rows].numpy(), rows) for n, r in steps.items()}
print("A of the three patches:", three.tolist())
table = pd.concat(after, names=["graph", "step"]).round(3)
table.astype(object).where(table.notna(), "")

# %% [markdown] tags=["slide"]
# **Which way do the arrows point?** Read literally, the "column-stochastic $P$ of $A$" of section 6 rewards patches that
# *rely on* others, the opposite of the prose. The star shows it:

# %% tags=["slide"]
both = ("relied_upon", "literal")
found = {o: ranking.pagerank(star, orientation=o) for o in both}
{o: r.numpy().round(3).tolist() for o, r in found.items()}

# %% [markdown] tags=["slide"]
# We follow the prose (`relied_upon`: rows normalised, then transposed, as networkx does on edges target → source).
#
# **What Theorem 1 claims.** Section 6 says why this should be the best order. It speaks of $H_c(S)$, the uncertainty that a set $S$ of seen
# patches leaves (Eq. 8, `sum_curve` in [notebook 1](01_patch_entropy.ipynb)), and assumes two things. *Linear influence*: the fall of
# $H_c$ by seeing patch $j$ as well is
#
# > $$\Delta(j\mid S)\approx\left[(I-cP)^{-1}\beta\right]_j\qquad(9)$$
#
# *Submodularity*: "The entropy $H_c$ is monotone and approximately [submodular](../book/glossary.md#submodular) in $S$", so what a patch
# adds only shrinks as more is seen. Then:
#
# > "Theorem 1 (Optimal collapse ranking). (…) Ordering patches in descending order of $r:=(I-cP)^{-1}\beta$ (10) minimizes the linearized
# > proxy of $H_c$ at each prefix."
#
# The proof writes $r$ as the series $\sum_t c^tP^t\beta$ (Eq. 11), whose first term is $\beta$ and whose rest is $cPr$ (Eqs. 12 and 13). So
# $r=\beta+cPr$ (Eq. 14), which is Eq. 15 but for the factor $1-c$. A greedy choice, which is what sorting is if gains do not depend on
# $S$, is then called optimal. By hand, the series of Eq. 11 for the three patches, which has the same scores:

# %% tags=["slide"]
P = votes(three)
term, r = torch.full((3,), 1 / 3).double(), torch.zeros(3).double()
for _ in range(200):
    r, term = r + term, 0.85 * P @ term  # Eq. 11
beta = torch.full((3,), 1 / 3).double()
assert r.allclose(beta + 0.85 * P @ r)  # Eq. 14
assert (0.15 * r).allclose(steps["three patches"][-1])  # Eq. 15
r.numpy().round(3).tolist()

# %% [markdown] tags=["slide"]
# Note what Eq. 9 leaves out: its right side has no $S$. Whatever was seen before, a patch is worth the same. That is where the
# theorem will be tested, at the end of this notebook, on fields whose best order is known.

# %% [markdown] tags=["slide"]
# > **In short.** PageRank is a vote that is passed on, found by repeated multiplication. Theorem 1 says that sorting by it is optimal if
# > what a patch gives away does not depend on what is already seen.

# %% [markdown] tags=["slide"]
# The graph of a real image is there as a networkx object, too; its PageRank is ours to eight digits.

# %% tags=["slide"]
import networkx as nx

scores = pipeline.scores_of(A, config)
graph = ranking.to_networkx(A[0], scores[0])
how = {"alpha": config.ranking.damping, "tol": 1e-12, "max_iter": 500}
theirs = nx.pagerank(graph, **how)
gap = max(abs(theirs[n] - scores[0, n].item()) for n in graph)
f"{graph.number_of_edges()} edges; networkx agrees to 1e-8: {gap < 1e-8}"

# %% tags=["slide"]
order = cop.collapse_order(scores)
targets, one = order[0, [0, N // 2, N - 1]], sample.tokens[:1]
draws = pipeline.seeded(seed, 2)
noise = torch.randn(1, 3, N, config.tokens.dim, generator=draws)
with torch.no_grad():
    guess = model.reconstruct(one, targets[None], A[:1, targets], noise)
tokens = pipeline.tokenizer(config, device)
patches = pipeline.target_patches(tokens, one, targets[None], guess)[0]
of_one = A[0], scores[0], order[0]
lesson.fig2(out, sample.images[0], targets, patches, *of_one)

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

# %% [markdown] tags=["slide"]
# > **In short.** The order of one image is easy to draw and easy to believe. Whether it says something about the image takes more images
# > than one.

# %% [markdown]
# ## Many images
#
# > "The inter-class collapse order patterns are also similar judged by the locations of their heat lines (…) it's
# > reasonable to assume that the identified collapse order exhibit moderate consistency over classes and instances."

# %%
ranks = lesson.sample_orders(config, "test", images, seed, device=device)
lesson.fig5(out, sample, ranks["collapse"])

# %% [markdown]
# A vertical line is a patch that comes at the same place in every image. **How much of an order is the image?** The rank of patch $n$
# in image $b$ of class $y$ is split into its mean over all images, what the class adds to it, and what is left for the image:
#
# $$\text{rank}_{bn}=\tfrac{N-1}{2}+\text{position}_n+\text{class}_{yn}+\text{image}_{bn}.$$
#
# The shares of the variance follow from correlations, and sum to 1. [Spearman's correlation](../book/glossary.md#spearmans-correlation)
# $\rho$ is that of the ranks in two orders: 1 for the same order, 0 for unrelated ones, $-1$ for the reversal. Averaged over pairs of
# images of different classes it is the share of position; within classes it is more by the share of the class; what is missing to 1 is
# the image's. [Kendall's tau](../book/glossary.md#kendalls-tau), also in the table, counts pairs of patches: the share that two orders
# put in the same sequence, less the share that they put in the opposite one.
#
# <details><summary>Predict before you run: what are the shares of a random order, and of one that is the same for all images?</summary>
#
# Of a random order everything is the image's, though it knows nothing of it: the share says how orders *differ*, not what they are
# worth. Of one order for all images everything is position.
#
# </details>

# %% tags=["slide"]
agreement = lesson.agreement_of(ranks, sample.labels, seed)
lesson.shares(out, agreement)

# %%
lesson.agreement(out, agreement)

# %%
lesson.mean_rank(out, ranks)

# %% [markdown]
# And this is what a network sees of an image that it is shown along an order:

# %% tags=["slide"]
lesson.first_of_each(out, sample, ranks)

# %% [markdown]
# **Which patches does everybody rely on?** Their mean weight over all targets of a hundred images, against how much
# their content varies from image to image:

# %%
hundred = model.dependencies(sample.tokens[:100])
relied = ranking.in_strength(hundred).mean(0) / (N - 1)
varied = sample.tokens.std(0).mean(-1)
lesson.relied_upon(out, varied, relied)

# %% [markdown]
# A correlation below 0 says that everybody relies on patches that **never change**, such as the black border: letting a
# constant patch through costs the decoder nothing, while noise in its place would only distract it. One near 0 says that what
# is relied upon depends neither on content nor on its absence. Either way reliance in the sense of Eq. 2 is not the same as
# being informed. The row of every seed stands in a table further down.

# %% [markdown] tags=["slide"]
# > **In short.** An order that is all position is one order for all images. The shares say how much of it could be the image at all.

# %% [markdown]
# ## Does PageRank add anything to counting?
#
# Plain [in-strength](../book/glossary.md#in-strength) is the sum of a column of $A$: how much all targets together rely on a patch.
# PageRank also asks who relies on it. On a dense graph, in which everybody relies on many, the two tend to agree. And how near is
# either to the [controls](../book/glossary.md#control)?

# %%
pairs = lesson.nearness(out, ranks)
near = {n: f"{v:.2f}" for n, v in pairs.items() if n != "collapse"}
column = "Spearman with the collapse order"
pd.DataFrame({"order": near.keys(), column: near.values()})

# %% [markdown]
# ## Paper vs ours

# %%
lesson.verdicts(out, config, sample, ranks, agreement, pairs, device)

# %% [markdown]
# ## Is the order a property of the image?
#
# Everything so far is one training run. If a CoMAE that differs in nothing but its seed relied on the same patches, its
# orders of the same images would agree. A hundred test images, ordered by the CoMAE of every seed on record
# (`make seeds`). What another number of threads does to a training stands in a later table.
#
# <details><summary>Predict before you run: what correlation makes an order useful as a property of the image?</summary>
#
# Near 1. With 0 the order of one training tells nothing of that of another; and a correlation can also be high because both have the
# same *mean* order, which is why the second column stands beside it.
#
# </details>

# %%
by_seed = lesson.by_seed(out, ranks["collapse"][:100])
lesson.mean_rank_seeds(out, by_seed)

# %% tags=["slide"]
lesson.seeds_agree(out, by_seed)

# %% [markdown]
# Were the order a property of the image, all rows of the table would be near 1: what one run puts first the others would
# put first too. The second column compares what is left when the images are averaged out, the mean orders of the runs.
#
# As far as the rows are far from 1, the collapse order, as Eqs. 2–6 and PageRank define it, is a property of the training run.
# Our reading: a patch can be reconstructed through many others that know much the same, nothing in the objective prefers
# some of them, and training settles on a choice. Pictures of one run, ours above or the paper's, cannot show this. Read
# every result along one collapse order with it in mind; the tables of notebooks [1](01_patch_entropy.ipynb),
# [4](04_generation_along_the_order.ipynb) and [5](05_first_patches.ipynb) show all seeds.

# %%
lesson.order_seeds(out)

# %% [markdown] tags=["slide"]
# > **In short.** Agreement between images of one training says little; agreement between trainings on one image is the test.

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
# (8, N, N), laid out like A: by target and source
M = lesson.measured(config, sample.tokens[:8], seed, device)
lesson.two_graphs(out, sample, A, M)

# %%
lesson.first_by_graph(out, sample, A, M)

# %%
lesson.graph_orders(out, config, sample.class_names, device)

# %%
lesson.graph_statistics(out, config, device)

# %% [markdown]
# Read the last columns with the pictures: what does "relied upon" mean? A patch has many votes when others become *predictable*
# once it is seen. On photographs a **flat** patch may do that best: sky says that more sky follows, and an edge raises as many
# doubts as it settles. Where the contrast of the first patches lies below 1, an order begins with the least to see, however well it is
# defined. On clothes the black border is certain anyway, so that what is left to tell lies in the garment. Being relied
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
# It does **not** mean that a patch shows the object, that it is hard to guess from the others, or that a classifier needs it.
# Compare the rows for what a patch *tells alone* with those for what is *lost without it*: where their contrasts lie on different sides
# of 1, it is the question that decides which patches come first, and not the data alone.
#
# ### Do two trainings measure the same?
#
# The test that CoMAE's order was put to above, on the same images. Its own rows are those of CoMAEs that were trained to the end
# (notebook 2), but for the one of threads, where a short training is enough to show what rounding does. *Own part*: after the mean graph or mean order of all images is taken out, so that position does not count.

# %%
lesson.graph_seeds(out, config, device)

# %% [markdown]
# Where the own parts of the measured graph are near 1 and those of CoMAE's near 0, the order is a property of the *image* for the
# one and of the *training* for the other. Both graphs go through the same PageRank, so it is the graph that makes the
# difference.

# %% [markdown] tags=["slide"]
# > **In short.** What one patch gives away about another can be measured, and two trainings can be asked whether they measure the same.
# > Being relied upon is still not the same as being informative.

# %% [markdown]
# ### Where the truth is known
#
# If tokens are Gaussian, $s(n\mid j)$ is a closed form and nothing need be trained: with $\Sigma$ the covariance,
# $\Sigma_{nn\mid j}=\Sigma_{nn}-\Sigma_{nj}\Sigma_{jj}^{-1}\Sigma_{jn}$. So two things can be tested on samples of a small random
# field: does the measured graph converge to the true one, and is sorting by PageRank the greedy order, as Theorem 1
# says, or even the optimal one, which brute force finds among nine patches?
#
# <details><summary>Predict before you run: two hubs are copies of each other. Which patch does PageRank take second, and which
# greedy?</summary>
#
# PageRank takes the copy: it has the same votes as the first. Greedy takes another patch, for the copy has nothing left to tell. This
# is what Eq. 9 leaves out.
#
# </details>

# %% tags=["slide"]
lesson.exact_and_found(out)

# %% [markdown]
# Left: what is left of the error with the most samples is the training's, not the data's, whose own error is the dashed line. Right: section 6 needs gains
# that do not shrink as patches are seen. But two patches that tell the same are *both* relied upon, PageRank takes both, and
# the second adds nothing: compare the rows from independent hubs to copies. **Coverage** discounts what is already known,
# on the same graph; [notebook 6](06_an_order_that_looks.ipynb) builds orders on it.

# %% [markdown] tags=["slide"]
# > **In short.** Theorem 1 is as good as Eq. 9. Where patches tell the same, their worth depends on what is already seen, and no fixed
# > score can say so.

# %% [markdown]
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
lesson.order_player(sample, ranks)

# %% [markdown]
# ## Your own image
#
# `cop.rank` takes a file, a folder, a PIL image, an array or a tensor:

# %%
cop.rank(sample.images[:2], profile=profile, device=device)[:, :8]

# %% [markdown]
# **What would change our mind.** On the order as a property of the image: CoMAEs of five seeds or more, trained to the end, whose orders of
# the same photographs agree when the mean order is taken out. On Theorem 1: a graph of real images on which PageRank's order stays as
# close to the optimum as greedy's, redundant patches included.
#
# **Recap.** Answer before you unfold.
#
# <details><summary>1. Patch 0 is relied upon by all others. Does the literal reading of section 6 put it first?</summary>
#
# No, last: normalising the columns of $A$ rewards those that rely on others. The prose and Fig. 2 mean the other direction.
#
# </details>
# <details><summary>2. Images of one class have nearly the same order. Is that a finding about the class?</summary>
#
# Only if images of *different* classes have other orders. If they have the same one as well, it is position.
#
# </details>
# <details><summary>3. Why is it not enough that two images have similar orders, when one asks whether an order is meaningful?</summary>
#
# A network may have a habit of its own, and show it on every image. Another training has another habit. Only what trainings share can
# be the image's.
#
# </details>
#
# ## Exercises
#
# Replace the dots and run the cell: it says whether you are right. A cell with a solution follows, but not in the
# copies that `make student` writes.
#
# 1. (Five minutes.) Two orders of four patches: `0, 1, 2, 3` and `1, 0, 2, 3`. What is Kendall's tau between them?

# %% tags=["exercise"]
answer = ...
pair = torch.tensor([[0, 1, 2, 3], [1, 0, 2, 3]])
truth = cop.orders.kendall_tau(*pair).item()
usual = {
    "that is Spearman's": cop.orders.spearman(*pair).item(),
    "take off the share in the opposite sequence": (1 + truth) / 2,
    "that is the share in the opposite sequence": (1 - truth) / 2,
    "divide by the number of pairs": 6 * truth,
}
exercises.check(answer, truth, hints=usual)

# %% tags=["solution"]
same, opposite = 5, 1  # of 4 · 3 / 2 = 6 pairs
answer = (same - opposite) / 6
exercises.check(answer, truth, hints=usual)

# %% [markdown]
# 2. (A quarter of an hour.) Eq. 15 is a linear system, $(I-cP)\,r=(1-c)\,\beta$. Solve it for the first image, `A[0]`, in double
#    precision; $c$ is `config.ranking.damping` and $\beta$ uniform.

# %% tags=["exercise"]
answer = ...
truth, c = scores[0], config.ranking.damping
literal = ranking.pagerank(A[0], c, orientation="literal")
sums = ranking.in_strength(A[0])
usual = {
    "each column of P sums to 1: transpose": torch.full_like(truth, 1 / N),
    "that is Eq. 10; Eq. 15 has a factor 1 - c": truth / (1 - c),
    "normalise the rows of A, not its columns": literal,
    "beta sums to 1": N * truth,
    "these are votes without the question of whose": sums / sums.sum(),
}
exercises.check(answer, truth, 1e-8, hints=usual)

# %% tags=["solution"]
rows = A[0].double()
P = (rows / rows.sum(1, keepdim=True)).T
beta = torch.full((N,), 1 / N).double()
answer = torch.linalg.solve(torch.eye(N).double() - c * P, (1 - c) * beta)
exercises.check(answer, truth, 1e-8, hints=usual)

# %% [markdown]
# 3. (Ten minutes more.) Now let $\beta$ be in proportion to `varied`, so that the walk starts anew on patches that change from image to
#    image.

# %% tags=["exercise"]
answer = ...
truth = ranking.pagerank(A[0], c, teleport=varied)
usual = {
    "beta is still uniform": scores[0],
    "beta has to sum to 1": varied.sum().item() * truth,
    "that is Eq. 10; Eq. 15 has a factor 1 - c": truth / (1 - c),
}
exercises.check(answer, truth, 1e-6, hints=usual)

# %% tags=["solution"]
beta = varied.double() / varied.double().sum()
answer = torch.linalg.solve(torch.eye(N).double() - c * P, (1 - c) * beta)
exercises.check(answer, truth, 1e-6, hints=usual)

# %% [markdown]
# 4. (An hour, without a check.) With a teleport vector from each image's *own* variance, does the share of "image" grow? Expect it to
#    grow, because a part $1-c$ of the scores then differs from image to image; whether the order gets better is another question. To
#    answer it, or for an order of your own invention, put a function from a batch to a ranking in the last exercise of
#    [notebook 6](06_an_order_that_looks.ipynb): there it is drawn, tested and placed on a leaderboard beside random, variance, collapse
#    and active. Here `batch.by_pagerank(A)` is what is asked for, with `batch.A` the graphs and `batch.patches` the pixels.
#
# ## References
#
# The paper: Guo et al., *The Collapse of Patches*, arXiv 2511.22281. Further reading:
#
# - Page, Brin, Motwani and Winograd, [*The PageRank Citation Ranking*](http://ilpubs.stanford.edu:8090/422/), 1999: the random surfer, and
#   what teleporting is for.
# - Gleich, [*PageRank Beyond the Web*](https://arxiv.org/abs/1407.5107), SIAM Review 2015: what the same vector is used for elsewhere, and
#   which of its variants there are.
# - Kendall, *A New Measure of Rank Correlation*, Biometrika 1938: tau, explained by counting pairs.
# - Nemhauser, Wolsey and Fisher, *An analysis of approximations for maximizing submodular set functions*, Mathematical Programming 1978:
#   what submodularity does promise of a greedy choice.
# - Jain and Wallace, [*Attention is not Explanation*](https://arxiv.org/abs/1902.10186), NAACL 2019: the same question asked of attention,
#   whether other weights would do as well.
