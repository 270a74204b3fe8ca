"""What it costs to classify an image from k of its N patches, told three ways (§4.5, decision 37).

The paper's "95.16 % less computation" at 22 % is the attention term alone. Counting everything, ViT-B/16
saves 78 %; and before the classifier can start, somebody must have ranked the patches, at N encoder passes
per image, which is 31 times the *whole* classifier at paper size. Operations are counted by
`torch.utils.flop_counter`, not by formula.

One multiply-add (MAC) is two FLOP. Biases, norms, softmax and activations are not counted, as everywhere.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["EndToEnd", "attention_saving", "end_to_end", "macs", "saving", "throughput"]


def attention_saving(kept: int, num_patches: int) -> float:
    """Share of the attention's quadratic term that is saved: 1 - (k/N)^2, the paper's 0.9516 at k/N = 0.22.

    Raises ValueError unless 0 <= k <= N.
    """
    if not 0 <= kept <= num_patches or num_patches < 1:
        raise ValueError(f"kept is {kept} of {num_patches} patches, expected 0 <= kept <= num_patches")
    return 1 - (kept / num_patches) ** 2


def macs(fn: Callable, *args, **kwargs) -> int:
    """Multiply-adds that `fn(*args, **kwargs)` performs in matrix products, convolutions and attention.

    Runs fn once, without gradients. On the "meta" device nothing is computed, so that a model of any size is
    counted in milliseconds: build it under `with torch.device("meta")` and pass images of that device.
    The counter does not know the fused attention kernel of CPUs and would silently leave attention out,
    therefore attention runs here as its two plain matrix products.
    """
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        fn(*args, **kwargs)
    return counter.get_total_flops() // 2


def saving(macs_kept: float, macs_all: float) -> float:
    """Share of the multiply-adds that is saved, 1 - kept/all. Raises ValueError if all is not positive."""
    if macs_all <= 0:
        raise ValueError(f"macs_all is {macs_all}, expected a positive count")
    return 1 - macs_kept / macs_all


@dataclass(frozen=True)
class EndToEnd:
    """Multiply-adds of one image, from pixels to class."""

    classifier: int  # the classifier on the kept patches
    ranking: int  # N encoder passes of CoMAE
    tokenizer: int  # autoencoder that makes the tokens which CoMAE ranks; 0 for raw patches

    @property
    def total(self) -> int:
        return self.classifier + self.ranking + self.tokenizer

    def relative_to(self, macs_all: float) -> float:
        """Total cost in units of classifying the whole image; below 1 the ranking pays off."""
        return 1 - saving(self.total, macs_all)


def end_to_end(
    classifier: int, encoder_pass: int | Callable[[], object], num_patches: int, tokenizer: int = 0
) -> EndToEnd:
    """The classifier's cost together with that of the ranking it needs.

    Args:
        classifier: multiply-adds of the classifier on the kept patches, of one image.
        encoder_pass: multiply-adds of one CoMAE encoder pass of one image, or a callable that does one pass.
        num_patches: N; a collapse order takes one pass for each patch in the role of the target.
        tokenizer: multiply-adds of the autoencoder's encoder, of one image.
    """
    if num_patches < 1:
        raise ValueError(f"num_patches is {num_patches}, expected at least 1")
    one = macs(encoder_pass) if callable(encoder_pass) else encoder_pass
    return EndToEnd(classifier=classifier, ranking=num_patches * one, tokenizer=tokenizer)


def throughput(fn: Callable[[Tensor], object], batch: Tensor, repeats: int = 10, warmup: int = 3) -> float:
    """Images per second of fn(batch), by the median time of `repeats` runs after `warmup` untimed ones.

    Args: batch (B, ...), on the device where fn runs; for a GPU the clock waits until the work is done.
    Raises ValueError for no repeats or an empty batch. Compare only figures measured in one run on one
    machine.
    """
    if repeats < 1 or len(batch) == 0:
        raise ValueError(
            f"repeats is {repeats} and the batch has {len(batch)} images, expected at least 1 of each"
        )
    finish = torch.cuda.synchronize if batch.is_cuda else lambda: None
    seconds = []
    with torch.inference_mode():
        for i in range(warmup + repeats):
            finish()
            start = time.perf_counter()
            fn(batch)
            finish()
            if i >= warmup:
                seconds.append(time.perf_counter() - start)
    return len(batch) / median(seconds)
