"""The kinds of models and objectives that a recipe may name, and who builds them.

A kind is a record with a `kind` field and a builder. Builders of the house are named by import path, so that reading a
recipe loads no torch. A recipe file outside the package adds its own with `MODELS.add(MyRecord, build_my_model)`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from corestone.core.errors import SpecError
from corestone.core.spec import Spec
from corestone.models.picture_spec import Captioner, CoAtNet, ConvNet, ImageEncoder, TwoTower
from corestone.models.spec import Decoder, Encoder, EncoderDecoder, GeneratorDiscriminator, Recurrent
from corestone.objectives.spec import (
    Captioning,
    Classification,
    Continuation,
    Contrastive,
    Denoising,
    MaskedToken,
    Mixture,
    NextSentence,
    NextToken,
    Prefix,
    ReplacedToken,
    SpanCorruption,
)


class Registry:
    """Records by their `kind`. As an annotation, `Annotated[Spec, registry]`, it admits any of them."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._kinds: dict[str, tuple[type[Spec], str | Callable[..., Any]]] = {}
        self._users: list[type[Spec]] = []
        self._shipped: frozenset[type[Spec]] = frozenset()

    def add(self, record: type[Spec], builder: str | Callable[..., Any]) -> None:
        """Admit a record; `builder(record, ...)` makes what it describes, or is the `module:function` that does."""
        kind = record.model_fields["kind"].default if "kind" in record.model_fields else None
        if not isinstance(kind, str):
            raise SpecError(f"{record.__name__}: a {self.what} record needs a field `kind: Literal['...'] = '...'`")
        self._kinds[kind] = (record, builder)
        for user in self._users:
            user.model_rebuild(force=True)

    def used_by(self, record: type[Spec]) -> None:
        """Remember a record that has this registry as an annotation, to widen it when kinds are added."""
        self._users.append(record)

    def ship(self) -> None:
        """All that was admitted so far comes with Corestone."""
        self._shipped = frozenset(record for record, _ in self._kinds.values())

    def require_shipped(self, spec: Spec, asked: str, cure: str) -> None:
        """Refuse a record that a recipe file added: whoever reads the recipe as YAML does not know its kind.

        Args:
            asked: what the user asked for, and `cure` what to do in its place; both stand in the SpecError.
        """
        if type(spec) not in self._shipped:
            raise SpecError(
                f"{asked}: {self.what} kind '{spec.model_dump()['kind']}' was added by your recipe file, which the "
                f"processes that this starts do not read; {cure}"
            )

    def build(self, spec: Spec, *arguments: Any, **keywords: Any) -> Any:
        """Build what a record describes."""
        builder = self._kinds[str(spec.model_dump()["kind"])][1]
        function = pkgutil.resolve_name(builder) if isinstance(builder, str) else builder
        return function(spec, *arguments, **keywords)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        choices = {kind: handler.generate_schema(record) for kind, (record, _) in self._kinds.items()}
        return core_schema.tagged_union_schema(
            choices, discriminator="kind", serialization=core_schema.wrap_serializer_function_ser_schema(_as_itself)
        )


def _as_itself(value: Spec, handler: Any) -> Any:
    return value.model_dump(mode="json")


MODELS = Registry("model")
MODELS.add(Decoder, "corestone.models.decoder:build_decoder")
MODELS.add(Encoder, "corestone.models.encoder:build_encoder")
MODELS.add(EncoderDecoder, "corestone.models.encoder_decoder:build_encoder_decoder")
MODELS.add(GeneratorDiscriminator, "corestone.models.encoder:build_generator_discriminator")
MODELS.add(Recurrent, "corestone.models.recurrent:build_recurrent")
MODELS.add(ImageEncoder, "corestone.models.image_encoder:build_image_encoder")
MODELS.add(CoAtNet, "corestone.models.coatnet:build_coatnet")
MODELS.add(ConvNet, "corestone.models.convnet:build_convnet")
MODELS.add(Captioner, "corestone.models.captioner:build_captioner")
MODELS.add(TwoTower, "corestone.models.two_tower:build_two_tower")

OBJECTIVES = Registry("objective")
OBJECTIVES.add(NextToken, "corestone.objectives.next_token:NextTokenObjective")
OBJECTIVES.add(MaskedToken, "corestone.objectives.masked_token:MaskedTokenObjective")
OBJECTIVES.add(NextSentence, "corestone.objectives.next_sentence:NextSentenceObjective")
OBJECTIVES.add(ReplacedToken, "corestone.objectives.replaced_token:ReplacedTokenObjective")
OBJECTIVES.add(Classification, "corestone.objectives.classification:ClassificationObjective")
OBJECTIVES.add(Contrastive, "corestone.objectives.contrastive:ContrastiveObjective")
OBJECTIVES.add(Captioning, "corestone.objectives.captioning:CaptioningObjective")
OBJECTIVES.add(Mixture, "corestone.objectives.mixture:build_mixture")
OBJECTIVES.add(Prefix, "corestone.objectives.prefix:PrefixObjective")
OBJECTIVES.add(SpanCorruption, "corestone.objectives.seq2seq:SpanCorruptionObjective")
OBJECTIVES.add(Denoising, "corestone.objectives.seq2seq:DenoisingObjective")
OBJECTIVES.add(Continuation, "corestone.objectives.seq2seq:ContinuationObjective")

for _registry in (MODELS, OBJECTIVES):
    _registry.ship()
