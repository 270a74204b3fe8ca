"""Does a training step wait for its images? Decoding JPEGs with and without threads, and ahead of the steps.

make bench
"""

import io
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from cop.data.images import ImageSet
from cop.data.sets import imagenet

BATCH, STEPS, SIDE = 16, 6, 256


class Photographs:
    """JPEGs of ImageNet's usual 500 x 375 pixels and about 110 KB, in memory."""

    def __init__(self, count: int):
        self.files, random = [], np.random.default_rng(0)
        for _ in range(count):
            coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).resize((500, 375), Image.Resampling.BICUBIC)
            pixels = np.asarray(coarse) + random.normal(0, 12, (375, 500, 3))
            buffer = io.BytesIO()
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=94)
            self.files.append(buffer.getvalue())

    def name(self, row: int) -> str:
        return f"photograph {row}"

    def read(self, row: int) -> bytes:
        return self.files[row]


def photographs() -> ImageSet:
    source, labels = Photographs(BATCH), np.zeros(BATCH * STEPS, int)
    rows = np.arange(BATCH * STEPS) % BATCH
    return ImageSet(imagenet.LazyImages(source, rows, labels, SIDE, 3), labels, ["photograph"])


@pytest.fixture
def threads(monkeypatch):
    """Decode with so many threads."""

    def use(count: int) -> None:
        pool = ThreadPoolExecutor(count)
        monkeypatch.setattr(imagenet, "decoders", lambda process: pool)

    return use


def test_threads_against_one(benchmark, threads):
    data, times = photographs(), {}
    cores = os.cpu_count() or 1
    for count in (1, cores, 1, cores):
        threads(count)
        start = time.perf_counter()
        for idx in torch.arange(len(data)).split(BATCH):
            data.batch(idx)
        times[count] = min(times.get(count, 9e9), time.perf_counter() - start)
    rates = {count: len(data) / seconds for count, seconds in times.items()}
    kilobytes = sum(map(len, data.images.source.files)) / BATCH / 1e3
    benchmark.extra_info["ratio"] = times[1] / times[cores]
    print(f"\ndecoding {kilobytes:.0f} KB to {SIDE} px: {rates[1]:.0f} images a second with one thread, {rates[cores]:.0f} with {cores}")
    benchmark.pedantic(lambda: data.batch(torch.arange(BATCH)), rounds=2)


def test_a_step_that_knows_the_next_batch_against_one_that_does_not(benchmark, threads):
    """A step is a pause as long as the decoding of a batch: the processor is idle while a GPU computes. Without reading
    ahead a step takes both one after the other, with it the longer of the two."""
    threads(1)
    data = photographs()
    parts = torch.arange(len(data)).split(BATCH)
    start = time.perf_counter()
    data.batch(parts[0])
    pause = time.perf_counter() - start

    def waiting():
        for idx in parts:
            data.batch(idx)
            time.sleep(pause)

    def ahead():
        for _ in data.batches(BATCH):
            time.sleep(pause)

    times = {f: [] for f in (ahead, waiting)}
    for f in (ahead, waiting) * 3:
        start = time.perf_counter()
        f()
        times[f].append(time.perf_counter() - start)
    a, b = (min(times[f]) for f in (ahead, waiting))
    benchmark.extra_info["ratio"] = b / a
    print(f"\n{len(parts)} steps of {pause * 1e3:.0f} ms: {a:.2f} s reading ahead, {b:.2f} s without: {b / a:.2f} x (2 at best)")
    benchmark.pedantic(ahead, rounds=1)
