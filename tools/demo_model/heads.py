"""Attention heads that are written down: fixed offsets, recency, matching of contents.

Three constructions carry the model:

* *Fixed offset.* With no weights and only biases, a head's scores depend on the distance alone:
  the sum over rotary pairs of cos(f (distance - d)) is largest at distance d (how the "previous
  token" heads that trained models grow can be had from rotary embeddings, Su et al. 2021).
* *Matching.* Two equal random projections score how alike the contents of two positions are. They
  stand on rotary pairs so slow that they do not turn over a context, hence the huge `ROPE_THETA`.
* *Resting.* Where nothing scores higher than a set score, the head looks at "<think>" and carries
  nothing. With this score at that of a match, n matches get n / (n + 1) of the attention.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaAttention

HEAD = 64
ROOM = 48
"""The numbers that hold one content (a token, a word) in the residual stream."""

ROPE_THETA = 1e16
FAST_PAIRS = 7
"""Rotary pairs that tell positions apart; the others stand still and hold content."""

NEARBY = (8, 40, 100, 60, 60)
FAR = (4, 20, 60, 120, 300, 400)
"""How strongly rotary pairs, from the fastest on, prefer what is near.

The first tell words side by side apart best, up to 10 tokens back; farther away, they take what
lies a whole turn behind for nearer. The second reach 24 tokens back.
"""


class Head:
    """One attention head, to be written down: what it asks, what it offers, what it carries."""

    def __init__(self, attention: LlamaAttention, number: int) -> None:
        rows = slice(number * HEAD, (number + 1) * HEAD)
        self.query, self.query_bias = attention.q_proj.weight[rows], attention.q_proj.bias[rows]
        self.key, self.key_bias = attention.k_proj.weight[rows], attention.k_proj.bias[rows]
        self.value, self.value_bias = attention.v_proj.weight[rows], attention.v_proj.bias[rows]
        self.out = attention.o_proj.weight[:, rows]
        half = HEAD // 2
        self.slow = [*range(FAST_PAIRS, half), *range(half + FAST_PAIRS, HEAD)]
        self.hash, self.constant, self.resting = self.slow[:-2], self.slow[-2], self.slow[-1]

    def soften(self) -> None:
        """Makes it a weak head that training may use as it likes."""
        for weight in (self.query, self.key, self.value, self.out):
            weight.normal_(0, 0.02)
        for bias in (self.query_bias, self.key_bias, self.value_bias):
            bias.zero_()

    def clear(self) -> "Head":
        """Empties it, so that nothing but what is written next acts."""
        for part in (self.query, self.query_bias, self.key, self.key_bias, self.value, self.out):
            part.zero_()
        return self

    def offset(self, distance: int, only: int | None = None, seen_as: float = 1.0) -> None:
        """Looks `distance` back; where the token lacks the fact `only`, at itself.

        `seen_as` is the size at which a fact reaches the head, behind the layer's norm.
        """
        size = math.sqrt(30 * math.sqrt(HEAD))
        for pair in range(4):
            angle = distance * ROPE_THETA ** (-2 * pair / HEAD)
            self.key_bias[pair] = size
            there = torch.tensor([size * math.cos(angle), -size * math.sin(angle)])
            self.query_bias[[pair, pair + HEAD // 2]] = there
            if only is not None:
                here = torch.tensor([size, 0.0])
                self.query_bias[[pair, pair + HEAD // 2]] = here
                self.query[[pair, pair + HEAD // 2], only] = (there - here) / seen_as

    def recent(self, strengths: Sequence[float]) -> None:
        """Prefers near positions to far ones, smoothly: `NEARBY` or `FAR` ones."""
        for pair, strength in enumerate(strengths):
            size = math.sqrt(strength * math.sqrt(HEAD))
            self.query_bias[pair] = self.key_bias[pair] = size

    def match(self, asked: Tensor, offered: Tensor, strength: float) -> None:
        """Scores alike contents: `asked` and `offered` map the residual stream to one room."""
        project = nn.init.orthogonal_(torch.empty(ROOM, ROOM))
        size = math.sqrt(strength * math.sqrt(HEAD) / ROOM)
        self.query[self.hash] = size * project @ asked
        self.key[self.hash] = size * project @ offered

    def prefer(self, facts: Mapping[int, float]) -> None:
        """Adds to the score of every position the sum of its facts' weights."""
        scale = HEAD**0.25
        self.query_bias[self.constant] = scale
        for fact, weight in facts.items():
            self.key[self.constant, fact] = weight * scale

    def rest(self, fact: int, score: float, unless: int | None = None, more: float = 0.0) -> None:
        """Lets the head rest on the token with a `fact` where nothing scores higher than `score`.

        Tokens without the fact `unless` rest at scores up to `score + more`.
        """
        scale = HEAD**0.25
        self.key[self.resting, fact] = scale
        self.query_bias[self.resting] = (score + more) * scale
        if unless is not None:
            self.query[self.resting, unless] = -more * scale

    def carry(self, source: slice | int, target: slice | int, gain: float = 1.0) -> None:
        """Copies a room or fact of the position looked at into a room or fact of this one."""
        if isinstance(source, int):
            source = slice(source, source + 1)
        if isinstance(target, int):
            target = slice(target, target + 1)
        size = source.stop - source.start
        free = slice(0, size) if size > 1 else slice(self._facts(), self._facts() + 1)
        self.value[free, source] = torch.eye(size)
        self.out[target, free] = gain * torch.eye(size)

    def write(self, fact: int, target: slice, content: Tensor) -> None:
        """Writes a fixed content where the position looked at has a fact."""
        free = self._facts()
        self.value[free, fact] = 1
        self.out[target, free] = content

    def _facts(self) -> int:
        """A row of the value that is not in use yet, behind those of a room."""
        return next(i for i in range(ROOM, HEAD) if not self.value[i].any())


def quarter_turn() -> Tensor:
    """A random rotation that turns every vector by a right angle, so that none is like its turn."""
    basis = nn.init.orthogonal_(torch.empty(ROOM, ROOM))
    half = torch.eye(ROOM // 2)
    zero = torch.zeros_like(half)
    return basis.T @ torch.cat([torch.cat([zero, -half], 1), torch.cat([half, zero], 1)]) @ basis
