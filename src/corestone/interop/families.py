"""Every model class of Hugging Face known here."""

from __future__ import annotations

from corestone.interop.decoders import DECODERS, GPT2, OPENAI_GPT
from corestone.interop.encoder_decoders import ENCODER_DECODERS
from corestone.interop.encoders import ENCODERS
from corestone.interop.family import Family

FAMILIES = (*DECODERS, *ENCODERS, *ENCODER_DECODERS)

__all__ = ["FAMILIES", "GPT2", "OPENAI_GPT", "Family"]
