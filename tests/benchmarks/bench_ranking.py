"""PageRank against networkx, and dependencies() against a plain loop over targets. Ratios from one run each.

make bench
"""

import subprocess
import sys
import time

import networkx as nx
import pytest
import torch

from cop.orders import collapse_order
from cop.paper.blocks import rope_angles
from cop.paper.comae import CoMAE
from cop.paper.entropy import TokenPredictor
from cop.paper.measured import measured_graph
from cop.paper.onepass import OnePass
from cop.paper.ranking import pagerank, to_networkx
from cop.profiles import demo, natural, paper
from cop.train.loop import seeded, seeded_build


def alternate(fast, slow, rounds: int) -> tuple[float, float]:
    """Fastest time of each of two functions, measured in turn so that a drifting machine hurts both."""
    times = ([], [])
    for _ in range(rounds):
        for which, f in enumerate((fast, slow)):
            start = time.perf_counter()
            f()
            times[which].append(time.perf_counter() - start)
    return min(times[0]), min(times[1])


def test_pagerank_of_256_nodes_against_networkx(benchmark):
    A = torch.rand(16, 256, 256, generator=seeded(1)) ** 4
    A.diagonal(dim1=1, dim2=2).zero_()
    graph = to_networkx(A[0])

    def theirs():
        return nx.pagerank(graph, alpha=0.85, tol=1e-10, max_iter=500)

    def ours():
        return pagerank(A, tol=1e-10)

    torch.testing.assert_close(ours()[0], torch.tensor([theirs()[i] for i in range(256)], dtype=torch.float64), atol=1e-8, rtol=0)
    a, b = alternate(ours, theirs, 5)
    benchmark.extra_info["ratio"] = b / (a / len(A))
    print(f"\nPageRank, 256 nodes: {a / len(A) * 1e3:.2f} ms a graph, networkx {b * 1e3:.0f} ms: {b / (a / len(A)):.0f} x")
    benchmark.pedantic(ours, rounds=3)


@pytest.mark.parametrize("grid", [8, 16])
def test_dependencies_against_a_plain_loop(benchmark, grid):
    """The plain loop: per target drop it, build the sequence, run every block on all of it, one image at a time."""
    N, dim = grid**2, 16
    model = seeded_build(lambda: CoMAE(demo.comae, grid, dim), 0).eval()
    tokens, trunk = torch.randn(2, N, dim, generator=seeded(2)), model.encoder["trunk"]
    angles = rope_angles(torch.arange(-1, N), grid, demo.comae.enc_dim // demo.comae.enc_heads)
    rotation = torch.polar(torch.ones_like(angles), angles)

    @torch.no_grad()
    def plain():
        A = torch.zeros(len(tokens), N, N)
        for b in range(len(tokens)):
            for n in range(N):
                keep = torch.tensor([i for i in range(N) if i != n])
                x = torch.cat([(trunk.readout + trunk.target_embed.weight[n])[None], trunk.embed(tokens[b, keep])])[None]
                a = rotation[torch.cat([torch.zeros(1).long(), keep + 1])]
                for block in trunk.blocks:
                    x = block(x, a)
                A[b, n] = (1 + torch.tanh(model.encoder["to_weights"](trunk.norm(x[:, 0])))) / 2
                A[b, n, n] = 0
        return A

    def ours():
        return model.dependencies(tokens)

    torch.testing.assert_close(ours(), plain(), atol=1e-5, rtol=1e-4)
    a, b = alternate(ours, plain, 3)
    d = demo.comae.enc_dim
    macs = len(tokens) * N * N * (9 * d * d + 2 * N * d + 2 * d * d * (demo.comae.enc_depth > 1))
    left, right = torch.randn(4096, 256), torch.randn(256, 256)
    product, _ = alternate(lambda: left @ right, lambda: None, 20)
    rate, peak = macs / a, 4096 * 256 * 256 / product
    benchmark.extra_info["ratio"] = b / a
    print(f"\ndependencies, {N} tokens: {a:.3f} s, plain loop {b:.3f} s: {b / a:.1f} x; {rate / 1e9:.0f} of the {peak / 1e9:.0f} "
          "G multiply-adds a second that a matrix product reaches")  # fmt: skip
    benchmark.pedantic(ours, rounds=2)


@pytest.mark.parametrize("profile", [natural, paper])
def test_one_pass_and_pagerank_against_the_exact_measured_graph(benchmark, profile):
    """Untrained networks of the profile's sizes: time does not depend on the weights."""
    grid, dim, N = profile.grid, profile.tokens.dim, profile.num_tokens
    fast = seeded_build(lambda: OnePass(grid, dim, profile.onepass), 0)
    slow = seeded_build(lambda: TokenPredictor(N, dim, profile.predictor), 0).eval()
    tokens = torch.randn(16, N, dim, generator=seeded(4))

    def ours():
        return collapse_order(pagerank(fast.graph(tokens)))

    a, b = alternate(ours, lambda: collapse_order(pagerank(measured_graph(slow, tokens[:1], chunk_bytes=16 << 20))), 3)
    benchmark.extra_info["ratio"] = b / (a / len(tokens))
    print(f"\none pass and PageRank, {N} tokens: {a / len(tokens) * 1e3:.2f} ms an image, exact {b * 1e3:.0f} ms: {b / a * len(tokens):.0f} x")
    assert b / (a / len(tokens)) > 10 and a / len(tokens) < 0.05
    benchmark.pedantic(ours, rounds=3)


MEMORY = """
import resource, torch
from cop.paper.comae import CoMAE
from cop.profiles import demo
from cop.train.loop import seeded, seeded_build

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

model = seeded_build(lambda: CoMAE(demo.comae, 16, 16), 0).eval()
tokens = torch.randn(8, 256, 16, generator=seeded(3))
before = peak()
model.dependencies(tokens)
print(peak() - before)
"""


def test_dependencies_stay_within_a_gibibyte_at_256_tokens(benchmark):
    """What 8 images add to the peak of resident memory of a process of their own, which holds torch and the model."""
    done = benchmark.pedantic(lambda: subprocess.check_output([sys.executable, "-c", MEMORY], text=True), rounds=1)
    print(f"\ndependencies of 8 x 256 tokens: {float(done):.2f} GiB above the process with the model")
    assert 0 < float(done) < 1
