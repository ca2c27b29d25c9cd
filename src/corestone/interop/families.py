"""Every model class of Hugging Face known here."""

from __future__ import annotations

from corestone.interop.decoders import DECODERS, GPT2, OPENAI_GPT
from corestone.interop.encoders import ENCODERS
from corestone.interop.family import Family

FAMILIES = (*DECODERS, *ENCODERS)

__all__ = ["FAMILIES", "GPT2", "OPENAI_GPT", "Family"]
