"""Records of how text is scored by models that go on learning while they read it, and of tasks on pictures."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from corestone.core.spec import Spec


class SGD(Spec):
    """After each segment, a step down its mean loss and a step back towards the trained weights:
    `theta += -eta g + lam (theta_0 - theta)` (Krause et al. 2017).

    Attributes:
        eta: learning rate; there is no published default, and this one helped two small models (docs/LOG.md).
        lam: share of the way back to the trained weights.
        segment: tokens that are scored before each step. Every one costs a pass, forward and backward, over the
            window up to its end, so half the segment is about twice the time.
    """

    kind: Literal["sgd"] = "sgd"
    eta: float = Field(default=0.03, ge=0)
    lam: float = Field(default=0.002, ge=0, le=1)
    segment: int = Field(default=64, ge=1)


class RMS(Spec):
    """Both steps scaled weight by weight: `theta += -eta g / (rms + eps) + lam rms_norm (theta_0 - theta)`.

    `rms` is the root of the mean squared gradient, collected once over the training text; `rms_norm` is `rms` over its
    mean over all weights, and `lam rms_norm` is at most 1 (Krause et al. 2017; the mean is taken over
    all weights as in the equations, their code takes the mean of each tensor's mean).

    A weight whose gradients were near 0 in training takes long steps. Text full of symbols that training never saw can
    throw the model off for good; a lower `eta` or `SGD` is the cure.

    Attributes:
        eta: to be tuned on validation text. Published are 5e-5 for LSTMs and segments of 5 words of the Penn Treebank,
            times as much as the segment is longer; that or even 5e-5 diverged on small models here (docs/LOG.md).
        lam, eps: as published there.
        statistics_segments: segments whose mean loss gives one of the squared gradients.
        statistics_tokens: the most training tokens that are read for them, evenly spread; None: all.
    """

    kind: Literal["rms"] = "rms"
    eta: float = Field(default=2e-5, ge=0)
    lam: float = Field(default=0.002, ge=0)
    eps: float = Field(default=2e-5, gt=0)
    segment: int = Field(default=64, ge=1)
    statistics_segments: int = Field(default=100, ge=1)
    statistics_tokens: int | None = Field(default=2_000_000, ge=1)


class ZeroShot(Spec):
    """Classes found by what they are called: a picture's class is the one whose sentences are nearest to it (Radford et
    al. 2021, section 3.1).

    Attributes:
        class_names: JSON file of names as CLIP_benchmark has them; where they are the data's own in another order, that
            is mended, else they are in the order of the data's classes. None: the data's own.
        templates: JSON file of sentences with `{c}` where the class stands, as CLIP_benchmark has them; None: the one
            of section 3.1.4.
        dataset: which data set of these files; None: the only one.
    """

    kind: Literal["zero_shot"] = "zero_shot"
    class_names: str | None = None
    templates: str | None = None
    dataset: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> ZeroShot:
        if self.dataset is not None and self.class_names is None and self.templates is None:
            raise ValueError("dataset names one of those in a file; give class_names=FILE or templates=FILE too")
        return self


class Neighbours(Spec):
    """Classes by the votes of the nearest training pictures (Wu et al. 2018, section 3.4, whose numbers these are).

    Attributes:
        nearest: how many of them vote.
        temperature: a vote weighs exp(cosine / temperature).
    """

    kind: Literal["knn"] = "knn"
    nearest: int = Field(default=200, ge=1)
    temperature: float = Field(default=0.07, gt=0)


class LinearProbe(Spec):
    """Classes by logistic regression on a picture's vector (Radford et al. 2021, appendix A.3).

    Attributes:
        penalty: of the summed squared weights, halved; None: the best of some on a fifth of the training pictures.
    """

    kind: Literal["linear_probe"] = "linear_probe"
    penalty: float | None = Field(default=None, gt=0)


class Retrieval(Spec):
    """A picture's caption among all captions, and a caption's picture among all pictures."""

    kind: Literal["retrieval"] = "retrieval"


class Captions(Spec):
    """The likeliest caption of each picture, word by word beside its own."""

    kind: Literal["captions"] = "captions"


PictureTask = ZeroShot | Neighbours | LinearProbe | Retrieval | Captions

PICTURE_TASKS: dict[str, type[PictureTask]] = {
    "zero_shot": ZeroShot,
    "knn": Neighbours,
    "linear_probe": LinearProbe,
    "retrieval": Retrieval,
    "captions": Captions,
}
"""Tasks of models that see pictures, by name."""
