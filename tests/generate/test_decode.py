"""Cached decoding against the plainest uncached one, alone and in batches, within and beyond the context."""

from __future__ import annotations

import pytest
import torch
from tiny import FAMILIES, SEPARATOR, VOCABULARY, continue_uncached, lively, next_logits, tiny

from corestone.core.batch import TextBatch
from corestone.core.errors import DataError
from corestone.core.mask import Mask
from corestone.generate.decode import generate
from corestone.generate.spec import Sampling
from corestone.nn.cache import empty_cache

PROMPTS = [[5, 9, 33, 7, 7, 12, 50], [4], [], [18, 2, 60, 41]]
GREEDY = Sampling(temperature=0.0, max_tokens=40)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_cached_tokens_are_the_uncached_ones(prompt: list[int], window: int | None) -> None:
    model = tiny(window=window)
    expected = continue_uncached(model, prompt, 40, 64)
    assert generate(model, VOCABULARY, [prompt], GREEDY) == [expected]


@pytest.mark.parametrize("which", [None, 4, *FAMILIES])
def test_cached_logits_are_the_uncached_ones(which: int | str | None) -> None:
    """Prompt in one call, then token by token, beside a left-padded row. Measured worst case 1.2e-5 of values to 9."""
    model = lively(FAMILIES[which]) if isinstance(which, str) else tiny(window=which)
    rows, pads = torch.randint(1, 61, (2, 20), generator=torch.Generator().manual_seed(0)), 3
    segments = torch.zeros(2, 20, dtype=torch.int32)
    segments[1, :pads] = -1
    positions = torch.stack([torch.arange(20), (torch.arange(20) - pads).clamp(min=0)])
    cache = empty_cache(model.spec.stack, 2, 20, torch.float32, torch.device("cpu"))
    cache.segments_BS = segments
    worst = 0.0
    for start, stop in [(0, 8), *((place, place + 1) for place in range(8, 20))]:
        tokens = rows[:, start:stop]
        mask = Mask(segments_BT=segments[:, start:stop])
        with torch.no_grad():
            hidden = model(TextBatch(tokens, tokens, positions[:, start:stop], mask), cache).hidden
            logits = model.head(hidden[:, -1])
        for row, first in enumerate((0, pads)):
            expected = next_logits(model, rows[row, first:stop].tolist())
            worst = max(worst, float((logits[row] - expected).abs().max()))
    assert worst < 3e-5


@pytest.mark.parametrize("context", [9, 64])
@pytest.mark.parametrize("name", ["h3", "primer-full"])
def test_states_and_convolutions_decode_as_uncached(name: str, context: int) -> None:
    """H3 and attention in one cache, or queries made of convolved keys: alone, beside longer and shorter rows, rows
    that leave, beyond the context."""
    spec = FAMILIES[name]
    embedding = spec.embedding.model_copy(update={"context_length": context})
    model = lively(spec.model_copy(update={"embedding": embedding}))
    expected = [continue_uncached(model, prompt, 40, context) for prompt in PROMPTS]
    assert generate(model, VOCABULARY, PROMPTS, GREEDY) == expected
    assert [generate(model, VOCABULARY, [prompt], GREEDY)[0] for prompt in PROMPTS] == expected
    assert len(set(map(tuple, expected))) == len(PROMPTS)
    lengths, counts = [3, 40, 17, 29], [0, 0, 0, 0]

    def watch(row: int, token: int) -> bool:
        counts[row] += 1
        return counts[row] == lengths[row]

    assert generate(model, VOCABULARY, PROMPTS, GREEDY, watch) == [
        row[:length] for row, length in zip(expected, lengths, strict=True)
    ]


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("pads", [0, 3])
def test_a_float32_cache_serves_a_bfloat16_model(window: int | None, pads: int) -> None:
    """Relative distance to float32's logits; worst of 24 rows measured 0.047 (uncached bfloat16: 0.033)."""
    model = tiny(window=window)
    rows = torch.randint(1, 61, (1, 24), generator=torch.Generator().manual_seed(1))
    exact = next_logits(model, rows[0, pads:].tolist())
    model = model.bfloat16()
    segments = torch.zeros(1, 24, dtype=torch.int32)
    segments[:, :pads] = -1
    cache = empty_cache(model.spec.stack, 1, 24, torch.float32, torch.device("cpu"))
    cache.segments_BS = segments if pads else None
    positions = (torch.arange(24) - pads).clamp(min=0)[None]
    for start, stop in [(0, 10), *((place, place + 1) for place in range(10, 24))]:
        mask = Mask(segments_BT=segments[:, start:stop] if pads else None)
        tokens = rows[:, start:stop]
        with torch.no_grad():
            hidden = model(TextBatch(tokens, tokens, positions[:, start:stop], mask), cache).hidden
    logits = model.head(hidden[0, -1]).float()
    assert hidden.dtype == torch.bfloat16
    assert float(((logits - exact).norm() / exact.norm()).detach()) < 0.1


@pytest.mark.parametrize("window", [None, 4])
def test_a_batch_of_unequal_prompts_is_each_alone(window: int | None) -> None:
    model = tiny(window=window)
    together = generate(model, VOCABULARY, PROMPTS, GREEDY)
    assert together == [generate(model, VOCABULARY, [prompt], GREEDY)[0] for prompt in PROMPTS]
    assert len(set(map(tuple, together))) == len(PROMPTS)


def test_a_drawn_row_does_not_depend_on_the_batch_around_it() -> None:
    model = tiny()
    sampling = Sampling(temperature=0.8, top_p=0.9, repetition_penalty=1.2, max_tokens=30, seed=7)
    first = generate(model, VOCABULARY, PROMPTS, sampling)
    assert generate(model, VOCABULARY, PROMPTS, sampling) == first
    assert generate(model, VOCABULARY, PROMPTS[:1], sampling) == first[:1]
    assert generate(model, VOCABULARY, [*PROMPTS[:2], [44] * 20], sampling)[:2] == first[:2]
    assert generate(model, VOCABULARY, PROMPTS, sampling.model_copy(update={"seed": 8})) != first


def test_rows_may_begin_with_the_prompt() -> None:
    """Beside the plainest loop; an empty prompt begins with the separator all the same, and what a row begins with is
    text to the repetition penalty."""
    model, sampling = tiny(), Sampling(temperature=0.0, max_tokens=12, repetition_penalty=1.3)
    expected = []
    for prompt in PROMPTS:
        row = list(prompt) or [SEPARATOR]
        for _ in range(sampling.max_tokens):
            logits = next_logits(model, row)[: VOCABULARY.size].tolist()
            for seen in {*row} - {SEPARATOR}:
                logits[seen] = logits[seen] / 1.3 if logits[seen] > 0 else logits[seen] * 1.3
            row.append(max(range(len(logits)), key=logits.__getitem__))
        expected.append(row[max(1, len(prompt)) :])
    assert all(SEPARATOR not in row for row in expected)
    assert generate(model, VOCABULARY, PROMPTS, sampling, begin=False) == expected
    assert generate(model, VOCABULARY, PROMPTS, sampling) != expected


@pytest.mark.parametrize("context", [1, 2, 9, 16])
def test_beyond_the_context_a_row_goes_on_from_its_last_half(context: int) -> None:
    model = tiny(context_length=context)
    prompts = [[5, 9, 33], [4] * 12, [], [18, 2, 60, 41, 7, 7]]
    result = generate(model, VOCABULARY, prompts, GREEDY)
    assert result == [continue_uncached(model, prompt, 40, context) for prompt in prompts]
    assert max(map(len, result)) > context


def test_the_penalty_counts_the_prompt_and_all_new_tokens_of_its_own_row() -> None:
    model, lengths = tiny(context_length=16), [2, 40, 5, 40]
    penalised = GREEDY.model_copy(update={"repetition_penalty": 1.6})
    counts = [0, 0, 0, 0]

    def watch(row: int, token: int) -> bool:
        counts[row] += 1
        return counts[row] == lengths[row]

    result = generate(model, VOCABULARY, PROMPTS, penalised, watch)
    alone = [continue_uncached(model, prompt, n, 16, 1.6) for prompt, n in zip(PROMPTS, lengths, strict=True)]
    assert result == alone
    assert result != [continue_uncached(model, prompt, n, 16) for prompt, n in zip(PROMPTS, lengths, strict=True)]


def test_rows_end_at_the_separator_which_is_not_part_of_the_result() -> None:
    model = tiny()
    sampling = Sampling(temperature=2.0, max_tokens=400)  # of 61 tokens, the separator comes soon enough
    result = generate(model, VOCABULARY, [[]] * 6, sampling)
    assert any(len(row) < 400 for row in result)
    assert all(SEPARATOR not in row for row in result)
    assert len({len(row) for row in result}) > 1  # they end at different times, the others go on


def test_a_callback_sees_each_token_and_ends_its_row() -> None:
    model = tiny()
    whole = generate(model, VOCABULARY, PROMPTS, GREEDY)
    seen: list[list[int]] = [[] for _ in PROMPTS]

    def watch(row: int, token: int) -> bool:
        seen[row].append(token)
        return row == 1 and len(seen[row]) == 3

    result = generate(model, VOCABULARY, PROMPTS, GREEDY, watch)
    assert result == seen
    assert result == [whole[0], whole[1][:3], *whole[2:]]


def test_padding_rows_of_the_table_are_never_drawn() -> None:
    model = tiny()
    with torch.no_grad():  # the head would love them
        model.embedding.token.weight[VOCABULARY.size :] = 50 * next_hidden(model)
    assert int(next_logits(model, [SEPARATOR]).argmax()) >= VOCABULARY.size
    for sampling in (GREEDY, Sampling(temperature=3.0, max_tokens=40)):
        assert max(generate(model, VOCABULARY, [[]], sampling)[0], default=0) < VOCABULARY.size


def next_hidden(model: torch.nn.Module) -> torch.Tensor:
    tokens = torch.tensor([[SEPARATOR]])
    return model(TextBatch(tokens, tokens, torch.zeros(1, 1, dtype=torch.int64), Mask())).hidden[0, -1].sign()


def test_exactly_max_tokens_and_no_more() -> None:
    model = tiny()
    assert len(generate(model, VOCABULARY, [[5]], Sampling(temperature=0.0, max_tokens=1))[0]) == 1
    assert generate(model, VOCABULARY, [], GREEDY) == []


@pytest.mark.parametrize("token", [-1, 61, 63])
def test_a_prompt_of_another_vocabulary_is_refused(token: int) -> None:
    with pytest.raises(DataError, match=f"prompt 1, token 2: id {token} "):
        generate(tiny(), VOCABULARY, [[1], [2, 3, token]], GREEDY)


def test_training_mode_and_weights_are_left_as_they_were() -> None:
    model = tiny().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generate(model, VOCABULARY, [[1]], GREEDY)
    assert model.training
    assert model.stack.blocks[0].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
