"""The record of a run: the only place where model, objective, data, optimiser and scale meet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from corestone.core.spec import Spec
from corestone.data.images.spec import Images, Pairs
from corestone.data.spec import Data
from corestone.generate.spec import Sampling
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
from corestone.optim.spec import Optimiser, Schedule
from corestone.recipes.registry import MODELS, OBJECTIVES
from corestone.train.spec import Rhythm, Training


class Samples(Spec):
    """What the model is asked to continue while it trains."""

    prompts: tuple[str, ...] = ("",)
    sampling: Sampling = Sampling(temperature=0.8, top_p=0.95, max_tokens=100)


def _text_unless_named(data: Any) -> Any:
    return {"kind": "text", **data} if isinstance(data, Mapping) else data


DataAxis = Annotated[Data | Images | Pairs, Field(discriminator="kind"), BeforeValidator(_text_unless_named)]
"""What a run learns from; text where a recipe names no kind."""


class Evaluation(Spec):
    """How held-out data is scored.

    Attributes:
        batch_size: rows at a time; it changes the speed alone.
        tokens_while_training: while training, only the first held-out documents with at most so many tokens together
            are scored (at least one document); the end scores all of them.
        pictures_while_training: as many pictures of the validation side, from the first.
    """

    batch_size: int = Field(default=16, ge=1)
    tokens_while_training: int = Field(default=65_536, ge=1)
    pictures_while_training: int = Field(default=10_000, ge=1)


class Start(Spec):
    """Weights that a run begins with in place of chance (fine-tuning, or more training).

    Every tensor is taken by its name and shape. A head that differs, or that names other classes, begins by chance, and
    learned positions are interpolated where pictures have another size: a ViT's between patches (Dosovitskiy et al.
    2021, section 3.2), a CoAtNet's between offsets; anything else that is missing, left over or of another shape is an
    error. A two-tower model may begin with a ViT, a CoAtNet or a convolutional network: that becomes its image tower,
    and the rest begins by chance. A model of pictures alone may begin with the picture tower of one that reads texts
    too; behind a captioner's encoder its pool begins by chance. A captioner with a stem may begin with a convolutional
    network, or with a two-tower model that has one: that becomes its stem, and the rest begins by chance.

    Attributes:
        path: a run folder (its newest whole checkpoint) or a checkpoint folder; of averaged weights, the averages.
        zero_head: the head is not taken even where it fits, and its logits begin at zero (same section).
    """

    path: str
    zero_head: bool = False


class Run(Spec):
    """A run = architecture x objective x data x optimiser x scale."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")
    description: str = ""
    seed: int = 0
    model: Annotated[Spec, MODELS]
    start: Start | None = None
    objective: Annotated[Spec, OBJECTIVES]
    data: DataAxis
    optimiser: Optimiser
    schedule: Schedule
    training: Training
    rhythm: Rhythm = Rhythm()
    evaluation: Evaluation = Evaluation()
    samples: Samples = Samples()
    trackers: tuple[Literal["mlflow", "wandb"], ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> Run:
        objective = self.objective
        text = isinstance(self.data, Data)
        if text != (self.training.batch_tokens is not None):
            given, wanted = ("batch_examples", "batch_tokens") if text else ("batch_tokens", "batch_examples")
            raise ValueError(f"a run on {self.data.kind} counts in training.{wanted}; give it in place of {given}")
        kind = LEARNS_FROM.get(type(objective), Data if type(objective) in TRAINS else type(self.data))
        if not isinstance(self.data, kind):
            raise ValueError(f"objective {_kind(objective)} learns from data of kind {_kind(kind)}")
        for part in [share.objective for share in objective.parts] if isinstance(objective, Mixture) else [objective]:
            shapes, shape = TRAINS.get(type(part)), type(self.model)
            fitting = [known for known, trained in TRAINS.items() if shape in trained]
            if shapes is not None and fitting and shape not in shapes:
                raise ValueError(
                    f"objective {_kind(part)} trains a model of kind {' or '.join(map(_kind, shapes))}, and this one "
                    f"is of kind {_kind(shape)}; choose another model, or the objective "
                    f"{' or '.join(map(_kind, fitting))}"
                )
        if (
            isinstance(self.model, Encoder)
            and isinstance(objective, MaskedToken | NextSentence)
            and not self.model.head
        ):
            raise ValueError(f"objective {_kind(objective)} needs model.head")
        own_head = isinstance(self.model, ImageEncoder) and self.model.head is not None
        if self.start is not None and self.start.zero_head and not own_head:
            raise ValueError("start.zero_head needs a model of kind image_encoder that has a head")
        pooler = self.model.pooler if isinstance(self.model, Encoder) else None
        if isinstance(objective, NextSentence) and (pooler is None or pooler.classes != 2):
            raise ValueError("objective next_sentence needs model.pooler with classes=2")
        return self


LEARNS_FROM: dict[type[Spec], type[Spec]] = {Captioning: Pairs, Classification: Images, Contrastive: Pairs}
"""What objectives of the house learn from, where that is not text."""

TRAINS: dict[type[Spec], tuple[type[Spec], ...]] = {
    NextToken: (Decoder, Recurrent),
    Prefix: (Decoder,),
    MaskedToken: (Encoder,),
    NextSentence: (Encoder,),
    ReplacedToken: (GeneratorDiscriminator,),
    SpanCorruption: (EncoderDecoder,),
    Denoising: (EncoderDecoder,),
    Continuation: (EncoderDecoder,),
    Classification: (CoAtNet, ConvNet, ImageEncoder),
    Captioning: (Captioner,),
    Contrastive: (Captioner, TwoTower),
}
"""The shapes of computation that each objective of the house trains."""


def _kind(record: Spec | type[Spec]) -> str:
    return str((record if isinstance(record, type) else type(record)).model_fields["kind"].default)


class ModelFile(Spec):
    """A model of any kind by itself, as a checkpoint's `model.yaml` holds it."""

    model: Annotated[Spec, MODELS]


for _record in (Run, ModelFile):
    MODELS.used_by(_record)
OBJECTIVES.used_by(Run)
