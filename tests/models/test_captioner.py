"""Captioners: who sees what, padding, pools and captions by plain means, counted operations."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from corestone.core.batch import ImageBatch, ImageTextBatch, TextBatch, plain_batch
from corestone.core.errors import SpecError
from corestone.core.mask import Mask
from corestone.core.spec import from_yaml, parse, plain, to_yaml
from corestone.core.vocabulary import Vocabulary
from corestone.generate.decode import caption, generate
from corestone.generate.spec import Sampling
from corestone.models.captioner import CaptionerModel, build_captioner
from corestone.models.decoder import build_decoder
from corestone.models.picture_spec import Captioner
from corestone.models.similarity import LOG_SCALE
from corestone.nn.cross_entropy import linear_cross_entropy
from corestone.nn.spec import Alibi, Init, LearnedPositions, PatchEmbedding, Rotary
from corestone.parallel.precision import MasterWeights
from corestone.zoo.coca import coca
from corestone.zoo.gpt import gpt2

END, SIZE, ROWS = 0, 61, 64
VOCABULARY = Vocabulary(size=SIZE, separator=END)
SMALL = PatchEmbedding(image_size=(9, 12), patch_size=3, class_token=False)


def spec_of(
    position: str = "learned", tied: bool = False, class_token: bool = False, depth: int = 2, std: float = 0.25
) -> Captioner:
    """Unequal sizes everywhere; every part shows."""
    picture = SMALL.model_copy(update={"class_token": class_token})
    spec = coca(24, 3, (depth, 40), (depth, 28), vocab_size=ROWS, tied=tied, picture=picture, queries=5)
    attention = {"alibi": Alibi(), "rotary": Rotary(dims=4)}.get(position)
    tree = plain(spec) | {"init": plain(Init(std=std, position_std=0.4)), "shared_width": 10}
    tree["embedding"] |= {"context_length": 20, "position": plain(LearnedPositions()) if attention is None else None}
    for block in tree["decoder"]["blocks"]:
        block["mixer"] = block["mixer"] | {"position": plain(attention)}
    return parse(Captioner, tree, "model")


def pictures(count: int, seed: int = 0) -> ImageBatch:
    return ImageBatch(torch.randn(count, 3, 9, 12, generator=torch.Generator().manual_seed(seed)))


def texts(seed: int, count: int, longest: int = 12) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(1, SIZE, (size,), generator=generator) for size in sizes]


def filled_up(rows: list[torch.Tensor], more: int = 0, fill: int = 7) -> TextBatch:
    """Rows filled up on the right, each of these segments its own."""
    longest = max(map(len, rows)) + more
    tokens = torch.stack([torch.cat((row, torch.full((longest - len(row),), fill))) for row in rows])
    segments = torch.stack([(torch.arange(longest) >= len(row)).int() for row in rows])
    return replace(plain_batch(tokens, tokens), mask=Mask(segments_BT=segments))


def test_what_a_captioner_says_of_itself():
    model = build_captioner(spec_of())
    assert (model.image_size, model.channels, model.vocab_size, model.context_length) == ((9, 12), 3, ROWS, 20)
    assert (model.generates, model.longest_answer, model.bias) == ("captions", 20, None)
    assert build_captioner(spec_of("rotary")).longest_answer is None
    assert float(model.log_scale.detach()) == pytest.approx(math.log(1 / 0.07))
    out = model(ImageTextBatch(pictures(3), plain_batch(torch.ones(3, 6, dtype=torch.int64))))
    assert out.hidden.shape == (3, 6, 24)
    assert model.head(out.hidden).shape == (3, 6, ROWS)
    for name in ("image", "text"):
        vectors = out.intermediates[name]
        assert vectors.shape == (3, 10)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))


def test_the_scale_is_exact_and_stays_below_a_hundred():
    """In bfloat16 it would be 14.250 or 14.375, and nothing between."""
    model = build_captioner(spec_of())
    weights = MasterWeights(model, torch.bfloat16)
    assert model.log_scale.dtype == torch.float32
    assert model.text_out.weight.dtype == torch.bfloat16
    for value, wanted in ((2.6593, 2.6593), (4.7, math.log(100))):
        with torch.no_grad():
            weights.masters[LOG_SCALE].fill_(value)
        weights.publish()
        model.after_update(weights.masters)
        assert float(model.log_scale.detach()) == pytest.approx(wanted, rel=1e-6)
        assert float(weights.masters[LOG_SCALE].detach()) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("class_token", [False, True])
def test_pools_by_plain_loops(class_token):
    """Each query by itself, head by head: shares of the keys, the values' mean, the map behind, its norm; the second
    pool looks at the first one's findings. Worst of 200 pictures: 1.1e-6."""
    model = build_captioner(spec_of(class_token=class_token))
    batch = pictures(2)

    def found_by(pool, keys_SD):
        rows = []
        for query_D in pool.attention.q(pool.probe.weight):
            k_SD, v_SD = pool.attention.kv(keys_SD).chunk(2, dim=-1)
            heads = []
            for head in range(3):
                part = slice(8 * head, 8 * head + 8)
                scores = torch.stack([query_D[part] @ key / 8**0.5 for key in k_SD[:, part]])
                shares = scores.exp() / scores.exp().sum()
                heads.append(sum(share * value for share, value in zip(shares, v_SD[:, part], strict=True)))
            x_D = pool.attention.out(torch.cat(heads))
            rows.append((x_D - x_D.mean()) / (x_D.var(unbiased=False) + 1e-6).sqrt())
        return torch.stack(rows)

    with torch.no_grad():
        found_BQD, image_BE = model.encode(batch), model.image(batch)
        x_BSD = model.image_embedding(batch.images_BCHW)
        positions = torch.zeros(x_BSD.shape[:2], dtype=torch.int64)
        patches_BSD = model.image_stack(x_BSD, positions, Mask(causal=False))[:, int(class_token) :]
        assert found_BQD.shape == (2, 5, 24)
        assert patches_BSD.shape[1] == 12
        for row in range(2):
            found = found_by(model.caption_pool, patches_BSD[row])
            torch.testing.assert_close(found_BQD[row], found, atol=1e-5, rtol=0)
            one = model.image_out(found_by(model.contrast_pool, found)[0])
            torch.testing.assert_close(image_BE[row], one / one.norm(), atol=1e-5, rtol=0)


def text_alone(model: CaptionerModel, tokens: torch.Tensor) -> torch.Tensor:
    """The vector (E,) of one text, by a plain causal decoder whose last token is the learned vector: its row is one
    more in the token table, and its position adds nothing."""
    spec, own = model.spec, model.text_token.weight
    half = spec.decoder.model_copy(update={"blocks": spec.decoder.blocks[: spec.unimodal]})
    plain_spec = gpt2(24, 2, 3, vocab_size=ROWS + 1, context_length=21)
    reader = build_decoder(plain_spec.model_copy(update={"stack": half}))
    own_weights = dict(model.decoder.named_parameters())
    with torch.no_grad():
        for name, parameter in reader.stack.named_parameters():
            source = name.replace("final_norm", "text_norm")
            value = own_weights[name] if source == name else getattr(model.text_norm, name.split(".")[1])
            parameter.copy_(value)
        reader.embedding.token.weight.copy_(torch.cat((model.embedding.token.weight, own)))
        reader.embedding.position.weight.zero_()
        if model.embedding.position is not None:
            reader.embedding.position.weight[: len(tokens)] = model.embedding.position.weight[: len(tokens)]
        row = torch.cat((tokens, torch.tensor([ROWS])))[None]
        vector = model.text_out(reader(plain_batch(row)).hidden[0, -1])
    return vector / vector.norm()


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 999),
    count=st.integers(1, 4),
    more=st.integers(0, 4),
    position=st.sampled_from(["learned", "rotary", "alibi"]),
)
def test_the_texts_vector_stands_behind_its_last_real_token(seed, count, more, position):
    """However the row is filled up, and with what. Worst of 300 batches: 4.8e-7."""
    model, rows = build_captioner(spec_of(position)), texts(seed, count)
    with torch.no_grad():
        found = model.text(filled_up(rows, more))
        torch.testing.assert_close(model.text(filled_up(rows, more, fill=33)), found, atol=0, rtol=0)
        for row, vector in zip(rows, found, strict=True):
            torch.testing.assert_close(vector, text_alone(model, row), atol=3e-6, rtol=0)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 999), count=st.integers(1, 4), position=st.sampled_from(["learned", "rotary", "alibi"]))
def test_pairs_filled_up_are_each_alone(seed, count, position):
    """Captions too, with the vectors beside them and without. Worst of 300 batches: 3.0e-6 of values to 3.7."""
    model, rows, images = build_captioner(spec_of(position)), texts(seed, count), pictures(count, seed)
    batch = ImageTextBatch(images, filled_up(rows, 2))
    with torch.no_grad():
        out = model(batch)
        bare = model.decode(batch.texts, model.encode(images)).hidden
        for place, row in enumerate(rows):
            alone = model(ImageTextBatch(images.rows(place, place + 1), plain_batch(row[None])))
            for hidden in (out.hidden, bare):
                torch.testing.assert_close(hidden[place, : len(row)], alone.hidden[0], atol=1e-5, rtol=0)
            for name in ("image", "text"):
                found = alone.intermediates[name][0]
                torch.testing.assert_close(out.intermediates[name][place], found, atol=3e-6, rtol=0)


def test_who_sees_what():
    """A token changes its own caption values and later ones; a picture changes captions and its own vector, no text's;
    whatever a mask says, texts are read causally."""
    model = build_captioner(spec_of())
    tokens, images = torch.randint(1, SIZE, (1, 8)), pictures(1)

    def run(tokens, images, causal=True):
        text = replace(plain_batch(tokens), mask=Mask(causal=causal))
        with torch.no_grad():
            out = model(ImageTextBatch(images, text))
            bare = model.decode(text, model.encode(images)).hidden
        torch.testing.assert_close(bare, out.hidden, atol=1e-5, rtol=0)
        return out.hidden[0], out.intermediates["image"], out.intermediates["text"]

    hidden, image, text = run(tokens, images)
    other = tokens.clone()
    other[0, 5] = 1 + other[0, 5] % (SIZE - 1)
    moved, same_image, moved_text = run(other, images)
    torch.testing.assert_close(moved[:5], hidden[:5], atol=1e-6, rtol=0)
    assert bool(((moved[5:] - hidden[5:]).abs().amax(dim=1) > 1e-3).all())
    assert torch.equal(same_image, image)
    assert float((moved_text - text).abs().max()) > 1e-3
    moved, moved_image, same_text = run(tokens, pictures(1, seed=1))
    assert bool(((moved - hidden).abs().amax(dim=1) > 1e-3).all())
    assert float((moved_image - image).abs().max()) > 1e-3
    assert torch.equal(same_text, text)
    assert torch.equal(run(tokens, images, causal=False)[0], hidden)


def written_uncached(model: CaptionerModel, image: ImageBatch, most: int, penalty: float) -> list[int]:
    """Greedy, the whole text anew for each token."""
    row = [END]
    with torch.no_grad():
        for _ in range(most):
            hidden = model(ImageTextBatch(image, plain_batch(torch.tensor([row])))).hidden[0, -1]
            logits = model.head(hidden)[:SIZE]
            for seen in {*row} - {END}:
                logits[seen] = logits[seen] / penalty if logits[seen] > 0 else logits[seen] * penalty
            token = int(logits.argmax())
            if token == END:
                break
            row.append(token)
    return row[1:]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("position", ["learned", "rotary", "alibi"])
def test_captions_with_a_cache_are_those_without_alone_and_in_a_batch(position, tied):
    model, images = build_captioner(spec_of(position, tied, std=0.5), seed=1), pictures(6)
    model.train()
    sampling = Sampling(temperature=0.0, max_tokens=15, repetition_penalty=3.0)
    wanted = [written_uncached(model, images.rows(row, row + 1), 15, 3.0) for row in range(6)]
    assert len(set(map(tuple, wanted))) > 3
    assert min(map(len, map(set, wanted))) > 3
    assert caption(model, VOCABULARY, images, sampling) == wanted
    assert [caption(model, VOCABULARY, images.rows(row, row + 1), sampling)[0] for row in range(6)] == wanted
    assert model.training
    stops = [3, 1, 9, 2, 5, 4]
    seen = [0] * 6

    def watch(row: int, token: int) -> bool:
        seen[row] += 1
        return seen[row] == stops[row]

    found = caption(model, VOCABULARY, images, sampling, watch)
    assert found == [row[:stop] for row, stop in zip(wanted, stops, strict=True)]


def test_captions_are_drawn_by_each_rows_stream():
    model, images = build_captioner(spec_of()), pictures(4)
    sampling = Sampling(temperature=1.0, max_tokens=12, seed=3)
    first = caption(model, VOCABULARY, images, sampling)
    assert caption(model, VOCABULARY, images.rows(0, 2), sampling) == first[:2]
    assert caption(model, VOCABULARY, images, sampling.model_copy(update={"seed": 4})) != first
    assert caption(model, VOCABULARY, images.rows(0, 0), sampling) == []


def test_what_cannot_be_written_is_refused():
    model = build_captioner(spec_of())
    with pytest.raises(SpecError, match="20 tokens do not fit a model with 20 positions; max_tokens may be 19"):
        caption(model, VOCABULARY, pictures(1), Sampling(max_tokens=20))
    with pytest.raises(SpecError, match="writes captions of pictures and continues no text"):
        generate(model, VOCABULARY, [[5]], Sampling())
    with pytest.raises(SpecError, match="writes no captions"):
        caption(build_decoder(gpt2(24, 2, 3, vocab_size=ROWS)), VOCABULARY, pictures(1), Sampling())


@pytest.mark.parametrize("contrast", [True, False])
def test_training_flops_count_every_product(contrast):
    """By torch's own counter, forward and backward; it does not know the fused kernel of CPUs, and the plain one
    computes the hidden half of a causal square too."""
    model, rows, T = build_captioner(spec_of(tied=True)), 3, 11
    tokens = torch.randint(1, SIZE, (rows, T))
    batch = ImageTextBatch(pictures(rows), plain_batch(tokens, tokens))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        if contrast:
            out = model(batch)
            hidden, ends = out.hidden, out.intermediates["image"].sum() + out.intermediates["text"].sum()
        else:
            hidden, ends = model.decode(batch.texts, model.encode(batch.images)).hidden, 0.0
        (linear_cross_entropy(hidden.flatten(0, 1), model.head, tokens.flatten())[0] + ends).backward()
    hidden_half = 0.0
    for read, blocks in ((T + contrast, 2), (T, 2)):
        hidden_half += blocks * 12 * 24 * read * (read - (read + 1) / 2)
    wanted = rows * (model.training_flops(T, contrast) + hidden_half)
    assert counter.get_total_flops() == pytest.approx(wanted, rel=1e-9)


def test_compiled_equals_eager_forward_and_backward():
    found = []
    batch = ImageTextBatch(pictures(3), filled_up(texts(2, 3)))
    for compiled in (False, True):
        model = build_captioner(spec_of(depth=1))
        out = (torch.compile(model, backend="aot_eager") if compiled else model)(batch)
        values = [out.hidden, *out.intermediates.values()]
        sum(value.square().sum() + value.sum() for value in values).backward()
        found.append([*(v.detach() for v in values), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_bfloat16_stays_within_its_bound():
    """Root-mean-square error of logits in their standard deviations, and the largest of the vectors. Worst of 20
    seeds: 0.012 and 0.026."""
    model, batch = build_captioner(spec_of()), ImageTextBatch(pictures(8), filled_up(texts(3, 8)))
    with torch.no_grad():
        full = model(batch)
        logits = model.head(full.hidden)
        low = model.to(torch.bfloat16)(batch)
        error = (model.head(low.hidden).float() - logits).square().mean().sqrt() / logits.std()
    assert low.hidden.dtype == torch.bfloat16
    assert 0 < float(error) < 0.03
    for name in ("image", "text"):
        assert low.intermediates[name].dtype == torch.float32
        assert float((low.intermediates[name] - full.intermediates[name]).abs().max()) < 0.05


def test_recomputed_gradients_are_the_same():
    found, batch = [], ImageTextBatch(pictures(2), filled_up(texts(4, 2)))
    for recompute in (False, True):
        model = build_captioner(spec_of())
        model.decoder.recompute = model.image_stack.recompute = recompute
        out = model(batch)
        (out.hidden.sum() + sum(value.sum() for value in out.intermediates.values())).backward()
        found.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(found[0]) > 40
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_record_is_its_text():
    assert from_yaml(Captioner, to_yaml(spec_of()), "model") == spec_of()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("contrast_pool.queries", 2, "one vector needs one query"),
        ("similarity.bias", 0.0, "by softmax; set bias=null"),
        ("image_stack.width", 12, "image_stack.width=12 and decoder.width=24 must agree"),
        ("decoder.blocks.0.cross", {"num_heads": 1, "head_dim": 4}, "the first need cross=null"),
        ("decoder.blocks.3.cross", None, "the first need cross=null"),
        ("image_stack.blocks.1.cross", {"num_heads": 1, "head_dim": 4}, "nothing to cross to"),
        ("embedding.width", 12, "leave embedding.width and head.transform out"),
        ("image_stack.blocks.0.mixer", {"kind": "h3"}, "'h3' sees only earlier tokens"),
        ("caption_pol", 1, "did you mean 'caption_pool'"),
    ],
)
def test_records_that_cannot_be_are_refused(path, value, message):
    tree = plain(spec_of())
    for stack in ("decoder", "image_stack"):
        tree[stack]["blocks"] = [dict(block) for block in tree[stack]["blocks"]]
    node, (*way, last) = tree, path.split(".")
    for key in way:
        node = node[int(key)] if isinstance(node, list) else node[key]
    node[last] = value
    with pytest.raises(SpecError, match=message):
        parse(Captioner, tree, "model")
