"""Records of what is learnt."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from corestone.core.spec import Spec


class NextToken(Spec):
    """Predict each token from those before it. `z_loss` times the squared log-normaliser is added."""

    kind: Literal["next_token"] = "next_token"
    z_loss: float = Field(default=0.0, ge=0)


class MaskedToken(Spec):
    """Hide some tokens and predict them from all others (Devlin et al. 2018, section 3.1).

    Attributes:
        rate: share of a row's tokens that are chosen.
        mask_share: of the chosen ones become the mask token,
        random_share: become a random token; the rest stay what they are.
        whole_words: choose all pieces of a word or none.
    """

    kind: Literal["masked_token"] = "masked_token"
    rate: float = Field(default=0.15, gt=0, lt=1)
    mask_share: float = Field(default=0.8, ge=0, le=1)
    random_share: float = Field(default=0.1, ge=0, le=1)
    whole_words: bool = False

    @model_validator(mode="after")
    def _fits(self) -> MaskedToken:
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise ValueError(f"mask_share + random_share is {self.mask_share + self.random_share:g}, more than 1")
        return self


class NextSentence(Spec):
    """Masked tokens, and whether the second of two texts follows the first (Devlin et al. 2018, section 3.1, task 2).

    Attributes:
        share: of pairs whose second text does follow.
    """

    kind: Literal["next_sentence"] = "next_sentence"
    masked: MaskedToken = MaskedToken()
    share: float = Field(default=0.5, ge=0, le=1)


class ReplacedToken(Spec):
    """A generator fills in hidden tokens; a discriminator tells for every token whether it was replaced (Clark et al.
    2020, section 2).

    Attributes:
        rate: share of a row's tokens that the generator fills in.
        weight: of the discriminator's mean loss beside the generator's.
    """

    kind: Literal["replaced_token"] = "replaced_token"
    rate: float = Field(default=0.15, gt=0, lt=1)
    weight: float = Field(default=50.0, ge=0)


class SpanCorruption(Spec):
    """Cut spans out of a text and write them (Raffel et al. 2020, section 3.1.4).

    Attributes:
        rate: share of a text's tokens that are cut.
        mean_span: tokens of a span on average.
    """

    kind: Literal["span_corruption"] = "span_corruption"
    rate: float = Field(default=0.15, gt=0, lt=1)
    mean_span: float = Field(default=3.0, ge=1)


class Denoising(Spec):
    """Drop spans of a text without a trace and write the whole (Soltan et al. 2022, section 3.1).

    Attributes:
        rate: share of a text's tokens that are dropped.
        mean_span: of the Poisson distribution that lengths are drawn from. A span of no tokens would leave no trace
            either, so those that are dropped have mean_span / (1 - exp(-mean_span)) tokens on average: 3.16 for 3.
    """

    kind: Literal["denoising"] = "denoising"
    rate: float = Field(default=0.15, gt=0, lt=1)
    mean_span: float = Field(default=3.0, ge=1)


class Continuation(Spec):
    """Read the beginning of a text and write the rest.

    Attributes:
        least, most: share of the text that is read, drawn evenly between them.
    """

    kind: Literal["continuation"] = "continuation"
    least: float = Field(default=0.2, gt=0, lt=1)
    most: float = Field(default=0.8, gt=0, lt=1)

    @model_validator(mode="after")
    def _fits(self) -> Continuation:
        if self.least > self.most:
            raise ValueError(f"least={self.least:g} exceeds most={self.most:g}")
        return self


class Prefix(Spec):
    """See the beginning of each document both ways and predict the rest token by token (Raffel et al. 2020, section
    3.2.1, prefix language model).

    Attributes:
        least, most: share of the document that is given, drawn evenly between them.
    """

    kind: Literal["prefix"] = "prefix"
    least: float = Field(default=0.0, ge=0, lt=1)
    most: float = Field(default=1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _fits(self) -> Prefix:
        if self.least > self.most:
            raise ValueError(f"least={self.least:g} exceeds most={self.most:g}")
        return self


class Share(Spec):
    """An objective of a mixture and its weight; weights need not sum to one."""

    objective: Annotated[
        NextToken | Prefix | MaskedToken | SpanCorruption | Denoising | Continuation, Field(discriminator="kind")
    ]
    weight: float = Field(default=1.0, gt=0)


class Mixture(Spec):
    """Each row of a batch is drawn for one of several objectives (Tay et al. 2023, section 3)."""

    kind: Literal["mixture"] = "mixture"
    parts: tuple[Share, ...] = Field(min_length=1)


class Classification(Spec):
    """Name what a picture shows.

    Attributes:
        loss: softmax: one class is right, or shares of several that sum to one; sigmoid: each class is a question of
            its own (Dai et al. 2021, ImageNet-21k).
        smoothing: share of each target that a uniform guess takes (Szegedy et al. 2016, section 7).
    """

    kind: Literal["classification"] = "classification"
    loss: Literal["softmax", "sigmoid"] = "softmax"
    smoothing: float = Field(default=0.0, ge=0, lt=1)


class Contrastive(Spec):
    """Tell which text goes with which picture, among all pairs of a step.

    Attributes:
        loss: softmax: find each picture's text and each text's picture among all (Radford et al. 2021); sigmoid: for
            every picture and every text, are they a pair? (Zhai et al. 2023).
    """

    kind: Literal["contrastive"] = "contrastive"
    loss: Literal["softmax", "sigmoid"] = "softmax"


class Captioning(Spec):
    """Write each picture's text, and tell which text goes with which picture (Yu et al. 2022, section 3.2).

    Attributes:
        caption_weight: of the nats of a text's tokens, summed.
        contrastive_weight: of the nats of a pair among all pairs of a step; 0: captions alone are learnt.
    """

    kind: Literal["captioning"] = "captioning"
    caption_weight: float = Field(default=2.0, gt=0)
    contrastive_weight: float = Field(default=1.0, ge=0)
