"""GPT-1, GPT-2 and GPT-3 as specs (Radford et al. 2018; Radford et al. 2019; Brown et al. 2020, table 2.1)."""

from __future__ import annotations

from corestone.models.spec import Decoder
from corestone.nn.spec import Attention, Block, FeedForward, Init, Stack, TokenEmbedding
from corestone.zoo.entry import Entry

GPT3_BAND = 256
"""Width of GPT-3's banded layers: an assumption, since the paper gives none. It changes no parameter count."""


def gpt2(width: int, depth: int, num_heads: int, vocab_size: int = 50257, context_length: int = 1024) -> Decoder:
    """Pre-norm decoder with learned positions, tied head and depth-scaled initialisation (2019, section 2.3)."""
    mixer = Attention(num_heads=num_heads, head_dim=width // num_heads)
    block = Block(mixer=mixer, feedforward=FeedForward(hidden_dim=4 * width))
    return Decoder(
        embedding=TokenEmbedding(vocab_size=vocab_size, context_length=context_length),
        stack=Stack(width=width, blocks=(block,) * depth),
        init=Init(position_std=0.01, scale_residual=True),
    )


def gpt1() -> Decoder:
    """Post-norm, no final norm, 40,478 tokens of context 512, dropout 0.1 throughout (2018, section 4.1)."""
    mixer = Attention(num_heads=12, head_dim=64, dropout=0.1)
    block = Block(norm_at="after", mixer=mixer, feedforward=FeedForward(hidden_dim=3072), dropout=0.1)
    return Decoder(
        embedding=TokenEmbedding(vocab_size=40478, context_length=512, dropout=0.1),
        stack=Stack(width=768, blocks=(block,) * 12, final_norm=None),
    )


def gpt3(width: int, depth: int, num_heads: int, band: int = GPT3_BAND) -> Decoder:
    """GPT-2 with every second layer attending within a band, the first one densely (2020, section 2.1)."""
    dense = gpt2(width, depth, num_heads, context_length=2048)
    block = dense.stack.blocks[0]
    banded = block.model_copy(update={"mixer": block.mixer.model_copy(update={"window": band})})
    blocks = tuple(banded if layer % 2 else block for layer in range(depth))
    return dense.model_copy(update={"stack": dense.stack.model_copy(update={"blocks": blocks})})


def _entry(name: str, spec: Decoder, published: float, source: str, doubt: str = "") -> Entry:
    return Entry(name=name, family=name.split("-")[0], spec=spec, published=published, source=source, doubt=doubt)


_TWO = "Radford et al. 2019; sizes of the released checkpoints"
_THREE = "Brown et al. 2020, tables 2.1 and D.1"


def entries() -> list[Entry]:
    """Every published size."""
    return [
        _entry("gpt1-117m", gpt1(), 117e6, "Radford et al. 2018, section 4.1"),
        _entry("gpt2-124m", gpt2(768, 12, 12), 124e6, _TWO),
        _entry("gpt2-355m", gpt2(1024, 24, 16), 355e6, _TWO),
        _entry("gpt2-774m", gpt2(1280, 36, 20), 774e6, _TWO),
        _entry("gpt2-1.6b", gpt2(1600, 48, 25), 1558e6, _TWO),
        _entry("gpt3-125m", gpt3(768, 12, 12), 125e6, _THREE),
        _entry("gpt3-350m", gpt3(1024, 24, 16), 356e6, _THREE),
        _entry("gpt3-760m", gpt3(1536, 24, 16), 760e6, _THREE),
        _entry("gpt3-1.3b", gpt3(2048, 24, 16), 1320e6, _THREE, "printed 24 heads of 128; 16 of 128 give width 2048"),
        _entry("gpt3-2.7b", gpt3(2560, 32, 32), 2650e6, _THREE),
        _entry("gpt3-6.7b", gpt3(4096, 32, 32), 6660e6, _THREE),
        _entry("gpt3-13b", gpt3(5120, 40, 40), 12850e6, _THREE, "printed width 5140; 40 heads of 128 give 5120"),
        _entry("gpt3-175b", gpt3(12288, 96, 96), 174600e6, _THREE),
    ]
