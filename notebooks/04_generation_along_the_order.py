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
# | **Time** | to read: 50 minutes; to run: under a minute with the released artefacts, hours when everything is trained anew |
# | **Hardware** | a laptop; two cores are enough |
# | **Before** | [3 · The collapse order](03_collapse_order.ipynb) |
# | **Next** | [5 · Classification from the first patches](05_first_patches.ipynb) |
#
# **You will see** MAR write images in random order and in collapse order, with the same noise; what fine-tuning along
# the order adds to fine-tuning as such; where the order of an image that does not exist yet can come from; and which
# of the differences are larger than chance.
#
# **After this you can** generate an image token by token along any order, with the diffusion loss and the guidance written out by
# yourself; measure a generator by its Fréchet distance, precision and recall, and say what each of them does not see; and tell
# what an order adds from what more training adds.
#
# **You need to know** diffusion models ([an introduction](https://lilianweng.github.io/posts/2021-07-11-diffusion-models/),
# [the paper](https://arxiv.org/abs/2006.11239)), attention ([in pictures](https://jalammar.github.io/illustrated-transformer/),
# [line by line](https://nlp.seas.harvard.edu/annotated-transformer/)) and masked autoencoders
# ([the paper](https://arxiv.org/abs/2111.06377), [notebook 2](02_dependency_autoencoder.ipynb)). Terms are explained where they first
# occur, and in the [glossary](../book/glossary.md).

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
seed: int = 0  # seed of MAR, its fine-tunes, CoMAE and the noise
shown: int = 60  # images kept for the figures, the classes in turn
example: int = 8  # image of Fig. 1, counted from 0
brief: bool = False  # True: without the further sources of orders
device: str = "auto"  # auto | cpu | cuda

# %%
import math

import numpy as np
import pandas as pd
import torch

from cop.lessons import evaluation, exercises, generation
from cop.lessons import generation_along_the_order as lesson
from cop.measure import metrics

pd.options.display.max_colwidth = None  # whole sentences in tables
pd.options.display.max_rows = None  # and all of them

# %%
out, config = lesson.start(
    profile, seed, shown=shown, example=example, brief=brief, device=device
)
g, N, C = config.generation, config.num_tokens, config.tokens.dim
model, trained = generation.mar(config, device)
size = sum(p.numel() for p in model.parameters())
f"MAR of {size / 1e6:.1f} M weights, {N} tokens of {C} values"

# %% [markdown] tags=["slide"]
# ## The result first
#
# From the records of all seeds, with the mean over seeds and its 95 % interval:

# %% tags=["slide"]
lesson.in_short(out, config)

# %% [markdown]
# ## MAR, and the one thing that changes
#
# [MAR](../book/glossary.md#mar) hides a random part of the [tokens](../book/glossary.md#token) and learns to generate them from the rest. Each hidden token has a condition
# from the transformer, and a small [diffusion model](../book/glossary.md#diffusion-model) turns the condition into a token. To generate, it starts with
# everything hidden and uncovers a few tokens at a time, **in an order**. The order is an argument of ours; the rest is MAR.
#
# > "This stochastic arrangement assumes that patch dependencies follow a uniform distribution in an image, inducing
# > inefficiency in image uncertainty reduction. We apply our patch sequencing learned from CoMAE as extra supervision."
#
# Three systems of the paper: **MAR** (random order), **MAR+C** (the same weights, collapse order) and **CMAR** (trained
# on along collapse orders, a tenth of them random). We add the [control](../book/glossary.md#control) that the paper lacks. CMAR had more training
# than MAR, and any training may help, so **continued random** gets the same extra steps with random orders.
#
# Why should this order help? Sections 3.3 and 4 of the paper have no numbered equation; the reason is the argument of section 6,
# judged in [notebook 3](03_collapse_order.ipynb) and [notebook 6](06_an_order_that_looks.ipynb). Eq. 9 assumes that what a patch
# takes from the uncertainty of the others does not depend on what is already seen, $\Delta(j\mid S)\approx[(I-cP)^{-1}\beta]_j$;
# Eq. 10 names that vector $r$; Eqs. 11 to 13 write it as the series $\sum_t c^tP^t\beta$ and find that $\beta+cPr$ is $r$ again, which
# Eq. 14 states: $r=\beta+cPr$, PageRank up to a factor. They claim that sorting by $r$ is the greedy order. None of them speaks of a
# generator: that generating in this order makes better images is a further claim, and it is the one tested here.

# %%
tuned = generation.histories(config, seed, device)
lesson.trainings(trained, tuned)

# %% [markdown] tags=["slide"]
# > **In short.** MAR generates tokens a few at a time, in an order that is an argument. MAR+C changes the order only, CMAR also the
# > training, and continued random is as much training without the order.

# %% [markdown] tags=["slide"]
# ## By hand, once
#
# **One token's diffusion loss.** A token $x_0$ of a real image is hidden; from the others the transformer makes its condition $z$. At a
# step $t$ of 1,000 the token is mixed with noise, and a small network tells the noise again from the mixture, $t$ and $z$:
#
# $$x_t=\sqrt{\bar\alpha_t}\,x_0+\sqrt{1-\bar\alpha_t}\,\epsilon,\qquad
# L=\|\epsilon-\epsilon_\theta(x_t,t,z)\|^2/C+\text{a bound for the variance}.$$
#
# $\bar\alpha_t$ falls from 1 to 0 along a squared cosine: it is the share of the token's variance that is left.

# %% tags=["slide"]
model = model.cpu().requires_grad_(False)  # one token is little work
tokens = lesson.sample_tokens(config, "test", 1, "cpu")  # (1, N, C)
rank = tokens.var(-1).argsort()  # the patch richest in contrast is hidden
others, hidden = rank[:, :-1], rank[:, -1:]
label = model.class_emb.weight[:1]
z = model.predict(tokens[:, others[0]], label, others, hidden)

# %% tags=["slide"]
def alpha(t):
    """The share of the variance that is left after step t."""
    angles = ((u / 1000 + 0.008) / 1.008 * math.pi / 2 for u in (t + 1, 0))
    end, start = (math.cos(angle) ** 2 for angle in angles)
    return end / start


t, x0 = 500, tokens[:, hidden[0]]
before, kept = alpha(t - 1), alpha(t)
noise = torch.randn(x0.shape, generator=lesson.seeded(seed, 1))
noisy = kept**0.5 * x0 + (1 - kept) ** 0.5 * noise
told, v = model.diffloss.net(noisy, torch.tensor([[t]]), z).chunk(2, dim=-1)
error = (noise - told).square().mean()
f"{kept:.3f} of the variance is the token's; squared error {error:.3f}"

# %% [markdown] tags=["slide"]
# The bound trains $v$, how sure the network is: the divergence, in bits, of the step back that it would make from the one that is
# right when $x_0$ is known. Both are Gaussian, so that it is one call. The sum is what the package computes:

# %% tags=["slide"]
beta = 1 - kept / before
least = beta * (1 - before) / (1 - kept)  # the variance if x0 is known
mean = (noisy - beta / (1 - kept) ** 0.5 * told) / (1 - beta) ** 0.5
best = beta * before**0.5 * x0 + (1 - before) * (1 - beta) ** 0.5 * noisy
right = torch.distributions.Normal(best / (1 - kept), least**0.5)
width = least ** ((1 - v) / 4) * beta ** ((1 + v) / 4)  # v from -1 to 1
made = torch.distributions.Normal(mean, width)
bits = torch.distributions.kl_divergence(right, made).mean() / math.log(2)
given = {"timesteps": torch.tensor([[[t]]]), "noise": noise[None]}
whole = model.diffloss(z, x0, None, **given)
assert torch.isclose(error + bits, whole, rtol=1e-3), "not the package's"
f"{error:.4f} + {bits:.4f} bits = {whole:.4f}, the loss of the package"

# %% [markdown] tags=["slide"]
# **Nine tokens along an order.** To generate, all begins hidden. Each step asks the transformer for the condition of the next position
# of the order, given what is already there, and draws the token. Here one token per step, along an order that CoMAE made for a training
# image; the package, told to do the same, has the same nine tokens.

# %% tags=["slide"]
label = torch.zeros(1, dtype=torch.long)
bank = generation.order_bank(config, seed, "train")
order = bank.draw(label, lesson.seeded(seed, 3))
draws = torch.Generator().manual_seed(seed)
noise = torch.randn(N, g.num_sampling_steps, C, generator=draws)
tokens, how = torch.zeros(1, N, C), {"cfg_scale": None, "clip": g.clip}
for step in range(9):
    known, new = order[:, :step], order[:, step : step + 1]
    seen, of_class = tokens[:, known[0]], model.class_emb(label)
    z = model.predict(seen, of_class, known, new)[0]
    fresh = noise[new[0]]
    tokens[:, new[0]] = model.diffloss.sample(z, fresh, 1.0, **how)

# %% tags=["slide"]
states = []  # what the package has after each of its steps
how = {"num_sampling_steps": g.num_sampling_steps, "clip": g.clip}
how |= {"num_iter": N, "callback": states.append}
model.sample(label, [seed], order, **how)
assert tokens.allclose(states[8]["tokens"], atol=1e-3), "not the package's"
nine = order[0, :9]
rows = {"patch": nine, "mean of its token": tokens[0, nine].mean(-1)}
pd.DataFrame(rows).rename_axis("step").round(2)

# %% [markdown] tags=["slide"]
# **Guidance.** [Classifier-free guidance](../book/glossary.md#guidance) predicts the noise twice, with the class ($c$) and without ($u$),
# and goes beyond the first by a scale $s$: $\epsilon=u+s\,(c-u)$. With $s=1$ nothing changes. The chain of a single step shows it:

# %% tags=["slide"]
no_class = model.predict(seen, model.fake_latent, known, new)[0]
both = torch.cat([z, no_class])
x = torch.randn(1, C, generator=lesson.seeded(seed, 2))
told, _ = model.diffloss.net(x, torch.tensor([0]), both).chunk(2, dim=-1)
(with_class, without), s = told.split(1), 3.0
guided = without + s * (with_class - without)
how = {"cfg_scale": s, "clip": None}
found = model.diffloss.sample(both, x[:, None], 1.0, **how)
taken = (x - alpha(0) ** 0.5 * found) / (1 - alpha(0)) ** 0.5
assert guided.allclose(taken, atol=1e-2), "not the package's"
rows = {"with class": with_class, "without": without, "guided": guided}
pd.DataFrame({n: e[0, :4] for n, e in rows.items()}).T.round(3)

# %% [markdown] tags=["slide"]
# > **In short.** The loss asks for the noise in one token; sampling walks along the order and lets every step see what is already
# > there; guidance exaggerates what the class changes.

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
lent = pd.DataFrame(first[:, :4].numpy()).add_prefix("patch ")
kibibytes = bank.ranks.numel() / 1024
print(f"{len(bank.ranks)} orders in {kibibytes:.0f} KiB; of them lent:")
lent.assign(**{"to class": labels})

# %% [markdown] tags=["slide"]
# > **In short.** An order needs an image, and there is none yet: the bank lends orders of training images, and its modes test what
# > in the lent order matters.

# %% [markdown]
# ## Two generations of one class
#
# The two images of Fig. 1 share class and noise; weights and order differ. A classifier that was trained on random
# subsets of patches says how sure the class is at each stage.
#
# <details><summary>Predict before you run: which image is sure of its class earlier, and what would make it the other one?</summary>
#
# The paper says: the one in collapse order. It is the other one where the order begins with patches that all classes share, such as
# an empty border. Random tokens lie all over the image and cannot all be empty.
#
# </details>

# %%
made = {
    n: generation.pictures(
        config, seed, *generation.SYSTEMS[n], g.cfg_scale, shown, device
    )
    for n in ("MAR", "MAR+C", "CMAR")
}
ks = evaluation.stage_sizes(config)
pair = {"random": made["MAR"], "collapse": made["CMAR"]}
y = generation.new_labels(config, len(made["MAR"][0]))
certainty = {
    n: evaluation.class_certainty(config, x, y, r, ks, device)
    for n, (x, r) in pair.items()
}

# %%
names = lesson.class_names(config)
lesson.fig1(out, pair, certainty, ks, example, names[int(y[example])])

# %% [markdown]
# **Step by step.** Any class by any two of the three systems, with the same noise. MAR writes several tokens in a step, one at first and
# more at the end; the animation that stands here shows these steps, three times. In JupyterLab, Colab or Binder run the
# cell, and move the slider or press Play to go patch by patch.

# %% tags=["slide"]
titles = [names[int(label)] for label in y]
lesson.generation_player(config, made, titles, example)

# %% [markdown]
# One image proves nothing, so here is the mean over all the images shown, with [Student's 95 % interval](../book/glossary.md#students-interval) of the
# [paired difference](../book/glossary.md#paired-difference):

# %%
lesson.certainty_gaps(out, certainty, ks)

# %% [markdown]
# The arrow of Fig. 1 says that the difference is above 0 before the end. Where it is below, the class becomes certain *later* along
# the collapse order: orders that begin with a border, which all classes share, tell a classifier nothing for long. Mind that
# the classifier, the same for all seeds, was trained on random subsets, so that such a beginning is new to it.

# %% [markdown] tags=["slide"]
# > **In short.** One picture shows how generation proceeds. Only the paired mean over many images says which order is sure earlier.

# %% [markdown]
# ## The same class, the same noise
#
# > "MAR is framed in purple. Our MAR+C and CMAR results are in blue and green respectively." (Fig. 7)

# %% tags=["slide"]
lesson.fig7(out, made, y, names)

# %%
lesson.fig9(out, made["CMAR"][0], names, g.cfg_scale)

# %% [markdown]
# Can you tell the classes? Shapes that are thin and full of holes, such as sandals, are the hardest to make. Seams come from the
# small diffusion head, which writes one patch at a time. One thing had to be added to MAR for a model of this size: **the denoised
# token is held in the range of pixel values** (`clip` of the profile, DDPM's clipping; off at paper scale). Where almost
# nothing is left of the token, it follows from the predicted noise through a division by $\sqrt{\bar\alpha_T}$, which is nearly 0:
# the division amplifies prediction errors, and without clipping the tokens of a small network leave that range by far. All systems
# share it.

# %% [markdown] tags=["slide"]
# > **In short.** Look at images to find what is wrong with them. To compare systems takes numbers over many images.

# %% [markdown] tags=["slide"]
# ## By hand: what the metrics count
#
# **The [Fréchet distance](../book/glossary.md#fréchet-distance)** takes two clouds of features for Gaussians:
# $\|\mu-\mu'\|^2+\mathrm{tr}\,(\Sigma+\Sigma'-2(\Sigma\Sigma')^{1/2})$. The trace of the root is the sum of the roots of the
# eigenvalues. For two clouds of fifty points in the plane:

# %% tags=["slide"]
draw = np.random.default_rng(seed)
clouds = [torch.tensor(draw.normal(m, m, (50, 2))) for m in (1.0, 2.0)]
a, b = (metrics.statistics(cloud) for cloud in clouds)
means = ((a["mu"] - b["mu"]) ** 2).sum()
roots = np.linalg.eigvals(a["sigma"] @ b["sigma"]).real ** 0.5
spreads = np.trace(a["sigma"] + b["sigma"]) - 2 * roots.sum()
assert np.isclose(means + spreads, metrics.frechet(a, b))
f"of the means {means:.2f}, of the spreads {spreads:.2f}"

# %% [markdown] tags=["slide"]
# **[Precision and recall](../book/glossary.md#precision-and-recall) as balls.** Around each real image lies a ball that reaches to its
# k-th nearest real neighbour. Precision is the share of generated images inside any of them; recall turns the roles round. Four real
# and four generated images with one feature each, and $k=1$:

# %% tags=["slide"]
real = torch.tensor([[0.0], [1.0], [3.0], [10.0]])
fake = torch.tensor([[0.4], [0.5], [2.0], [3.2]])


def inside(points, centres, k=1):
    """The share of points in a ball around any of the centres."""
    radius = torch.cdist(centres, centres).sort().values[:, k]
    near = torch.cdist(points, centres) <= radius
    return near.any(1).float().mean().item()


shares = inside(fake, real), inside(real, fake)
assert np.allclose(shares, metrics.precision_recall(real, fake, k=1))
f"precision {shares[0]}, recall {shares[1]}"

# %% [markdown] tags=["slide"]
# > **In short.** The Fréchet distance sees means and spreads and no single image. Precision asks whether generated images look real,
# > recall whether all of reality occurs.

# %% [markdown]
# ## Measured
#
# A few hundred images per system, the same classes and seeds in all. The features are those of our small classifier, the
# same one for every seed of this notebook, so the distance is a *Fréchet distance (classifier features)* and **not an FID**;
# the reference is the whole test split. Intervals are 95 % of the [jackknife](../book/glossary.md#jackknife) over
# the generated images, an equal number of each class left out at a time. They are about samples of this size: also real images have a distance above 0, its
# [floor](../book/glossary.md#floor). The [inception score](../book/glossary.md#inception-score) is high where the classifier is sure of
# each image and all classes occur. The table of all systems and sources stands in the appendix.
#
# <details><summary>Predict before you run: what does guidance do to the share of the right class, to precision, and to recall?</summary>
#
# It makes every image more typical of its class. The share of the right class and precision can be expected to rise and recall to
# fall: compare the hollow dots with the filled ones.
#
# </details>

# %% tags=["slide"]
sources = ("val", "class_mean", "global_mean", "two_pass", "random")
sources = () if brief else (*sources, "wrong_class", "measured")
how = {"device": device, "side_by_side": True}
results = evaluation.comparison(config, seed, sources, **how)
lesson.generation_metrics(out, results, config)

# %% [markdown]
# A caution: compare with real images (dotted). Where the classifier finds *more* of the generated images in their class
# than of the real ones, and gives them a higher inception score, generated images are more stereotyped than real ones. Of the
# five only the Fréchet distance, precision and recall say something about realism.

# %% [markdown] tags=["slide"]
# > **In short.** Five numbers for each system, each with an interval, and real images as the yardstick.

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

# %% [markdown] tags=["slide"]
# > **In short.** The paper's tables have one value per system. Whether two of them differ by more than chance is asked of pairs, on
# > the same images, in the appendix; the verdicts below use the same test.

# %% [markdown]
# ## A sharper instrument
#
# Metrics of a few hundred images are noisy. The training loss on *test* images is not: the same images, hidden tokens,
# timesteps and noise go to every model, and only the weights differ. Does training along an order help **along that order**?
#
# <details><summary>Predict before you run: where should CMAR's loss lie below the control's, and where above?</summary>
#
# Below along collapse orders, if it learned anything of them; above along reversed orders, which it has unlearned; in between along
# random ones. Ascending CMAR should be the mirror image.
#
# </details>

# %%
losses = lesson.losses_by_order(config, seed, device=device)
lesson.order_loss(out, losses)

# %% tags=["slide"]
lesson.order_gain(out, losses)

# %% [markdown]
# A star marks differences that exceed the noise, by [Holm's method](../book/glossary.md#holms-correction) for this table. **A model has
# learned its order** where its loss is below the control's along it, and the order has a price where it is above elsewhere. For
# ascending CMAR expect the reverse. Compare within one order only. Different orders hide different patches, and some patches are harder than others:
# that losses are higher along one order than along another says nothing about either.

# %% [markdown] tags=["slide"]
# > **In short.** A paired loss sees differences that metrics of samples cannot. It says whether the order was learned, and not
# > whether images gain from it.

# %% [markdown]
# ## Paper vs ours
#
# Better and worse are corrected by Holm's method for the rows of this run. The last column holds the same differences for all seeds.

# %%
lesson.verdicts(out, results, losses, config)

# %% [markdown]
# ### Over seeds
#
# The intervals above cover the luck of sampling. Another seed, from the same base, covers the luck of CoMAE and of fine-tuning:

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
# **What would change our mind.** A Fréchet distance of CMAR below that of *continued random* with every one of five seeds or more,
# and below that of CMAR along *wrong_class* orders too: then images gain from the order, and from the right one.
#
# **Recap.** Answer before you unfold.
#
# <details><summary>1. Why is CMAR against MAR not a test of the order?</summary>
#
# CMAR was trained for longer. Only against as much training in random order is the order the one thing that differs.
#
# </details>
# <details><summary>2. A generator repeats one perfect image. What are its precision and recall?</summary>
#
# Precision is 1, since the image lies among real ones. Recall is about 0, since it lies near almost none of the others.
#
# </details>
# <details><summary>3. Why may the losses along two different orders not be compared?</summary>
#
# The orders hide different patches, and an empty border is easier than a sleeve, whatever the model has learned.
#
# </details>
#
# ## Appendix: all systems, all pairs
#
# Every system, with and without guidance, by source of the order:

# %%
lesson.generation_systems(out, results)

# %% [markdown]
# **Are the differences larger than chance?**
#
# They are paired: the jackknife leaves out the same images of both systems. Each interval stands by itself; p and the verdict are
# corrected by [Holm's method](../book/glossary.md#holms-correction) for all rows of the table, which are one family.

# %%
lesson.generation_gaps(out, results, config)

# %% [markdown]
# And the order's source: CMAR with the training bank against CMAR with every other source, another family.

# %%
lesson.source_gaps(results, config, sources)

# %% [markdown]
# An order matters to CMAR where the training bank beats `random` and `wrong_class`, and it is the *image's* order that matters
# where it beats `class_mean` and `global_mean`. The source `measured` is ours: that CMAR is fine-tuned and generates along the orders of
# notebook 3's measured graph, as CMAR is along CoMAE's; the table of all systems has MAR+C with it too. Ask it of both blocks, with and without guidance, and of every run on
# record (above): a difference that one block shows and the other does not is no property of the method. Nor does a row of `val`
# with *no difference found* prove that the bank leaks nothing: its interval says how large a leak can still be, and the share
# of the right class is a second place to look for it.
#
# ## Exercises
#
# Replace the dots and run the cell: it says whether you are right. A cell with a solution follows, but not in the
# copies that `make student` writes.
#
# 1. (Five minutes.) After step $s$ of $S$ (`g.num_iter`) MAR has $\lfloor N\cos\frac{\pi s}{2S}\rfloor$ tokens left to make, and makes at least
#    one per step. How many does it make in the *first* step, and how many in the *last*?

# %% tags=["exercise"]
first, last = ..., ...
truth, even = lesson.first_and_last(N, g.num_iter), N // g.num_iter
usual = {
    "the steps are not equal: the cosine is flat first": (even, even),
    "the two are swapped: the cosine is flat first": truth[::-1],
    "the first is what is left, not what is made": (N - truth[0], truth[1]),
}
exercises.check((first, last), truth, hints=usual)

# %% tags=["solution"]
angles = (np.pi / 2 * k / g.num_iter for k in (1, g.num_iter - 1))
after = [np.floor(N * np.cos(angle)) for angle in angles]
first, last = max(1, N - after[0]), max(1, after[1])
exercises.check((first, last), truth, hints=usual)

# %% [markdown]
# 2. (Five minutes.) The Fréchet distance compares two clouds of features by their means and covariances only. What is it between one
#    feature of mean 0 and variance 1 and one of mean 1 and variance 4?

# %% tags=["exercise"]
answer = ...
a, b = (
    {"mu": np.array([m]), "sigma": np.array([[v]])}
    for m, v in ((0.0, 1.0), (1.0, 4.0))
)
usual = {
    "one of the two terms is missing: means and spreads": 1.0,
    "the spreads enter by standard deviations, not variances": 10.0,
    "no root is taken: it is the squared distance": 2.0**0.5,
}
exercises.check(answer, metrics.frechet(a, b), 1e-5, usual)

# %% tags=["solution"]
answer = (0 - 1) ** 2 + (1**0.5 - 4**0.5) ** 2
exercises.check(answer, metrics.frechet(a, b), 1e-5, usual)

# %% [markdown]
# 3. (A quarter of an hour.) Of two classes a generator knows one, of which it returns the very training images. What are its
#    precision and its recall, if each class has twenty images and the classes lie far apart?

# %% tags=["exercise"]
precision, recall = ..., ...
known = torch.arange(20.0)[:, None] ** 1.5
both = torch.cat([known, known + 1000])
truth = metrics.precision_recall(both, known)
usual = {
    "the two are swapped": truth[::-1],
    "half of the real images have none near them": (1, 1),
    "every generated image is a real one": (0.5, 0.5),
}
exercises.check((precision, recall), truth, hints=usual)

# %% tags=["solution"]
precision, recall = 1, 20 / 40
exercises.check((precision, recall), truth, hints=usual)

# %% [markdown]
# 4. (An hour, without a check.) Sample CMAR with `num_iter` equal to $N$, one token per step, which fits the paper's numbers: the cell
#    of the nine tokens has what it takes. Expect $N$ / `g.num_iter` times the time. Whether the order matters more is measured
#    by `evaluation.comparison` with that profile; a finding is a difference whose interval leaves out 0 with every seed. Then give
#    every image the order of *itself*, after a two-pass draft by CMAR instead of MAR. Expect no more from it than the rows of
#    `two_pass` and `class_mean` in the table above leave room for: where they tie, orders of one class are too alike to matter.
#
# ## References
#
# The paper: Guo et al., *The Collapse of Patches*, arXiv 2511.22281. Further reading:
#
# - Li et al., [*Autoregressive Image Generation without Vector Quantization*](https://arxiv.org/abs/2406.11838): MAR itself, and why a
#   diffusion loss replaces a vocabulary of tokens.
# - Ho, Jain and Abbeel, [*Denoising Diffusion Probabilistic Models*](https://arxiv.org/abs/2006.11239): the chain whose equations the
#   cell of one token's loss writes out.
# - Ho and Salimans, [*Classifier-Free Diffusion Guidance*](https://arxiv.org/abs/2207.12598): where guidance comes from, and what it costs
#   in variety.
# - Heusel et al., [*GANs Trained by a Two Time-Scale Update Rule*](https://arxiv.org/abs/1706.08500): the Fréchet distance of features,
#   with experiments on what it notices.
# - Kynkäänniemi et al., [*Improved Precision and Recall Metric*](https://arxiv.org/abs/1904.06991): the balls, and why one number for
#   realism and variety is too few.
