"""Records and config.json: what both can say survives the round trip, what one cannot say is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import make_decoder

from corestone.core.errors import CheckpointError, CorestoneError
from corestone.core.vocabulary import Vocabulary
from corestone.interop.families import GPT2
from corestone.interop.settings import families_of_config, family_of_spec, to_config, to_spec
from corestone.models.spec import Decoder, Encoder
from corestone.nn.spec import Attention, Block, FeedForward, Init, Norm, Stack, TokenEmbedding
from corestone.zoo.catalogue import find, zoo

DROPOUT = st.floats(0, 0.9)


def vocabulary_of(spec: Decoder | Encoder) -> Vocabulary:
    """As many tokens as the table has rows."""
    return Vocabulary(size=spec.embedding.vocab_size, separator=0)


@st.composite
def decoders(draw: st.DrawFn) -> Decoder:
    """Any Decoder that a family can express."""
    heads, head_dim, post_norm = draw(st.integers(1, 5)), draw(st.integers(1, 9)), draw(st.booleans())
    width = heads * head_dim
    norm = Norm(eps=draw(st.floats(1e-12, 0.1)))
    block = Block(
        norm=norm,
        norm_at="after" if post_norm else "in",
        mixer=Attention(num_heads=heads, head_dim=head_dim, dropout=draw(DROPOUT)),
        feedforward=FeedForward(hidden_dim=4 * width if post_norm else draw(st.integers(1, 99))),
        dropout=draw(DROPOUT),
    )
    std = draw(st.floats(1e-4, 1))
    return Decoder(
        embedding=TokenEmbedding(
            vocab_size=draw(st.integers(1, 10**6)), context_length=draw(st.integers(1, 9999)), dropout=draw(DROPOUT)
        ),
        stack=Stack(
            width=width, blocks=(block,) * draw(st.integers(1, 4)), final_norm=None if post_norm else block.norm
        ),
        init=Init(std=std, position_std=std, scale_residual=not post_norm),
    )


@settings(deadline=None)
@given(decoders())
def test_a_record_survives_config_json(spec: Decoder) -> None:
    family = family_of_spec(spec, "test")
    config = json.loads(json.dumps(to_config(family, spec, vocabulary_of(spec))))
    assert families_of_config(config, "test") == [family]
    assert to_spec(family, config, "test") == spec


KNOWN = ("gpt1", "gpt2", "gptj", "opt", "bloom", "bert", "electra", "t5")


@pytest.mark.parametrize("name", [name for name in zoo() if name.startswith(KNOWN)])
def test_every_zoo_model_of_a_known_family_can_be_said(name: str) -> None:
    spec = find(name).spec
    family = family_of_spec(spec, name)
    again = to_spec(family, to_config(family, spec, vocabulary_of(spec)), name)
    assert again == spec.model_copy(update={"init": again.init})


def test_what_the_library_assumes_is_assumed() -> None:
    """config.json of the first published checkpoints leaves dropout and sizes of inner layers out."""
    bare = {"n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 4, "vocab_size": 5}
    block = to_spec(GPT2, bare, "test").stack.blocks[0]
    assert (block.dropout, block.mixer.dropout, block.norm.eps, block.feedforward.hidden_dim) == (0.1, 0.1, 1e-5, 32)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "llama"),
        ("model_type", None),
        ("activation_function", "tanh"),
        ("activation_function", "gelu"),
        ("tie_word_embeddings", False),
        ("scale_attn_weights", False),
        ("scale_attn_by_inverse_layer_idx", True),
        ("reorder_and_upcast_attn", True),
        ("add_cross_attention", True),
        ("quantization_config", {"bits": 4}),
        ("pruned_heads", {"0": [1]}),
        ("n_head", 5),
        ("n_head", None),
        ("n_layer", 0),
        ("n_embd", 12.0),
        ("n_inner", -1),
        ("vocab_size", True),
        ("resid_pdrop", 1.5),
        ("layer_norm_epsilon", 0),
        ("layer_norm_epsilon", "small"),
    ],
)
def test_a_config_that_says_something_else_is_refused_by_name(key: str, value: Any) -> None:
    spec = make_decoder()
    config = {**to_config(GPT2, spec, vocabulary_of(spec)), key: value}
    with pytest.raises(CorestoneError) as refusal:
        to_spec(families_of_config(config, "folder/config.json")[0], config, "folder/config.json")
    message = str(refusal.value)
    named = {"resid_pdrop": "dropout", "layer_norm_epsilon": "eps"}.get(key, key)
    assert message.startswith("folder/config.json")
    assert named in message
    assert "\n" not in message


def _with(spec: Decoder, **changes: Any) -> Decoder:
    return spec.model_copy(update={"stack": spec.stack.model_copy(update=changes)})


def test_a_record_that_config_json_cannot_say_is_refused() -> None:
    spec = make_decoder()
    block = spec.stack.blocks[0]
    narrow = block.model_copy(update={"mixer": block.mixer.model_copy(update={"head_dim": 3})})
    other = block.model_copy(update={"dropout": 0.5})
    shared = block.model_copy(update={"mixer": block.mixer.model_copy(update={"shared_qk": True})})
    in_out = block.model_copy(update={"norm_at": "in_out"})
    post = make_decoder(post_norm=True)
    odd = {
        "stack.blocks.1.mixer.window": find("gpt3-125m").spec,
        "stack.blocks.1.dropout": _with(spec, blocks=(block, other, block)),
        "stack.blocks.0.mixer.head_dim": _with(spec, blocks=(narrow,) * 3),
        "stack.final_norm.eps": _with(spec, final_norm=Norm(eps=1.0)),
        "GPT2LMHeadModel comes nearest and cannot say model.stack.final_norm": _with(spec, final_norm=None),
        "OpenAIGPTLMHeadModel .* model.stack.final_norm": _with(post, final_norm=Norm(eps=1e-4)),
        "feedforward.hidden_dim": make_decoder(post_norm=True, feedforward=FeedForward(hidden_dim=47)),
        "num_kv_heads": find("palm-8b").spec,
        "no model class of Hugging Face known here can express it": find("primer-110m").spec,
        r"cannot say model\.stack\.blocks\.0\.mixer\.shared_qk": _with(spec, blocks=(shared,) * 3),
        r"cannot say model\.stack\.blocks\.0\.norm_at": _with(spec, blocks=(in_out,) * 3),
        r"run: model.stack.blocks.0.mixer: 'h3' has no counterpart": find("h3-125m").spec,
    }
    for words, refused in odd.items():
        with pytest.raises(CheckpointError, match=words):
            family_of_spec(refused, "run")
