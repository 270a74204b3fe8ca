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
# # 4 · Generation along the order
#
# > *If some patches settle the others, an image generator should make those first.*
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/YOUR_ACCOUNT/cop/blob/main/notebooks/04_generation_along_the_order.ipynb)
# [![Open in Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/YOUR_ACCOUNT/cop/main?labpath=notebooks/04_generation_along_the_order.ipynb)
#
# | | |
# |---|---|
# | **Paper** | Sections 3.3, 4.2 and 4.3, Figs. 1, 7, 9 and Tables 2–4 of [*The Collapse of Patches*](https://arxiv.org/abs/2511.22281) |
# | **Time** | under a minute with the released artefacts, some minutes more when everything is trained anew |
# | **Hardware** | a laptop; two cores are enough |
# | **Before** | [3 · The collapse order](03_collapse_order.ipynb) |
# | **Next** | [5 · Classification from the first patches](05_first_patches.ipynb) |
#
# **You will see** MAR write images in random order and in collapse order, with the same noise; what fine-tuning along
# the order adds to fine-tuning as such; where the order of an image that does not exist yet can come from; and which
# of the differences are larger than chance.

# %% tags=["colab"]
import sys

if "google.colab" in sys.modules:  # a clean runtime of Colab: fetch the project and install it; elsewhere nothing happens
    get_ipython().system("git clone -q --depth 1 https://github.com/YOUR_ACCOUNT/cop.git /content/cop")
    get_ipython().system(f"{sys.executable} -m pip install -q -e /content/cop")
    sys.path.insert(0, "/content/cop")

# %% tags=["parameters"]
profile: str = "demo"  # smoke | demo | natural | paper
seed: int = 0  # seed of MAR, its fine-tunes, CoMAE and the noise
shown: int = 60  # images kept for the figures, the classes in turn
example: int = 8  # image of Fig. 1, counted from 0
brief: bool = False  # True: without the further sources of orders; seeds other than 0 run so, in half the time
device: str = "auto"  # auto | cpu | cuda

# %%
import numpy as np
import pandas as pd

from cop.lessons import evaluation, exercises, generation
from cop.lessons import generation_along_the_order as lesson
from cop.measure import metrics

pd.options.display.max_colwidth = None  # whole sentences in tables

# %%
out, config = lesson.start(profile, seed, shown=shown, example=example, brief=brief, device=device)
g, N = config.generation, config.num_tokens
model, trained = generation.mar(config, seed, device)
size = sum(p.numel() for p in model.parameters())
f"MAR of {size / 1e6:.1f} M weights, {N} tokens of {config.tokens.dim} values, {g.num_iter} steps per image"

# %% [markdown]
# ## MAR, and the one thing that changes
#
# MAR hides a random part of the tokens and learns to generate them from the rest. Each hidden token has a condition
# from the transformer, and a small diffusion model turns the condition into a token. To generate, it starts with
# everything hidden and uncovers a few tokens at a time, **in an order**. The order is an argument of ours; the rest is MAR.
#
# > "This stochastic arrangement assumes that patch dependencies follow a uniform distribution in an image, inducing
# > inefficiency in image uncertainty reduction. We apply our patch sequencing learned from CoMAE as extra supervision."
#
# Three systems of the paper: **MAR** (random order), **MAR+C** (the same weights, collapse order) and **CMAR** (trained
# on along collapse orders, a tenth of them random). We add the control that the paper lacks. CMAR had more training
# than MAR, and any training may help, so **continued random** gets the same extra steps with random orders.

# %%
tuned = generation.all_fine_tuned(config, seed, device)
lesson.trainings(trained, tuned)

# %% [markdown]
# ## Whose order?
#
# CoMAE needs a whole image to order it. The image to be generated does not exist yet, and the paper does not say whose
# order it takes. We read "class-specific labels and orders" as: **the order of a random training image of the class**.
# The order bank lends such orders, one byte per rank, and in other modes checks the reading:
#
# | mode | order of a new image of class *y* | what it tells |
# |---|---|---|
# | `train` | of a random training image of class *y* | the default |
# | `val` | of a random validation image of class *y* | does the bank leak training layouts? |
# | `class_mean`, `global_mean` | one per class; one for all | is the single image's order needed? |
# | `two_pass` | of a draft that MAR made in random order | no real image needed |
# | `random`, `wrong_class` | none; of another class | is it the order, or the right order? |

# %%
bank = generation.order_bank(config, seed, "train")
labels = generation.new_labels(config, 4)
first = bank.draw(labels, lesson.seeded(seed, 60))
f"{len(bank.ranks)} orders in {bank.ranks.numel() / 1024:.0f} KiB; lent to classes {labels.tolist()}, first patches {first[:, :4].tolist()}"

# %% [markdown]
# ## Two generations of one class
#
# The two images of Fig. 1 share class and noise; weights and order differ. A classifier that was trained on random
# subsets of patches says how sure the class is at each stage.

# %%
made = {n: generation.pictures(config, seed, *generation.SYSTEMS[n], g.cfg_scale, shown, device) for n in ("MAR", "MAR+C", "CMAR")}
ks = evaluation.stage_sizes(config)
pair = {"random": made["MAR"], "collapse": made["CMAR"]}
y = generation.new_labels(config, len(made["MAR"][0]))
certainty = {n: evaluation.class_certainty(config, x, y, r, ks, device) for n, (x, r) in pair.items()}

# %%
names = lesson.class_names(config)
lesson.fig1(out, pair, certainty, ks, example, names[int(y[example])])

# %% [markdown]
# One image proves nothing, so here is the mean over all the images shown, with Student's 95 % interval of the paired difference:

# %%
lesson.certainty_gaps(out, certainty, ks)

# %% [markdown]
# The arrow of Fig. 1 says that the difference is above 0 before the end. Where it is below, the class becomes certain *later* along
# the collapse order: orders that begin with a border, which all classes share, tell a classifier nothing for long. Mind that
# the classifier, the same for all seeds, was trained on random subsets, so that such a beginning is new to it.

# %% [markdown]
# ## The same class, the same noise
#
# > "MAR is framed in purple. Our MAR+C and CMAR results are in blue and green respectively." (Fig. 7)

# %%
lesson.fig7(out, made, y, names)

# %%
lesson.fig9(out, made["CMAR"][0], names, g.cfg_scale)

# %% [markdown]
# One recognises the classes; sandals, thin and full of holes, are the weakest. The seams are those of a small diffusion
# head that writes 4 × 4 pixels at a time. One thing had to be added to MAR for a model of this size: **the denoised
# token is held in the range of pixel values** (`clip` of the profile, DDPM's clipping; off at paper scale). Where almost
# nothing is left of the token, it follows from the predicted noise through a division by $\sqrt{\bar\alpha_T}$, which is nearly 0:
# the division amplifies prediction errors, and without clipping a small network's tokens grow to hundreds. All systems share it.

# %% [markdown]
# ## Measured
#
# A few hundred images per system, the same classes and seeds in all. The features are those of our small classifier, the
# same one for every seed of this notebook, so the distance is a *Fréchet distance (classifier features)* and **not an FID**;
# the reference is the whole test split. Intervals are 95 % of the jackknife over the generated images, an equal number of
# each class left out at a time. They are about samples of this size: also real images have a distance above 0 (last row).

# %%
sources = () if brief else ("val", "class_mean", "global_mean", "two_pass", "random", "wrong_class")
results = evaluation.comparison(config, seed, sources, device, side_by_side=True)
lesson.generation_systems(out, results)

# %%
lesson.generation_metrics(out, results, config)

# %% [markdown]
# A caution first: compare the row of real images. Where the classifier finds *more* of the generated images in their class
# than of the real ones, and gives them a higher inception score, generated images are more stereotyped than real ones. Of the
# five only the Fréchet distance, precision and recall say something about realism.

# %% [markdown]
# ## Tables 2, 3 and 4
#
# Ours beside the paper's. The two live in different feature spaces: compare the order within a column, never the values.

# %%
lesson.tab2(out, results, config)

# %%
lesson.tab3(out, results, config)

# %%
lesson.tab4(out, results, config)

# %% [markdown]
# ## Are the differences larger than chance?
#
# Paired: the jackknife leaves out the same images of both systems. Each interval stands by itself; p and the verdict are
# corrected by Holm's method for all rows of the table, which are one family.

# %%
lesson.generation_gaps(out, results, config)

# %% [markdown]
# And the order's source: CMAR with the training bank against CMAR with every other source, another family.

# %%
lesson.source_gaps(results, config, sources)

# %% [markdown]
# An order matters to CMAR where the training bank beats `random` and `wrong_class`, and it is the *image's* order that matters
# where it beats `class_mean` and `global_mean`. Ask it of both blocks, with and without guidance, and of every run on
# record (below): a difference that one block shows and the other does not is no property of the method. Nor does a row of `val`
# with *no difference found* prove that the bank leaks nothing: its interval says how large a leak can still be, and the share
# of the right class is a second place to look for it.
#
# ## A sharper instrument
#
# Metrics of a few hundred images are noisy. The training loss on *test* images is not: the same images, hidden tokens,
# timesteps and noise go to every model, and only the weights differ. Does training along an order help **along that order**?

# %%
losses = lesson.losses_by_order(config, seed, device=device)
lesson.order_loss(out, losses)

# %%
lesson.order_gain(out, losses)

# %% [markdown]
# A star marks differences that exceed the noise, by Holm's method for this table. **A model has learned its order** where its
# loss is below the control's along it, and the order has a price where it is above elsewhere; ascending CMAR is the
# mirror image. Compare within one order only. Different orders hide different patches, and some patches are harder than others:
# that losses are higher along one order than along another says nothing about either.
#
# ## Paper vs ours
#
# Better and worse are corrected by Holm's method for the rows of this run. The last column holds the same differences for all seeds.

# %%
lesson.verdicts(out, results, losses, config)

# %% [markdown]
# ### Over seeds
#
# The intervals above cover the luck of sampling. Retraining everything with another seed covers the luck of training:

# %%
lesson.generation_seeds(out, config)

# %% [markdown]
# **What holds and what does not.** A row of the table is a finding where all seeds have one sign and the mean's interval leaves
# out 0; a sign that changes from seed to seed is the luck of training. Look first at the test loss along collapse orders: it
# says whether a model learns the order at all. Then at the Fréchet distance against *continued random*: it says whether images
# gain from the order, and not from more training. The paper's gains (.01 to .09 in tFID at 50,000 images) are far below what
# some hundred images and a few small models can see, so nothing here can refute them; but they were reported without
# the control and without a second seed, and the spread of the seeds above tells how large the luck of a seed can be.
#
# ## Exercises
#
# Replace the dots and run the cell: it says whether you are right. A cell with a solution follows, but not in the
# copies that `make student` writes.
#
# 1. After step $s$ of $S$ (`g.num_iter`) MAR has $\lfloor N\cos\frac{\pi s}{2S}\rfloor$ tokens left to make, and makes at least
#    one per step. How many does it make in the *first* step, and how many in the *last*?

# %% tags=["exercise"]
first, last = ..., ...
exercises.check((first, last), lesson.first_and_last(N, g.num_iter))

# %% tags=["solution"]
after = [np.floor(N * np.cos(np.pi / 2 * s / g.num_iter)) for s in (1, g.num_iter - 1)]
first, last = max(1, N - after[0]), max(1, after[1])
exercises.check((first, last), lesson.first_and_last(N, g.num_iter))

# %% [markdown]
# 2. The Fréchet distance compares two clouds of features by their means and covariances only. What is it between one
#    feature of mean 0 and variance 1 and one of mean 1 and variance 4?

# %% tags=["exercise"]
answer = ...
a, b = ({"mu": np.array([m]), "sigma": np.array([[v]])} for m, v in ((0.0, 1.0), (1.0, 4.0)))
exercises.check(answer, metrics.frechet(a, b), 1e-5)

# %% tags=["solution"]
answer = (0 - 1) ** 2 + (1**0.5 - 4**0.5) ** 2
exercises.check(answer, metrics.frechet(a, b), 1e-5)

# %% [markdown]
# Without a check: sample CMAR with `num_iter` equal to $N$, one token per step, as the paper does. Does the order matter
# more? Give every image the order of *itself* after a two-pass draft by CMAR instead of MAR.
#
# ## References
#
# Guo et al., arXiv 2511.22281 · Li et al., *Autoregressive Image Generation without Vector Quantization*, arXiv 2406.11838 ·
# Ho and Salimans, *Classifier-Free Diffusion Guidance*, arXiv 2207.12598 · Kynkäänniemi et al., arXiv 1904.06991 ·
# Heusel et al., arXiv 1706.08500
