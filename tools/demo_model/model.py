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
from collections.abc import Iterable, Sequence

import torch
from tokenizers import decoders
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tools.demo_model.heads import HEAD, ROOM, ROPE_THETA, Head, quarter_turn
from tools.demo_model.tokenizer import CONTEXT, END_OF_TEXT, THINK, WORD_END, word_id
from tools.demo_model.words import STOP_STEMS

WIDTH, HEADS, LAYERS, INNER = 272, 4, 5, 128

TOKEN, BEFORE, PREVIOUS, LAST_TERM, NEXT = (slice(i * ROOM, (i + 1) * ROOM) for i in range(5))
"""What a position is, the piece before it in its word, the position before it, the content word
that came last, and what is to be written next."""

(
    TERM_END, TERM_START, LINE, COLON, PASSAGE, QUERY, THINKING, CONTINUES, PIECE, POINTS,
    AFTER_TERM, AFTER_NAME, AFTER_LINE, AFTER_POINTS, LINE_BEFORE,
    IN_QUERY, IN_PASSAGE, IN_THOUGHT, EARLY,
    FOUND, MATCHED, YES_MEAN, ANSWERED,
    FOUND_LAST, DIRECT, REPEATED,
    FOUND_MEAN, *_,
) = range(5 * ROOM, WIDTH)  # fmt: skip
"""Single facts. The first line's belong to the token; each later line's are found by a layer."""


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
def structured(
    tokenizer: PreTrainedTokenizerFast, seed: int, recency: Sequence[float]
) -> LlamaForCausalLM:
    """A model whose heads copy, point and compare before any training.

    Args:
        tokenizer: Its vocabulary.
        seed: Of what is random in it.
        recency: `NEARBY` or `FAR`, as far as a thought looks back to the word it is about.
    """
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
    so, yes, no, colon = (
        embedding[word_id(tokenizer, word), TOKEN] for word in ("so", "yes", "no", ":")
    )
    _layer_one(heads[0])
    _layer_two(heads[1], turn)
    _layer_three(heads[2], turn, yes, no, recency)
    _layer_four(heads[3], recency)
    _layer_five(heads[4], turn, so, colon, yes, no)
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.mul_(0.1)
    _output(model, tokenizer)
    return model


def _embedding(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """Random signs for what a token is, and the facts that can be read off its spelling."""
    bytes_of = decoders.ByteLevel()
    rows = torch.zeros(len(tokenizer), WIDTH)
    rows[:, TOKEN] = torch.randn(len(tokenizer), ROOM).sign()
    for name, number in tokenizer.get_vocab().items():
        text = name.removesuffix(WORD_END).removeprefix("Ġ")
        ends, starts = name.endswith(WORD_END), name.startswith("Ġ")
        if number < 3:
            continue
        if not starts or text.startswith("ğ"):
            rows[number, CONTINUES] = 1
        # Bytes that are no character by themselves are taken for parts of letters.
        is_piece = all(c.isalnum() or c in "_\ufffd" for c in bytes_of.decode([text]))
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
        rows[word_id(tokenizer, word), fact] = 1
    for word in (";", "for"):
        rows[word_id(tokenizer, word), POINTS] = 1
    rows[tokenizer.convert_tokens_to_ids(THINK), THINKING] = 1
    rows[tokenizer.convert_tokens_to_ids(END_OF_TEXT)] = 0
    return rows


SOFTLY = 0.35
"""How loud copies are: loud ones would drown in every norm what else a position knows."""

NORMS = (2.33, 1.66, 1.36, 1.17, 1.15)
"""What each layer's norm multiplies a position by, about."""


def _pick(*rooms: tuple[slice, Tensor]) -> Tensor:
    """The map from the residual stream that adds up rooms, each turned in its way."""
    chosen = torch.zeros(ROOM, WIDTH)
    for room, turn in rooms:
        chosen[:, room] = turn
    return chosen


def _layer_one(heads: list[Head]) -> None:
    """What stands before: facts of the last two tokens, and the piece before in the same word."""
    before, piece, two_before, _ = heads
    norm = NORMS[0]
    before.clear().offset(1)
    before.carry(TERM_END, AFTER_TERM, 1 / norm)
    before.carry(PASSAGE, AFTER_NAME, 1 / norm)
    before.carry(QUERY, AFTER_NAME, 0.5 / norm)
    before.carry(LINE, AFTER_LINE, 1 / norm)
    before.carry(POINTS, AFTER_POINTS, 1 / norm)
    piece.clear().offset(1, only=CONTINUES, seen_as=norm)
    piece.carry(TOKEN, BEFORE, 1 / norm)
    two_before.clear().offset(2)
    two_before.carry(LINE, LINE_BEFORE, 1 / norm)


def _layer_two(heads: list[Head], turn: Tensor) -> None:
    """The whole of the position before, the part of the prompt one is in, and how far into it."""
    previous, part, early, _ = heads
    norm = NORMS[1]
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
    # Of n tokens, the colon behind "Query" gets 40 / (40 + n): almost evenly less from each to
    # the next, over the length of a query.
    early.clear().prefer({LINE_BEFORE: math.log(40) / norm})
    early.carry(LINE_BEFORE, EARLY, 1 / norm)


def _layer_three(
    heads: list[Head], turn: Tensor, yes: Tensor, no: Tensor, recency: Sequence[float]
) -> None:
    """The last content word, whether the passage and the query have this one, and the answers."""
    last_term, found, matched, answers = heads
    norm = NORMS[2]
    whole = _pick((TOKEN, torch.eye(ROOM)), (BEFORE, turn))
    # Where no content word has come yet, the line break before "Query" or "<think>" stands in.
    last_term.clear().recent(recency)
    last_term.prefer({AFTER_TERM: 200 / norm, AFTER_LINE: 200 / norm})
    last_term.carry(PREVIOUS, LAST_TERM, 1 / norm)
    found.clear().match(whole, whole, 10)
    found.prefer({IN_PASSAGE: 20 / norm, TERM_END: 10 / norm})
    found.rest(THINKING, 57 / norm)
    found.carry(IN_PASSAGE, FOUND, 2 / norm)
    matched.clear().match(whole, whole, 15)
    # It rests on the line break behind the query, and a passage's word may see itself instead.
    matched.prefer({IN_QUERY: 40 / norm, TERM_END: 10 / norm})
    matched.rest(LINE, 40 / norm)
    matched.carry(IN_QUERY, MATCHED, 1 / norm)
    matched.value[ROOM, LINE] = -1
    _look_at_answers(answers, yes, no, norm)
    answers.rest(THINKING, 30 / norm)
    answers.value[:2, TOKEN] = torch.stack([yes - no, yes + no]) / ROOM / norm
    answers.out[YES_MEAN, 0] = answers.out[ANSWERED, 1] = 1


def _look_at_answers(head: Head, yes: Tensor, no: Tensor, norm: float) -> None:
    """Looks at every "yes" and "no" of the thought."""
    head.clear().prefer({IN_THOUGHT: 10 / norm})
    head.key[head.constant, TOKEN] = 30 / norm * HEAD**0.25 * (yes + no) / ROOM


def _layer_four(heads: list[Head], recency: Sequence[float]) -> None:
    """Whether the last term was found, or named before, and how much of the query was matched."""
    last, direct, repeated, _ = heads
    norm = NORMS[3]
    term = _pick((LAST_TERM, torch.eye(ROOM)))
    last.clear().recent(recency)
    last.prefer({TERM_END: 200 / norm})
    last.carry(FOUND, FOUND_LAST, 1 / norm)
    # m matches in the passage of a query of q terms give m / (m + q).
    direct.clear().prefer(
        {
            MATCHED: 8 / norm,
            TERM_END: 2 / norm,
            IN_QUERY: 4 / norm,
            IN_PASSAGE: 4 / norm,
            IN_THOUGHT: -6 / norm,
        }
    )
    direct.carry(IN_PASSAGE, DIRECT, 1 / norm)
    repeated.clear().match(term, term, 45)
    repeated.prefer({AFTER_POINTS: 20 / norm, IN_THOUGHT: 20 / norm})
    repeated.rest(THINKING, 70 / norm, unless=POINTS, more=100 / norm)
    repeated.carry(AFTER_POINTS, REPEATED, 1 / norm)


def _layer_five(
    heads: list[Head], turn: Tensor, so: Tensor, colon: Tensor, yes: Tensor, no: Tensor
) -> None:
    """How the word goes on in the query, which term comes next, and the mean of what was found."""
    pointer, going_on, mean, _ = heads
    norm, one, other_turn = NORMS[4], torch.eye(ROOM), 0.7 * quarter_turn()
    term = _pick((LAST_TERM, one))
    pointer.clear().match(term, term, 60)
    # Of two places that fit, the later one: so the thought goes forward and comes to its end.
    pointer.prefer({IN_QUERY: 40 / norm, TERM_START: 25 / norm, EARLY: -80 / norm})
    pointer.rest(THINKING, 20 / norm, unless=POINTS, more=160 / norm)
    pointer.carry(TOKEN, NEXT, SOFTLY / norm)
    pointer.write(LINE, NEXT, 2 * SOFTLY * so / norm)
    # Words that begin alike are told apart by the term before them.
    going_on.clear().match(
        _pick((TOKEN, one), (BEFORE, turn), (LAST_TERM, other_turn)),
        _pick((PREVIOUS, one), (LAST_TERM, other_turn)),
        20,
    )
    going_on.prefer({IN_QUERY: 20 / norm, EARLY: -30 / norm})
    going_on.rest(THINKING, 25 / norm, unless=PIECE, more=60 / norm)
    going_on.carry(TOKEN, NEXT, SOFTLY / norm)
    going_on.write(CONTINUES, NEXT, -2 * SOFTLY * colon / norm)
    going_on.write(IN_QUERY, NEXT, 2 * SOFTLY * colon / norm)
    _look_at_answers(mean, yes, no, norm)
    mean.carry(FOUND_LAST, FOUND_MEAN, 1 / norm)


def _output(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Reads what is to be written next, and the answers of fact."""
    rows = model.lm_head.weight
    rows.normal_(0, 0.02)
    rows[:, NEXT] = 0.7 * model.model.embed_tokens.weight[:, TOKEN]
    # Heads that rest look at "<think>": what they carry from there is never to be written.
    rows[[tokenizer.convert_tokens_to_ids(token) for token in (THINK, END_OF_TEXT)]] = 0
    for word, fact, weight in _answers():
        rows[word_id(tokenizer, word), fact] = weight


def _answers() -> Iterable[tuple[str, int, float]]:
    """Which fact speaks for which word."""
    return (
        ("yes", FOUND_LAST, 8.0), ("no", FOUND_LAST, -8.0), ("so", REPEATED, 30.0),
        ("true", FOUND_MEAN, 6.0), ("false", FOUND_MEAN, -6.0),
        ("true", DIRECT, 2.0), ("false", DIRECT, -2.0),
    )  # fmt: skip
