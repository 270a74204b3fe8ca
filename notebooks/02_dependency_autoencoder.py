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
# # 2 · The dependency autoencoder
#
# > *Which patches does a patch rely on? Let a network choose what it needs to reconstruct it, under noise.*
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/YOUR_ACCOUNT/cop/blob/main/notebooks/02_dependency_autoencoder.ipynb)
# [![Open in Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/YOUR_ACCOUNT/cop/main?labpath=notebooks/02_dependency_autoencoder.ipynb)
#
# | | |
# |---|---|
# | **Paper** | Sections 3.1, 4.1 and 8, Eqs. 2–7, Figs. 6 and 10, Table 1 of [*The Collapse of Patches*](https://arxiv.org/abs/2511.22281) |
# | **Time** | half a minute with the released artefacts, some minutes when both models are trained |
# | **Hardware** | a laptop; two cores are enough |
# | **Before** | [1 · Patch entropy](01_patch_entropy.ipynb) |
# | **Next** | [3 · The collapse order](03_collapse_order.ipynb) |
#
# **You will see** the CoMAE encoder pick patches for a target, its decoder reconstruct the target from the noised
# picks, the masks while they train, and whether the contrastive term does what Table 1 says.

# %% tags=["colab"]
import sys

if "google.colab" in sys.modules:  # a clean runtime of Colab: fetch the project and install it; elsewhere nothing happens
    get_ipython().system("git clone -q --depth 1 https://github.com/YOUR_ACCOUNT/cop.git /content/cop")
    get_ipython().system(f"{sys.executable} -m pip install -q -e /content/cop")
    sys.path.insert(0, "/content/cop")

# %% tags=["parameters"]
profile: str = "demo"  # smoke | demo | natural | paper
seed: int = 0  # seed of weights, batches, targets and noise
images: int = 200  # validation images for the statistics
device: str = "auto"  # auto | cpu | cuda

# %%
import pandas as pd
import torch

from cop.lessons import dependency_autoencoder as lesson
from cop.lessons import exercises, pipeline
from cop.paper import comae, reconstruction

pd.options.display.max_colwidth = None  # whole sentences in tables

# %%
out, config = lesson.start(profile, seed, images=images, device=device)
sample = pipeline.sample(config, "val", images, device)
model, artefact = pipeline.comae(config, seed, device)
history, c, N = artefact.history, config.comae, config.num_tokens
f"{c.steps} steps of {c.batch_size} images with {c.targets_per_image} targets each"

# %% [markdown]
# ## The model
#
# For a target patch $n$ the encoder $f$ sees every patch **but** the target:
#
# > $$w_n=f\left(\{e_i\}_{i\ne n};q_n\right)\in[0,1]^N\qquad(2)$$
#
# The target is dropped from the sequence, so no gradient can reach its content. Its place is known through the
# learned $q_n$ on the read-out token. The paper's tanh does not stay in $[0,1]$; we use $(1+\tanh)/2$.

# %%
lesson.fig10(out, config, model)

# %% [markdown]
# No leak, seen rather than promised: the gradient of $w_n$ and of the reconstruction with respect to the target.

# %%
x = sample.tokens[:1].clone().requires_grad_()
target = torch.tensor([[N // 2 + config.grid // 2]])
w = model.weights(x, target)
guess = model.reconstruct(x, target, w, torch.randn(1, 1, *x.shape[1:], generator=pipeline.seeded(seed, 1)))
(w.sum() + guess.sum()).backward()
to_target, to_others = x.grad[0, target.item()].abs().sum(), x.grad.abs().sum()
f"gradient that reaches the target: {to_target:.1f}; that reaches the other patches: {'some' if to_others > 0 else 'none'}"

# %% [markdown]
# ## The noise
#
# Patches with a small weight drown in noise before the decoder $g$ reconstructs the target from what is left:
#
# > $$e^m_i=\alpha_i e_i+(1-\alpha_i)\,\mathcal N(0,I)\quad(3)\qquad
# > \alpha_i=\exp\left(-\frac{(1-w_n^i)^2}{2\sigma^2}\right)\quad(4)\qquad
# > e^*_n=g\left(\{e^m_i\}_{i\ne n};q_n\right)\quad(5)$$
#
# $\sigma$ is not given. What a weight keeps of the signal with ours:

# %%
", ".join(f"alpha({v:.2f}) = {model.alpha(torch.tensor(v)):.3f}" for v in (0.0, 0.25, 0.5, 0.75, 1.0))

# %% [markdown]
# ## What the masks look like
#
# Three targets for each of four validation images (the first four of the sample). Bright patches are the ones that
# the encoder lets through; the target is framed and stands beside its reconstruction.

# %%
four, G = sample.tokens[:4], config.grid
targets = torch.tensor([[G * (G // 4) + G // 2, G * (G // 2) + G // 3, G * (3 * G // 4) + 2 * G // 3]]).expand(len(four), -1)
tokens = pipeline.tokenizer(config, device)
with torch.no_grad():
    w = model.weights(four, targets)
    noise = torch.randn(*targets.shape, *four.shape[1:], generator=pipeline.seeded(seed, 2))
    guess = model.reconstruct(four, targets, w, noise)
lesson.masks(out, sample.images[:4], targets, w, pipeline.target_patches(tokens, four, targets, guess))

# %% [markdown]
# Do the *picks* inform the decoder, or does the encoder send a message through the pattern of the noise? Keep the noise
# and swap the masks or the patches under them. Sixteen targets in each validation image; differences are paired over
# the images, with 95 % intervals, and p is corrected by Holm's method for the rows of this table:

# %%
swaps = reconstruction.mask_swaps(model, sample.tokens, pipeline.seeded(seed, 4))
lesson.swap_table(out, swaps)

# %% [markdown]
# A **message** in the pattern of the noise would show over the *mean image*, where there is nothing of this image to pick:
# its own mask would then cost less than the mean mask. The interval says how large a message could still be; that no difference
# is found does not prove that there is none. Where *another image's* mask costs little more than its own, picks depend on
# the target's place more than on the picture. And where everything shown costs *more* than the mask, the decoder is used
# to masks, and the loss is not a measure of what the patches hold.
#
# ## Training
#
# > "The patch reconstruction loss is simply $L_r=\lVert e_n-e^*_n\rVert_1$. We alternatively optimize $f$ and $g$ with
# > $L_r$ in a batch-wise manner."
#
# The contrastive term tells the targets of an image apart; its temperature is learned but clamped, because the
# positive pair is constant and $\tau\to0$ would switch the term off for free:
#
# > $$L_c=\frac1N\sum_i-\log\frac{\exp(\mathrm{sim}(w_i,w_i)/\tau)}{\sum_j\exp(\mathrm{sim}(w_i,w_j)/\tau)}\quad(6)\qquad
# > H_{mask}=-\frac1M\sum_m\sum_j w_j\log w_j\quad(7)$$

# %% [markdown]
# What is a good $L_r$? Four reconstructions need no network: the mean token, the median of each position over the training
# images, the mean of the target's neighbours, and **ridge regression** of each patch on all others. The last one is what linear
# algebra makes of the other *clean* patches; CoMAE is not linear, but sees them under the noise of its masks. All of
# them are fitted on training images and reconstruct the same targets of the same validation images as CoMAE in Table 1.

# %%
fitted = reconstruction.baselines(c, G, pipeline.sample_tokens(config, "train", 20_000, device))
trivial = {n: reconstruction.evaluate(b, sample.tokens, pipeline.seeded(seed, 3))["reconstruction"] for n, b in fitted.items()}
lesson.fig6(out, history, trivial)

# %% [markdown]
# The paper shows the last 140 of 512 epochs, where both curves move in the fourth digit. Ours is the whole of a
# short run. Do the masks **polarise**, as "w polarizes to 0 and 1" says?

# %%
A = model.dependencies(sample.tokens)
lesson.polarisation(out, history, A)

# %% [markdown]
# ## Table 1: is the contrastive term what makes it work?
#
# Same seed, same batches, same number of steps; only the weight of $L_c$ differs. Both are measured on validation
# images. Eq. 7 as printed is low for $w\equiv1$ too, so the headline is the entropy of $w/\sum w$. The reconstructions
# without a network give the scale of $L_r$.

# %%
without = pipeline.replace(config, comae=pipeline.replace(c, contrastive_weight=0.0))
plain, _ = pipeline.comae(without, seed, device)
rows = {"without": reconstruction.evaluate(plain, sample.tokens, pipeline.seeded(seed, 3)),
        "with": reconstruction.evaluate(model, sample.tokens, pipeline.seeded(seed, 3))}
lesson.tab1(out, rows, trivial)

# %% [markdown]
# ## Is the order arbitrary because we trained too little?
#
# Notebook 3 finds that CoMAEs of two seeds order the same image differently. Everything above was trained for minutes, so
# here is the objective as printed, trained until it reconstructs **better than ridge regression**, with a look at the same
# validation images on the way. *Agreement* is the correlation between what two seeds make of one image. Most of a raw
# correlation comes from the mean graph (or the mean order) of all images; what counts is the agreement that is left when
# the mean is taken out.

# %%
lesson.on_the_way(out, config, trivial["ridge regression"], device)

# %% [markdown]
# Is that the end of the training? A longer schedule is a training of its own, with its own decay of the learning rate:

# %%
lesson.doubling(out, config, device)

# %% [markdown]
# The title of the figure says how the loss ends and what two seeds then share of the *same image*. Where the loss has passed ridge
# regression and their own part is still near 0, more steps are not what is missing: the objective leaves the order open, for two
# reasons. Eqs. 3 and 4 are the information bottleneck for attribution (Schulz et
# al., *Restricting the Flow*, ICLR 2020) **without its information term**: nothing charges for $w=1$, so which patches are
# selected is not asked for. And the decoder only ever sees the masks of its own encoder: the pair may settle on **any code**
# that works. Both can be changed, one at a time, with the same number of steps and three seeds each. So can what the paper leaves
# open: $\sigma$ of Eq. 4, the range of tanh, weight and scope of the contrastive term.

# %%
changes = lesson.changes_of(config, device)
lesson.objectives(out, changes)

# %%
lesson.own_part(out, changes, lesson.seeds_of_the_measured_graph(config, device))

# %% [markdown]
# Every row is a different answer to the question which patches a patch relies on. Compare the columns: how much of a graph is
# the image's own, and how far two seeds agree on that part. Were one of the changes the remedy, its point would stand at the upper
# right. If chance is what divides the seeds, their mean should know more of a seed than one of them does:

# %%
lesson.mean_of_seeds(out, changes)

# %% [markdown]
# One reason for the difference can be seen directly. Ask the decoder of any mask for the best small
# set of patches to reconstruct a target from; then for the best one among the patches that are left, and so on:

# %%
lesson.redundancy(out, config, device)

# %% [markdown]
# The search knows the target, so its sets may beat everything shown. As far as sets that have **no patch in common** give away much
# the same, a *selection* among them is a matter of chance; the *influence* of one patch on another is not. Notebook 3 measures that
# influence.

# %% [markdown]
# ## Paper vs ours
#
# The absolute numbers cannot be compared: other tokens, other N, another training length. The *direction* can. Read a row as
# a finding only where the seeds on record agree.
#
# - **C1** is *yes* only where nearly all weights end near 0 or 1; where many lie between, masks polarise *partly*. A mask
#   entropy near its maximum, or one that rises again after its lowest point, is no choice of a few patches either.
# - **C2** holds where the contrastive term lowers both losses with every seed, by more than seeds differ. $L_c$ is worth a look
#   in the row without it, too: where it falls without being optimised, targets tell their masks apart because it helps to
#   reconstruct them, and a gap as large as the paper's must have another source.
# - **How good is $L_r$?** To be below the neighbours' mean is easy. As long as ridge regression is below CoMAE, this training
#   has not learned what is linear in the other patches, and what its masks rely on may have more to do with the training
#   than with the image.

# %%
lesson.verdicts(out, history, rows, trivial, N)

# %% [markdown]
# ## Exercises
#
# Replace the dots and run the cell: it says whether you are right. A cell with a solution follows, but not in the
# copies that `make student` writes.
#
# 1. Eq. 4 at $w=0$ should leave almost nothing of a patch. For which $\sigma$ does one per cent survive? Two digits will do.

# %% tags=["exercise"]
answer = ...
exercises.check(answer, lambda sigma: abs(torch.as_tensor(-1 / (2 * sigma**2)).exp() - 0.01) < 0.001)

# %% tags=["solution"]
answer = (1 / (2 * torch.tensor(100.0).log())) ** 0.5
exercises.check(answer, lambda sigma: abs(torch.as_tensor(-1 / (2 * sigma**2)).exp() - 0.01) < 0.001)

# %% [markdown]
# 2. What is the largest mask entropy there can be, that of a mask that lets all patches but the target through alike?

# %% tags=["exercise"]
answer = ...
alike = comae.mask_statistics(1 - torch.eye(N)[None], torch.arange(N)[None])  # one such mask for every target
exercises.check(answer, alike["mask_entropy"], 1e-4)

# %% tags=["solution"]
answer = torch.tensor(N - 1.0).log()
exercises.check(answer, alike["mask_entropy"], 1e-4)

# %% [markdown]
# Without a check: train with `contrastive_scope="batch"` (`pipeline.replace` as above). Do targets of different images
# separate?
#
# ## References
#
# Guo et al., arXiv 2511.22281 · He et al., *Masked Autoencoders*, arXiv 2111.06377 · Su et al., *RoFormer*, arXiv
# 2104.09864 · TNT (arXiv 2411.18092), the nearest earlier use of token relevance as additive noise.
