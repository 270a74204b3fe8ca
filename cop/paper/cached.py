"""A predictor that looks again without starting anew: what has been seen is encoded once, and its keys and values are kept.

`TokenPredictor` runs all N patches through all of its blocks whenever one more is seen. Here a causal encoder reads the seen
patches in the order in which they are seen, so that earlier ones need not know of later ones, and one block of cross-attention
predicts the rest. Ours; the idea is that of language models' caches and of masked autoencoders, whose encoder sees no mask tokens.

Letters: B images, N patches, C values of a token, D width, k patches seen so far, M numbers of them, Q patches asked for.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cop.configs import PredictorConfig
from cop.orders import random_order, ranks_of
from cop.paper.blocks import Block, init_weights, rope_angles
from cop.paper.entropy import excess_nll, side_of
from cop.paper.hub import Pretrained

Memory = list[tuple[Tensor, Tensor]]  # keys and values (B, H, 1 + k, E) of every block, the decoder's last
LOOKS = 2  # numbers of seen patches that every training image is predicted from in one step


class CachedPredictor(nn.Module, Pretrained):
    """Seen tokens, in the order in which they are seen -> a Laplace distribution of every other one. num_tokens: N, a square number.

    Blocks are those of `TokenPredictor`, as many of them, with the same width, and one more."""

    def __init__(self, num_tokens: int, token_dim: int, cfg: PredictorConfig):
        super().__init__()
        self.floor, self.grid, self.head_dim = cfg.floor, side_of(num_tokens), cfg.dim // cfg.heads
        self.embed, self.head = nn.Linear(token_dim, cfg.dim), nn.Linear(cfg.dim, 2 * token_dim)
        self.start, self.mask_token = nn.Parameter(torch.zeros(cfg.dim)), nn.Parameter(torch.zeros(cfg.dim))
        self.position = nn.Parameter(nn.init.trunc_normal_(torch.empty(num_tokens, cfg.dim), std=0.02))
        self.blocks = nn.ModuleList(Block(cfg.dim, cfg.heads) for _ in range(cfg.depth))
        self.decoder, self.norm = Block(cfg.dim, cfg.heads), nn.LayerNorm(cfg.dim)
        self.apply(init_weights)

    @property
    def sequence_bytes(self) -> int:
        """What looking at one image holds at once, in float32: keys and values of all blocks, and the decoder's activations."""
        return 4 * self.position.numel() * (2 * len(self.blocks) + 12)

    def _rotation(self, places: Tensor) -> Tensor:
        angles = rope_angles(places, self.grid, self.head_dim)  # (B, L, E/2)
        return torch.polar(torch.ones_like(angles), angles)[:, None]

    def remember(self, tokens: Tensor, places: Tensor, memory: Memory | None = None) -> Memory:
        """The memory with more patches: tokens (B, m, C) of the patches `places` (B, m) long. Each knows those before it. Without
        a memory it begins with a token that stands for nothing seen."""
        x = self.embed(tokens) + self.position[places]
        if memory is None:
            x = torch.cat([self.start.expand(len(x), 1, -1), x], 1)
            places = F.pad(places, (1, 0), value=-1)
        before = memory[0][0].shape[2] if memory else 0
        rotation, past = self._rotation(places), torch.ones(x.shape[1], before + x.shape[1], dtype=torch.bool, device=x.device).tril(before)
        longer = []
        for i, block in enumerate((*self.blocks, self.decoder)):
            q, k, v = block.heads_of(x, rotation)
            longer.append((k, v) if memory is None else (torch.cat([memory[i][0], k], 2), torch.cat([memory[i][1], v], 2)))
            if block is not self.decoder:
                x = block.attend(x, q, *longer[-1], past)
        return longer

    def expect(self, memory: Memory, places: Tensor, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and scale of the Laplace distributions, (B, Q, C) each, of the patches `places` (B, Q) long. known: (B, Q, 1 + k)
        bool, what of the memory each may use; all of it by default."""
        x = self.mask_token + self.position[places]
        q = self.decoder.queries_of(x, self._rotation(places))
        x = self.decoder.attend(x, q, *memory[-1], None if known is None else known[:, None])
        mean, scale = self.head(self.norm(x)).chunk(2, -1)
        return mean, self.floor + F.softplus(scale)

    def forward(self, tokens: Tensor, order: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Every patch of tokens (B, N, C) as it is expected after the first of `order` (B, N), for several numbers of them `counts`
        (B, M): mean and scale, (B, M, N, C) each. At seen patches they mean nothing."""
        B, N, C = tokens.shape
        memory = self.remember(tokens.gather(1, order[..., None].expand(-1, -1, C)), order)
        known = torch.arange(N + 1, device=tokens.device) <= counts.to(tokens.device)[..., None]  # (B, M, N + 1)
        places = torch.arange(N, device=tokens.device).expand(B, counts.shape[1], N).flatten(1)
        found = self.expect(memory, places, known.repeat_interleave(N, 1))
        return tuple(x.unflatten(1, (counts.shape[1], N)) for x in found)

    def looker(self, tokens: Tensor):
        """The doubt about tokens (B, N, C) for `orders.looking.greedy_looks`, which remembers: from the patches seen so far (B, k), which
        may only grow from call to call, to the predicted scale of each patch, summed over its values, (B, N), and 0 at the seen ones."""
        B, N, C = tokens.shape
        memory, remembered = None, 0

        @torch.no_grad()
        def doubt(seen: Tensor) -> Tensor:
            nonlocal memory, remembered
            seen = seen.to(tokens.device).expand(B, -1)
            new = seen[:, remembered:]
            memory = self.remember(tokens.gather(1, new[..., None].expand(-1, -1, C)), new, memory)
            remembered = seen.shape[1]
            unseen = torch.ones(B, N, dtype=torch.bool, device=tokens.device).scatter_(1, seen, False)
            places = unseen.nonzero()[:, 1].view(B, -1)
            scale = self.expect(memory, places)[1].sum(-1)
            return torch.zeros_like(tokens[..., 0]).scatter_(1, places, scale.to(tokens.dtype))

        return doubt


def cached_loss(model: CachedPredictor, tokens: Tensor, generator: torch.Generator) -> Tensor:
    """Mean excess NLL per unseen value (nats), from the first patches of a random order, their number uniform in 0..N-1: that of
    `entropy.predictor_loss`, for LOOKS numbers of each image."""
    B, N, _ = tokens.shape
    order = random_order(B, N, generator).to(tokens.device)
    counts = torch.randint(N, (B, LOOKS), generator=generator).to(tokens.device)
    loss = excess_nll(tokens[:, None], *model(tokens, order, counts), model.floor)  # (B, M, N, C)
    return loss[ranks_of(order)[:, None] >= counts[..., None]].mean()
