"""A small Llama whose attention heads start out as the procedure the task asks for.

Copying and comparing words is what small transformers learn slowest, so the heads for it are
written down and then trained with everything else ("mimetic" initialisation, Trockman and Kolter
2023). Three constructions carry it:

* *Fixed offset.* With no weights and only biases, a head's scores depend on the distance alone:
  the sum over rotary pairs of cos(f (distance - d)) is largest at distance d.
* *Matching.* Two equal random projections score how alike two positions' contents are. They stand
  on rotary pairs so slow that they do not turn over a context, hence the huge `rope_theta`.
* *Induction* (Olsson et al. 2022): a head that looks for what stood before a position lets the
  model continue a text that it has seen.

The residual stream is divided into the rooms below. Layer by layer a position learns: which piece
came before it within its word; in which part of the prompt it stands and what its predecessor is;
how its word goes on, how often the passage has it, and which content word came last; and at last
which content word is next.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention

from training.tokenizer import CONTEXT, END_OF_TEXT, THINK, WORD_END
from training.words import STOP_STEMS

WIDTH, HEADS, LAYERS, HEAD, INNER = 256, 4, 4, 64, 192
ROPE_THETA = 1e16
FAST_PAIRS = 7
"""Rotary pairs that tell positions apart; the others stand still and hold content."""

ROOM = 48
TOKEN, BEFORE, PREVIOUS, LAST_TERM, NEXT = (slice(i * ROOM, (i + 1) * ROOM) for i in range(5))
"""What a position is, the piece before it in its word, the position before it, the content word
that came last, and what is to be written next."""

(
    TERM_END, TERM_START, LINE, COLON, PASSAGE, QUERY, THINKING, CONTINUES, PIECE, POINTS,
    AFTER_TERM, AFTER_NAME, LINE_BEFORE, IN_QUERY, IN_PASSAGE, FOUND,
) = range(5 * ROOM, WIDTH)  # fmt: skip
"""Single facts. Those up to POINTS belong to the token; the later ones are found by attention."""

IN_THOUGHT, FOUND_LAST, FOUND_MEAN = COLON, LINE_BEFORE, AFTER_NAME
"""Facts that take the place of others which are no longer needed."""


def config(vocabulary: int) -> LlamaConfig:
    """The shape of the model."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=False,
        attention_bias=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )


@torch.no_grad()
def structured(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A model whose heads copy, point and compare before any training."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config(len(tokenizer)))
    embedding = model.model.embed_tokens.weight
    embedding.copy_(_embedding(tokenizer))
    turn = _quarter_turn()
    heads = [
        [Head(layer.self_attn, number) for number in range(HEADS)] for layer in model.model.layers
    ]
    for layer in heads:
        for head in layer:
            head.soften()
    _layer_one(heads[0])
    _layer_two(heads[1], turn)
    _layer_three(heads[2], turn, embedding[_only(tokenizer, ":"), TOKEN])
    _layer_four(heads[3], embedding[_only(tokenizer, "so"), TOKEN])
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.mul_(0.3)
    _output(model, tokenizer)
    return model


def _only(tokenizer: PreTrainedTokenizerFast, word: str) -> int:
    """The id of a word that is one token."""
    (number,) = tokenizer(f" {word}", add_special_tokens=False).input_ids
    return int(number)


def _embedding(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """Random signs for what a token is, and the facts that can be read off its spelling."""
    rows = torch.zeros(len(tokenizer), WIDTH)
    rows[:, TOKEN] = torch.randn(len(tokenizer), ROOM).sign()
    for name, number in tokenizer.get_vocab().items():
        text = name.removesuffix(WORD_END).removeprefix("Ġ")
        ends, starts = name.endswith(WORD_END), name.startswith("Ġ")
        if number < 3:
            continue
        if not starts or text.startswith("ğ"):
            rows[number, CONTINUES] = 1
        is_piece = not text or (text.isalnum() or "_" in text) and not text.startswith("ğ")
        if is_piece and not (starts and ends and text in STOP_STEMS):
            rows[number, PIECE] = 1
            rows[number, TERM_END] = float(ends)
            rows[number, TERM_START] = float(starts)
        if text.startswith("ğ"):
            rows[number, PIECE] = 1
    newline = tokenizer.convert_tokens_to_ids("ĠĊ" + WORD_END)
    rows[newline, [LINE, TERM_START]] = 1
    rows[newline, [PIECE, TERM_END]] = 0
    for word, fact in ((":", COLON), ("passage", PASSAGE), ("query", QUERY)):
        rows[_only(tokenizer, word), fact] = 1
    for word in (";", "for"):
        rows[_only(tokenizer, word), POINTS] = 1
    rows[tokenizer.convert_tokens_to_ids(THINK), THINKING] = 1
    rows[tokenizer.convert_tokens_to_ids(END_OF_TEXT)] = 0
    return rows


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
        self.hash, self.constant, self.rest_row = self.slow[:-2], self.slow[-2], self.slow[-1]

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

    def offset(self, distance: int, *, strength: float = 30, unless: int | None = None) -> None:
        """Looks `distance` back; where the token has the fact `unless`, at itself."""
        for pair in range(4):
            angle = distance * ROPE_THETA ** (-2 * pair / HEAD)
            size = math.sqrt(strength * math.sqrt(HEAD))
            self.key_bias[pair] = size
            there = torch.tensor([size * math.cos(angle), -size * math.sin(angle)])
            self.query_bias[[pair, pair + HEAD // 2]] = there
            if unless is not None:
                here = torch.tensor([size, 0.0])
                self.query_bias[[pair, pair + HEAD // 2]] = here
                self.query[[pair, pair + HEAD // 2], unless] = (there - here) / FIRST_NORM

    def recent(self) -> None:
        """Prefers near positions to far ones, smoothly, over some hundred tokens."""
        for pair, strength in ((1, 40), (2, 100), (3, 60), (4, 60)):
            size = math.sqrt(strength * math.sqrt(HEAD))
            self.query_bias[pair] = self.key_bias[pair] = size

    def match(self, asked: Tensor, offered: Tensor, strength: float) -> None:
        """Scores alike contents: `asked` and `offered` map the residual stream to one room."""
        project = nn.init.orthogonal_(torch.empty(ROOM, ROOM))
        size = math.sqrt(strength * math.sqrt(HEAD) / ROOM)
        self.query[self.hash] = size * project @ asked
        self.key[self.hash] = size * project @ offered

    def prefer(self, facts: dict[int, float]) -> None:
        """Adds to the score of every position the sum of its facts' weights."""
        scale = HEAD**0.25
        self.query_bias[self.constant] = scale
        for fact, weight in facts.items():
            self.key[self.constant, fact] = weight * scale

    def rest(self, score: float, unless: int | None = None, more: float = 0.0) -> None:
        """Lets the head rest on "<think>" where nothing scores higher; tokens without the fact
        `unless` rest the more."""
        scale = HEAD**0.25
        self.key[self.rest_row, THINKING] = scale
        self.query_bias[self.rest_row] = (score + more) * scale
        if unless is not None:
            self.query[self.rest_row, unless] = -more * scale

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


FIRST_NORM = 16 / math.sqrt(50)
"""What the first layer's norm multiplies by: about 50 of 256 numbers are plus or minus one."""


def _pick(*rooms: tuple[slice, Tensor]) -> Tensor:
    """The map from the residual stream that adds up rooms, each turned in its way."""
    chosen = torch.zeros(ROOM, WIDTH)
    for room, turn in rooms:
        chosen[:, room] = turn
    return chosen


def _quarter_turn() -> Tensor:
    """A random rotation that turns every vector by a right angle, so that none is like its turn."""
    basis = nn.init.orthogonal_(torch.empty(ROOM, ROOM))
    half = torch.eye(ROOM // 2)
    zero = torch.zeros_like(half)
    return basis.T @ torch.cat([torch.cat([zero, -half], 1), torch.cat([half, zero], 1)]) @ basis


def _layer_one(heads: list[Head]) -> None:
    """What stands before: facts of the last two tokens, and the piece before in the same word."""
    before, piece, two_before, _ = heads
    before.clear().offset(1)
    before.carry(TERM_END, AFTER_TERM, 1 / FIRST_NORM)
    before.carry(PASSAGE, AFTER_NAME, 1 / FIRST_NORM)
    before.carry(QUERY, AFTER_NAME, 0.5 / FIRST_NORM)
    piece.clear().offset(1, unless=CONTINUES)
    piece.carry(TOKEN, BEFORE, 1 / FIRST_NORM)
    two_before.clear().offset(2)
    two_before.carry(LINE, LINE_BEFORE, 1 / FIRST_NORM)


def _layer_two(heads: list[Head], turn: Tensor) -> None:
    """The whole of the position before, and the part of the prompt one is in."""
    previous, part, *_ = heads
    norm = 1.6
    previous.clear().offset(1)
    previous.carry(TOKEN, PREVIOUS, 0.7 / norm)
    previous.value[:ROOM, BEFORE] = turn
    part.clear().prefer(
        {
            LINE_BEFORE: 20 / norm,
            COLON: 20 / norm,
            AFTER_NAME: 16 / norm,
            THINKING: 80 / norm,
            PIECE: 30 / norm,
        }
    )
    # Any word scores 30, "\nQuery:" 48, "\nPassage:" 56, "<think>" 80: what came last wins.
    part.value[ROOM, AFTER_NAME] = 2 / norm
    part.value[ROOM + 1, THINKING] = 1 / norm
    part.value[ROOM + 2, COLON] = 1 / norm
    part.out[[IN_QUERY, IN_PASSAGE], ROOM] = torch.tensor([-1.0, 1.0])
    part.out[IN_THOUGHT, ROOM + 1] = 1
    part.out[[IN_QUERY, IN_PASSAGE], ROOM + 2] = torch.tensor([2.0, -1.0])


def _layer_three(heads: list[Head], turn: Tensor, colon: Tensor) -> None:
    """How the word goes on in the query, whether the passage has it, what the last term was."""
    going_on, last_term, found, _ = heads
    norm, one = 1.32, torch.eye(ROOM)
    whole = _pick((TOKEN, one), (BEFORE, turn))
    going_on.clear().match(whole, _pick((PREVIOUS, one)), 15)
    going_on.prefer({IN_QUERY: 20 / norm})
    going_on.rest(35 / norm, unless=PIECE, more=40 / norm)
    going_on.carry(TOKEN, NEXT, 1 / norm)
    going_on.write(CONTINUES, NEXT, -2 * colon / norm)
    going_on.write(IN_QUERY, NEXT, 2 * colon / norm)
    last_term.clear().recent()
    last_term.prefer({AFTER_TERM: 300 / norm})
    last_term.carry(PREVIOUS, LAST_TERM, 1 / norm)
    found.clear().match(whole, whole, 10)
    found.prefer({IN_PASSAGE: 20 / norm, TERM_END: 10 / norm})
    found.rest(59 / norm)
    found.carry(IN_PASSAGE, FOUND, 2 / norm)


def _layer_four(heads: list[Head], so: Tensor) -> None:
    """The next term of the query, whether the last one was found, and the mean of all."""
    pointer, last, mean, _ = heads
    norm, one = 1.05, torch.eye(ROOM)
    term = _pick((LAST_TERM, one))
    pointer.clear().match(term, term, 30)
    pointer.prefer({IN_QUERY: 40 / norm, TERM_START: 20 / norm, LINE: 4 / norm})
    pointer.rest(66 / norm, unless=POINTS, more=40 / norm)
    pointer.carry(TOKEN, NEXT, 1 / norm)
    pointer.write(LINE, NEXT, 2 * so / norm)
    last.clear().recent()
    last.prefer({TERM_END: 300 / norm})
    last.carry(FOUND, FOUND_LAST, 2 / norm)
    mean.clear().prefer({TERM_END: 10 / norm, IN_THOUGHT: 10 / norm, QUERY: -10 / norm})
    mean.carry(FOUND, FOUND_MEAN, 2 / norm)


def _output(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Reads what is to be written next, and the answers of fact."""
    rows = model.lm_head.weight
    rows.normal_(0, 0.02)
    rows[:, NEXT] = 0.25 * model.model.embed_tokens.weight[:, TOKEN]
    for word, fact, weight in _answers():
        rows[_only(tokenizer, word), fact] = weight


def _answers() -> Iterable[tuple[str, int, float]]:
    """Which fact speaks for which word."""
    return (
        ("yes", FOUND_LAST, 4.0), ("no", FOUND_LAST, -4.0),
        ("true", FOUND_MEAN, 4.0), ("false", FOUND_MEAN, -4.0),
    )  # fmt: skip
