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
# # 1 · Patch entropy
#
# > *Some patches, once seen, make the others more certain. In which order should one look?*
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/YOUR_ACCOUNT/cop/blob/main/notebooks/01_patch_entropy.ipynb)
# [![Open in Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/YOUR_ACCOUNT/cop/main?labpath=notebooks/01_patch_entropy.ipynb)
#
# | | |
# |---|---|
# | **Paper** | Section 1, Eq. 1, section 6 and the arrow of Fig. 1 of [*The Collapse of Patches*](https://arxiv.org/abs/2511.22281) |
# | **Time** | about a minute with the released artefacts, some minutes when everything is trained |
# | **Hardware** | a laptop; two cores are enough |
# | **Before** | nothing: start here |
# | **Next** | [2 · The dependency autoencoder](02_dependency_autoencoder.ipynb) |
#
# **You will see** why Eq. 1 as printed cannot prefer any order; what can be measured instead; how fast
# several orders remove uncertainty under a Gaussian model, where everything is exact, and under a learned one; and how
# certain a classifier becomes along the way. Text in quotation marks is the paper's; the rest is ours.

# %% tags=["colab"]
import sys

if "google.colab" in sys.modules:  # a clean runtime of Colab: fetch the project and install it; elsewhere nothing happens
    get_ipython().system("git clone -q --depth 1 https://github.com/YOUR_ACCOUNT/cop.git /content/cop")
    get_ipython().system(f"{sys.executable} -m pip install -q -e /content/cop")
    sys.path.insert(0, "/content/cop")

# %% tags=["parameters"]
profile: str = "demo"  # smoke | demo | natural | paper
seed: int = 0  # seed of training and of the random orders
images: int = 200  # test images whose curves are averaged
gaussian_images: int = 20  # the same for the Gaussian model, which factorises a large matrix per order
prefixes: int = 17  # points on the curves of the learned models
device: str = "auto"  # auto | cpu | cuda

# %%
import pandas as pd
import torch

from cop import orders
from cop.lessons import exercises, pipeline
from cop.lessons import patch_entropy as lesson
from cop.paper import entropy

pd.options.display.max_colwidth = None  # whole sentences in tables

# %%
out, config = lesson.start(profile, seed, images=images, gaussian_images=gaussian_images, prefixes=prefixes, device=device)
sample = pipeline.sample(config, "test", images, device)
N = config.num_tokens
f"{len(sample.images)} test images, {N} patches of {sample.tokens.shape[2]} values, unit standard deviation"

# %% [markdown]
# ## Eq. 1, taken literally
#
# The paper asks for the ranking $R$ that minimises
#
# > $$H_c=\sum_{i=1}^{N}H\left[P\left(e_n\mid\{e_i;\,R(e_i)>R(e_n)\}\right)\right]\qquad(1)$$
#
# Every patch is conditioned on all patches seen before it. But that sum is the **chain rule of entropy**: whatever
# the order, it equals the joint entropy $H(e_1,\ldots,e_N)$. That is exact for every order that is fixed before the image is
# seen: Eq. 1 as printed is the same number for all of them. Where the order depends on the image, entropies are averages
# over different conditions, and what stays the same is the log-likelihood of each image. A Gaussian model makes both one:
# its conditional entropies are log-determinants, which do not depend on the values seen. So it shows it without any
# approximation, for orders of either kind:

# %%
gauss = entropy.GaussianTokens.fit(lesson.training_tokens(config, device), floor=config.predictor.floor)
zoo = lesson.sample_orders(config, "test", images, seed, device=device)
first = {name: gauss.chain_terms(r[:1]).sum().item() for name, r in zoo.items()}
pd.DataFrame({"order": first.keys(), "Eq. 1, nats": [f"{v:.3f}" for v in first.values()]})

# %% [markdown]
# Equal to the last digit printed. What *does* differ between orders is **how fast** uncertainty falls. Section 6 has the
# quantity (Eq. 8), the entropy that a prefix $S$ leaves:
#
# > $$H_c(S)=\sum_{n=1}^{N}H\left[e_n\mid\{e_j:j\in S\}\right]\qquad(8)$$
#
# We measure it over the patches not seen yet, above a small observation noise (a patch that was seen costs nothing),
# and summarise a curve by its **area**: the mean over all prefixes, as a share of the start. Lower is faster. A curve falls
# for two reasons, which the area does not tell apart: costly patches are *removed* by being seen, and seen patches *inform*
# about the others. Further down the two are separated.
#
# ## Exact: a Gaussian model
#
# One Cholesky factor per order gives the whole curve. The **greedy** order, which at each step takes the patch
# that lowers the rest most, is the yardstick: section 6 argues that PageRank approximates it.

# %%
few = {name: r[:gaussian_images].unique(dim=0) for name, r in zoo.items()}
curves = {name: gauss.sum_curve(r) for name, r in few.items()}
lesson.entropy_gaussian(out, curves)

# %% [markdown]
# Is greedy a fair yardstick? For a few patches all orders can be searched. Dynamic programming over the subsets of
# eight patches gives the optimum; a thousand random orders show how far from it one can be.

# %%
eight = gauss.subset(torch.linspace(0, N - 1, 8).round().long())
best, quick = eight.optimal_order()[None], eight.greedy_order()[None]
chance = orders.random_order(1000, 8, pipeline.seeded(seed, 1))
small = {"optimum": best, "greedy": quick, "random (mean of 1000)": chance}
pd.DataFrame([{"order": k, "area": f"{entropy.area(eight.sum_curve(r)).mean().item():.3f}"} for k, r in small.items()])

# %% [markdown]
# ## Learned: what natural statistics add
#
# Images are not Gaussian: a sleeve is there or it is not. A small transformer sees any subset of the patches and
# predicts a mean and a scale for every value of the others (`entropy.TokenPredictor`, trained on random subsets).
# What the unseen patches cost under it is an upper bound on their conditional entropy.
#
# One caution: the collapse, in-strength and variance orders were computed from the whole image, so they carry information
# about unseen patches; our curves ignore this and flatter them.

# %%
predictor, artefact = pipeline.predictor(config, seed, device)
ks = torch.linspace(0, N, prefixes).round().long().tolist()
learned = {n: entropy.predictor_curve(predictor, sample.tokens, r, ks)["nll"] for n, r in zoo.items()}
lesson.entropy_learned(out, learned, ks)

# %% [markdown]
# The area of each image's curve, averaged, with Student's 95 % interval over the images, and the difference of each order
# from random **on the same images**. The verdicts are corrected by Holm's method for the number of orders that this table
# compares with random: they are one family.

# %%
area = {name: entropy.area(c, ks) for name, c in learned.items()}
lesson.entropy_areas(out, area)

# %%
lesson.area_table(out, area)

# %% [markdown]
# **Removal and information.** What the seen patches would have cost with nothing seen is removal: any order that takes costly
# patches first has it. The rest of the fall is information about the patches that are still unseen.

# %%
removed = {n: entropy.removed_curve(predictor, sample.tokens, r, ks)[:, 4] for n, r in zoo.items()}
told = lesson.told_table(out, learned, removed, ks)
told

# %% [markdown]
# An order with a small area can owe it to either column; only the last one is what the paper means by informing. Patch
# variance removes by construction, for a patch of high contrast costs much by itself.
#
# The intervals above cover the choice of images. Training has its own luck: below, the same areas from runs that differ in
# the seed of everything (CoMAE, predictor, random orders), as `make seeds` leaves them.

# %%
lesson.entropy_seeds(out, list(area))

# %% [markdown]
# ## Class certainty
#
# Fig. 1 of the paper shows a second kind of collapse: the *class* becomes certain. A ViT that was trained on random
# subsets of patches, and so never saw an order, judges the first $k$ patches of each order. It is the same network for every
# seed of this notebook. It is used to patches from all over the image: a prefix that lies in one place, such as a border,
# is unlike anything it was trained on, and what it makes of that says little about what the patches tell.

# %%
judge = lesson.judge(config, device)
certainty = {n: entropy.certainty_curve(judge, sample.images, sample.labels, r, ks) for n, r in zoo.items()}
lesson.certainty(out, certainty, ks)

# %% [markdown]
# One image, in random and in collapse order. It is the first of the sample that the judge gets right when it sees
# everything: chosen by a rule, not by its looks.

# %%
lesson.fig1_reveal(out, judge, sample, zoo, certainty)

# %% [markdown]
# ## Paper vs ours
#
# | claim | paper | here |
# |---|---|---|
# | Eq. 1 selects an order | "is minimised" | it is the same number for every fixed order (chain rule); the *area* under Eq. 8 can be minimised |
# | PageRank gives the greedy order | Theorem 1 | compare the greedy and the collapse order in the table below |
# | the collapse order informs faster than random (C3) | Fig. 1, one image | the table below, paired over the test images, and over all seeds on record |

# %%
lesson.verdicts(out, area, certainty, told, ks)

# %% [markdown]
# **How to read it.** Claim C3 holds where the row of the collapse order says *faster*, with every seed: one run is not enough,
# for what a CoMAE relies on is up to its seed ([notebook 3](03_collapse_order.ipynb)). Patch variance, which needs no training,
# and the greedy order, the yardstick, show how much faster than random an order can be on these images. But a small area is
# not yet information: an order that wins by area and not by what it *tells* about the rest, or by certainty, wins by
# taking away costly patches. Whether all this is a property of small centred images or of the method is a question for
# photographs.

# %% [markdown]
# ## Exercises
#
# Replace the dots and run the cell: it says whether you are right. A cell with a solution follows, but not in the
# copies that `make student` writes.
#
# 1. Eq. 1 is one number for every order. Find it **without any order**, from the covariance `gauss.cov` of all token
#    values. A Gaussian's entropy is half its log-determinant, up to constants that cancel against the noise, of which
#    every patch has `gauss.noise`.

# %% tags=["exercise"]
answer = ...
exercises.check(answer, first["random"])

# %% tags=["solution"]
answer = torch.linalg.slogdet(gauss.cov).logabsdet / 2 - N * gauss.noise
exercises.check(answer, first["random"])

# %% [markdown]
# 2. What is the area of the greedy curve, `curves["greedy"][0]`: its mean over the prefixes of 0 to $N-1$ patches, as a
#    share of where it starts?

# %% tags=["exercise"]
answer = ...
exercises.check(answer, entropy.area(curves["greedy"])[0])

# %% tags=["solution"]
remaining = curves["greedy"][0]
answer = remaining[:-1].mean() / remaining[0]
exercises.check(answer, entropy.area(curves["greedy"])[0])

# %% [markdown]
# Without a check: why is raster order slow and centre-out fast on these images? Plot the greedy order with
# `lesson.figures.mean_rank_maps`.
#
# ## References
#
# Guo et al., *The Collapse of Patches*, arXiv 2511.22281 · Cover and Thomas, *Elements of Information Theory*, chapter 2 ·
# Krause, Singh and Guestrin, *Near-optimal sensor placements in Gaussian processes*, JMLR 2008.
