"""One published model: its spec, its published size and where that was said."""

from __future__ import annotations

from dataclasses import dataclass

from corestone.models.spec import CoAtNet, ConvNet, Decoder, Encoder, EncoderDecoder, GeneratorDiscriminator, Recurrent


@dataclass(frozen=True)
class Entry:
    """A published model.

    Attributes:
        published: parameters as the source gives them, rounded as there.
        doubt: where the source contradicts itself, and what was chosen.
    """

    name: str
    family: str
    spec: CoAtNet | ConvNet | Decoder | Encoder | EncoderDecoder | GeneratorDiscriminator | Recurrent
    published: float
    source: str
    doubt: str = ""
