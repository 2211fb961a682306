"""A small Llama whose attention heads start out as the procedure the task asks for.

Copying and comparing words is what small transformers learn slowest, so the heads for it are
written down and then trained with everything else ("mimetic" initialisation, Trockman and Kolter
2023). Copying itself is induction (Olsson et al. 2022): each position holds its predecessor, and a
head that looks for the present token among the predecessors finds how the text went on.

The residual stream is divided into the rooms below. Layer by layer a position learns: which piece
came before it within its word; in which part of the prompt it stands and what its predecessor is;
how its word goes on, how often the passage has it, and which content word came last; and at last
which content word is next.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training.heads import HEAD, ROOM, ROPE_THETA, Head, quarter_turn
from training.tokenizer import CONTEXT, END_OF_TEXT, THINK, WORD_END
from training.words import STOP_STEMS

WIDTH, HEADS, LAYERS, INNER = 256, 4, 4, 192

TOKEN, BEFORE, PREVIOUS, LAST_TERM, NEXT = (slice(i * ROOM, (i + 1) * ROOM) for i in range(5))
"""What a position is, the piece before it in its word, the position before it, the content word
that came last, and what is to be written next."""

(
    TERM_END, TERM_START, LINE, COLON, PASSAGE, QUERY, THINKING, CONTINUES, PIECE, POINTS,
    AFTER_TERM, AFTER_NAME, LINE_BEFORE, IN_QUERY, IN_PASSAGE, FOUND,
) = range(5 * ROOM, WIDTH)  # fmt: skip
"""Single facts. Those up to POINTS belong to the token; the later ones are found by attention."""

IN_THOUGHT, EARLY, FOUND_LAST, FOUND_MEAN, YES_MEAN = COLON, PASSAGE, LINE_BEFORE, AFTER_NAME, LINE
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
        head_dim=HEAD,
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
    model = LlamaForCausalLM(config(len(tokenizer)))  # type: ignore[no-untyped-call]
    embedding = model.model.embed_tokens.weight
    embedding.copy_(_embedding(tokenizer))
    turn = quarter_turn()
    heads = [
        [Head(layer.self_attn, number) for number in range(HEADS)] for layer in model.model.layers
    ]
    for layer in heads:
        for head in layer:
            head.soften()
    _layer_one(heads[0])
    _layer_two(heads[1], turn)
    _layer_three(heads[2], turn, embedding[_only(tokenizer, ":"), TOKEN])
    _layer_four(
        heads[3], *(embedding[_only(tokenizer, word), TOKEN] for word in ("so", "yes", "no"))
    )
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.mul_(0.1)
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
        is_piece = not text or ((text.isalnum() or "_" in text) and not text.startswith("ğ"))
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


SOFTLY = 0.35
"""How loud copies are: loud ones would drown in every norm what else a position knows."""

FIRST_NORM = 16 / math.sqrt(50)
"""What the first layer's norm multiplies by: about 50 of 256 numbers are plus or minus one."""


def _pick(*rooms: tuple[slice, Tensor]) -> Tensor:
    """The map from the residual stream that adds up rooms, each turned in its way."""
    chosen = torch.zeros(ROOM, WIDTH)
    for room, turn in rooms:
        chosen[:, room] = turn
    return chosen


def _layer_one(heads: list[Head]) -> None:
    """What stands before: facts of the last two tokens, and the piece before in the same word."""
    before, piece, two_before, _ = heads
    before.clear().offset(1)
    before.carry(TERM_END, AFTER_TERM, 1 / FIRST_NORM)
    before.carry(PASSAGE, AFTER_NAME, 1 / FIRST_NORM)
    before.carry(QUERY, AFTER_NAME, 0.5 / FIRST_NORM)
    piece.clear().offset(1, only=CONTINUES, seen_as=FIRST_NORM)
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
    part.value[ROOM + 3, PIECE] = 1 / norm
    part.out[[IN_QUERY, IN_PASSAGE], ROOM + 3] = -1


def _layer_three(heads: list[Head], turn: Tensor, colon: Tensor) -> None:
    """How the word goes on in the query, whether the passage has it, what the last term was."""
    going_on, last_term, found, early = heads
    norm, one = 1.32, torch.eye(ROOM)
    whole = _pick((TOKEN, one), (BEFORE, turn))
    going_on.clear().match(whole, _pick((PREVIOUS, one)), 15)
    going_on.prefer({IN_QUERY: 20 / norm})
    going_on.rest(THINKING, 35 / norm, unless=PIECE, more=40 / norm)
    going_on.carry(TOKEN, NEXT, SOFTLY / norm)
    going_on.write(CONTINUES, NEXT, -2 * SOFTLY * colon / norm)
    going_on.write(IN_QUERY, NEXT, 2 * SOFTLY * colon / norm)
    last_term.clear().recent()
    last_term.prefer({AFTER_TERM: 200 / norm})
    # "<think>" itself is to have no last term, for the pointer rests on it.
    last_term.rest(THINKING, 400 / norm, unless=THINKING, more=-400 / norm)
    last_term.carry(PREVIOUS, LAST_TERM, 1 / norm)
    found.clear().match(whole, whole, 10)
    found.prefer({IN_PASSAGE: 20 / norm, TERM_END: 10 / norm})
    found.rest(THINKING, 57 / norm)
    found.carry(IN_PASSAGE, FOUND, 2 / norm)
    early.clear().prefer({IN_QUERY: 0.65 / norm})
    early.carry(COLON, EARLY, 1 / norm)


def _layer_four(heads: list[Head], so: Tensor, yes: Tensor, no: Tensor) -> None:
    """The next term of the query, whether the last one was found, and the means of all."""
    pointer, last, mean, answers = heads
    norm, one = 1.05, torch.eye(ROOM)
    term = _pick((LAST_TERM, one))
    pointer.clear().match(term, term, 45)
    # Of two places that fit, the later one: so the thought goes forward and comes to its end.
    pointer.prefer({IN_QUERY: 40 / norm, TERM_START: 25 / norm, EARLY: -150 / norm})
    pointer.rest(THINKING, 20 / norm, unless=POINTS, more=100 / norm)
    pointer.carry(TOKEN, NEXT, SOFTLY / norm)
    pointer.write(LINE, NEXT, 2 * SOFTLY * so / norm)
    last.clear().recent()
    last.prefer({TERM_END: 200 / norm})
    last.carry(FOUND, FOUND_LAST, 2 / norm)
    mean.clear().prefer({TERM_END: 10 / norm, IN_THOUGHT: 10 / norm, QUERY: -10 / norm})
    mean.carry(FOUND, FOUND_MEAN, 2 / norm)
    answers.clear().prefer({IN_THOUGHT: 10 / norm})
    answers.key[answers.constant, TOKEN] = 30 / norm * HEAD**0.25 * (yes + no) / ROOM
    answers.value[0, TOKEN] = (yes - no) / ROOM
    answers.out[YES_MEAN, 0] = 4 / norm


def _output(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Reads what is to be written next, and the answers of fact."""
    rows = model.lm_head.weight
    rows.normal_(0, 0.02)
    rows[:, NEXT] = 0.7 * model.model.embed_tokens.weight[:, TOKEN]
    for word, fact, weight in _answers():
        rows[_only(tokenizer, word), fact] = weight


def _answers() -> Iterable[tuple[str, int, float]]:
    """Which fact speaks for which word."""
    return (
        ("yes", FOUND_LAST, 4.0), ("no", FOUND_LAST, -4.0),
        ("true", FOUND_MEAN, 4.0), ("false", FOUND_MEAN, -4.0),
    )  # fmt: skip
