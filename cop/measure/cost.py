"""What it costs to classify an image from k of its N patches (section 4.5, decision 37).

The paper's "95.16 % less computation" at 22 % is the attention term alone. Counting everything, ViT-B/16 saves 78 %; and
before the classifier can start the patches must be ranked, at N encoder passes per image, which is 31 times the whole
classifier at paper size. Operations are counted by `torch.utils.flop_counter`, not by formula. One multiply-add (MAC) is
two FLOP. Biases, norms, softmax and activations are not counted, as everywhere.
"""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def attention_saving(kept: int, num_patches: int) -> float:
    """Share of the attention's quadratic term that is saved: 1 - (k/N)^2, the paper's 0.9516 at k/N = 0.22.

    Raises ValueError unless 0 <= k <= N.
    """
    if not 0 <= kept <= num_patches or num_patches < 1:
        raise ValueError(f"kept is {kept} of {num_patches} patches, expected 0 <= kept <= num_patches")
    return 1 - (kept / num_patches) ** 2


def macs(fn: Callable, *args, **kwargs) -> int:
    """Multiply-adds that `fn(*args, **kwargs)` performs in matrix products, convolutions and attention.

    Runs fn once, without gradients. On the "meta" device nothing is computed, so that a model of any size is counted in
    milliseconds: build it under `with torch.device("meta")` and pass images of that device. The counter overlooks the
    CPU's fused attention, therefore attention runs here as its two plain matrix products.
    """
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        fn(*args, **kwargs)
    return counter.get_total_flops() // 2


def saving(macs_kept: float, macs_all: float) -> float:
    """Share of the multiply-adds that is saved, 1 - kept/all. Raises ValueError if all is not positive."""
    if macs_all <= 0:
        raise ValueError(f"macs_all is {macs_all}, expected a positive count")
    return 1 - macs_kept / macs_all


def throughput(fn: Callable[[Tensor], object], batch: Tensor, repeats: int = 10, warmup: int = 3) -> float:
    """Images per second of fn(batch), by the median time of `repeats` runs after `warmup` untimed ones.

    batch: (B, ...), on the device where fn runs; for a GPU the clock waits until the work is done. Raises ValueError for
    no repeats or an empty batch. Compare only figures measured in one run on one machine.
    """
    if repeats < 1 or len(batch) == 0:
        raise ValueError(f"repeats is {repeats} and the batch has {len(batch)} images, expected at least 1 of each")
    finish = torch.cuda.synchronize if batch.is_cuda else lambda: None
    seconds = []
    with torch.inference_mode():
        for _ in range(warmup + repeats):
            finish()
            start = time.perf_counter()
            fn(batch)
            finish()
            seconds.append(time.perf_counter() - start)
    return len(batch) / median(seconds[warmup:])
