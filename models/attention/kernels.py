"""Triton kernels for attention over packed texts on CUDA, for which nothing is computed but the texts' own tokens.

Flash attention gives each text blocks of 128 queries and 128 keys of its own, most of which a text of 20 tokens leaves empty.
Here a block of queries is BLOCK neighbouring tokens of the pack, whichever texts they are of. It reads the keys from where its
first text begins to where its last one ends, and a mask keeps the texts apart. The softmax is taken block by block, as in Flash
attention (Dao et al. 2022).

`T` tokens, `S` texts, `N` heads, `H` head width; states are (T, N, H) with H contiguous.
"""

import torch
import triton
from triton import language as tl

# Tokens of a block of queries, and of keys.
BLOCK = 64
# Keys that a text's one query sees at a time.
KEYS = 64
WARPS = 2
# Tokens whose texts one program of `_find_texts` looks up.
FOUND = 256
LOG2_E = 1.4426950408889634
WIDTHS = (16, 32, 64, 128)


def takes(query_QNH: torch.Tensor) -> bool:
    """Whether the kernels can be asked: the head width is one of theirs."""
    return query_QNH.shape[-1] in WIDTHS


def try_out() -> None:
    """Builds the kernels and runs them once. Raises whatever comes where they can't be built, without a compiler for example."""
    states = torch.zeros(16, 1, 64, dtype=torch.bfloat16, device="cuda")
    bounds = torch.tensor([0, 16], dtype=torch.int32, device="cuda")
    attend(states, states, states, bounds, 1.0)
    attend_once(states[:1], states, states, bounds, 1.0)
    torch.cuda.synchronize()


def text_spans(cu_seq_lens: torch.Tensor, tokens: int) -> torch.Tensor:
    """(2, T) int32: where the text of each token begins and ends. A token after the last text is a text of its own.

    Each layer of a forward asks for them; the answer to the first one is kept for the others."""
    # A graph must not use what was found before it was captured: its replays would not find it anew.
    version = 0 if cu_seq_lens.is_inference() else cu_seq_lens._version
    key = (tokens, version, torch.cuda.is_current_stream_capturing())
    kept = getattr(cu_seq_lens, "_valence_spans", None)
    if kept is not None and kept[0] == key:
        return kept[1]
    spans_2T = torch.empty(2, tokens, dtype=torch.int32, device=cu_seq_lens.device)
    texts = len(cu_seq_lens) - 1
    _find_texts[(triton.cdiv(tokens, FOUND),)](cu_seq_lens, spans_2T, tokens, texts, texts.bit_length(), FOUND)
    cu_seq_lens._valence_spans = (key, spans_2T)
    return spans_2T


def attend(
    query_TNH: torch.Tensor, key_TNH: torch.Tensor, value_TNH: torch.Tensor, cu_seq_lens: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Every token attends to its text: (T, N, H)."""
    tokens, heads, width = query_TNH.shape
    output_TNH = query_TNH.new_empty(tokens, heads, width)
    spans_2T = text_spans(cu_seq_lens, tokens)
    _attend[(triton.cdiv(tokens, BLOCK), heads)](
        query_TNH, key_TNH, value_TNH, output_TNH, spans_2T, tokens, scaling * LOG2_E,
        *query_TNH.stride()[:2], *key_TNH.stride()[:2], *value_TNH.stride()[:2], *output_TNH.stride()[:2],
        BLOCK, width, num_warps=WARPS,
    )  # fmt: skip
    return output_TNH


def attend_once(
    query_SNH: torch.Tensor, key_TNH: torch.Tensor, value_TNH: torch.Tensor, cu_seq_lens: torch.Tensor, scaling: float
) -> torch.Tensor:
    """One query a text attends to its text: (S, N, H); zeros for an empty one."""
    texts, heads, width = query_SNH.shape
    output_SNH = query_SNH.new_empty(texts, heads, width)
    _attend_once[(texts, heads)](
        query_SNH, key_TNH, value_TNH, output_SNH, cu_seq_lens, scaling * LOG2_E,
        *query_SNH.stride()[:2], *key_TNH.stride()[:2], *value_TNH.stride()[:2], *output_SNH.stride()[:2],
        KEYS, width, num_warps=WARPS,
    )  # fmt: skip
    return output_SNH


@triton.jit
def _find_texts(bounds, spans, tokens, texts, steps, FOUND: tl.constexpr):  # type: ignore[no-untyped-def]
    token = tl.program_id(0) * FOUND + tl.arange(0, FOUND)
    # The last text that begins at or before the token lies between `low` and `high`, which draw together by halves.
    low = tl.zeros([FOUND], tl.int32)
    high = low + texts
    for _ in range(steps):
        middle = (low + high) // 2
        later = tl.load(bounds + middle) <= token
        low = tl.where(later & (middle > low), middle, low)
        high = tl.where(later, high, middle)
    begin = tl.load(bounds + low)
    end = tl.load(bounds + tl.minimum(low + 1, texts))
    is_text = token < tl.load(bounds + texts)
    tl.store(spans + token, tl.where(is_text, begin, token), mask=token < tokens)
    tl.store(spans + tokens + token, tl.where(is_text, end, token + 1), mask=token < tokens)


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    query, key, value, output, spans, tokens, scale,
    query_t, query_n, key_t, key_n, value_t, value_n, output_t, output_n,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * BLOCK
    head = tl.program_id(1)
    rows = first + tl.arange(0, BLOCK)
    width = tl.arange(0, WIDTH)
    is_row = rows < tokens
    row_text = tl.load(spans + rows, mask=is_row, other=-1)
    queries = tl.load(query + head * query_n + rows[:, None] * query_t + width[None, :], mask=is_row[:, None], other=0.0)
    begin = tl.load(spans + first)
    end = tl.load(spans + tokens + tl.minimum(first + BLOCK, tokens) - 1)
    highest = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    result = tl.zeros([BLOCK, WIDTH], tl.float32)
    for start in range(begin, end, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        is_column = columns < end
        column_text = tl.load(spans + columns, mask=is_column, other=-2)
        keys = tl.load(key + head * key_n + columns[None, :] * key_t + width[:, None], mask=is_column[None, :], other=0.0)
        values = tl.load(value + head * value_n + columns[:, None] * value_t + width[None, :], mask=is_column[:, None], other=0.0)
        scores = tl.where(row_text[:, None] == column_text[None, :], tl.dot(queries, keys) * scale, float("-inf"))
        raised = tl.maximum(highest, tl.max(scores, 1))
        # A row whose text has not begun yet has no score. 0 keeps one infinity from being taken from another.
        base = tl.where(raised == float("-inf"), 0.0, raised)
        weights = tl.exp2(scores - base[:, None])
        shrink = tl.exp2(highest - base)
        total = total * shrink + tl.sum(weights, 1)
        result = result * shrink[:, None] + tl.dot(weights.to(values.dtype), values)
        highest = raised
    result = result / total[:, None]
    place = output + head * output_n + rows[:, None] * output_t + width[None, :]
    tl.store(place, result.to(output.dtype.element_ty), mask=is_row[:, None])


@triton.jit
def _attend_once(  # type: ignore[no-untyped-def]
    query, key, value, output, bounds, scale,
    query_s, query_n, key_t, key_n, value_t, value_n, output_s, output_n,
    KEYS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    text = tl.program_id(0)
    head = tl.program_id(1)
    begin = tl.load(bounds + text)
    end = tl.load(bounds + text + 1)
    width = tl.arange(0, WIDTH)
    one = tl.load(query + text * query_s + head * query_n + width).to(tl.float32)
    highest = float("-inf")
    total = 0.0
    result = tl.zeros([WIDTH], tl.float32)
    for start in range(begin, end, KEYS):
        columns = start + tl.arange(0, KEYS)
        is_column = columns < end
        places = columns[:, None]
        keys = tl.load(key + head * key_n + places * key_t + width[None, :], mask=is_column[:, None], other=0.0)
        values = tl.load(value + head * value_n + places * value_t + width[None, :], mask=is_column[:, None], other=0.0)
        scores = tl.where(is_column, tl.sum(keys.to(tl.float32) * one[None, :], 1) * scale, float("-inf"))
        raised = tl.maximum(highest, tl.max(scores, 0))
        weights = tl.exp2(scores - raised)
        shrink = tl.exp2(highest - raised)
        total = total * shrink + tl.sum(weights, 0)
        result = result * shrink + tl.sum(weights[:, None] * values.to(tl.float32), 0)
        highest = raised
    result = tl.where(end > begin, result / total, 0.0)
    tl.store(output + text * output_s + head * output_n + width, result.to(output.dtype.element_ty))
