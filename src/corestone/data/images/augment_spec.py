"""Records of how pictures become what a model sees: steps on each picture, mixing of two, the scale of the values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from corestone.core.spec import Spec


class RandomResizedCrop(Spec):
    """A part of random area and shape, resized to the augmentation's size (Szegedy et al. 2015, section 6).

    Where ten draws give no part that lies inside the picture, its middle is taken.

    Attributes:
        scale: least and greatest share of the picture's area.
        ratio: least and greatest width over height, drawn evenly on a logarithmic scale.
        reduced: as the first step, decode JPEG files at 1/2, 1/4 or 1/8 of their scale where the part stays at least as
            large as the augmentation's size: quicker for large files, and other pixels.
    """

    kind: Literal["random_resized_crop"] = "random_resized_crop"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    reduced: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> RandomResizedCrop:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale={list(self.scale)} must ascend within 0 (excluded) to 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio={list(self.ratio)} must be positive and ascend")
        return self


class RandomCrop(Spec):
    """A window of the augmentation's size at a random place.

    Attributes:
        padding: black pixels put around the picture first (He et al. 2015, section 4.2: 4); CLIP's random square crop
            has none (Radford et al. 2021, section 2.3).
    """

    kind: Literal["random_crop"] = "random_crop"
    padding: int = Field(default=0, ge=0)


class HorizontalFlip(Spec):
    """Left and right change places."""

    kind: Literal["horizontal_flip"] = "horizontal_flip"
    probability: float = Field(default=0.5, ge=0, le=1)


class RandomAffine(Spec):
    """A turn about the middle and a shift by whole pixels; black comes in at the edges (An et al. 2020: 20 degrees,
    0.2).

    Attributes:
        degrees: the turn is drawn from -degrees to degrees.
        translate: the shift is drawn from -translate to translate, as a share of the width and of the height.
    """

    kind: Literal["random_affine"] = "random_affine"
    degrees: float = Field(default=0.0, ge=0, le=180)
    translate: float = Field(default=0.0, ge=0, le=1)


class RandAugment(Spec):
    """Operations drawn evenly from fourteen, one after the other, all of one strength (Cubuk et al. 2019, section 3).

    Attributes:
        layers: how many operations.
        magnitude: on the paper's scale, 10 being the strongest of AutoAugment; more goes on in the same steps as far as
            the operation can (torchvision counts 30 such steps of a third each).
    """

    kind: Literal["rand_augment"] = "rand_augment"
    layers: int = Field(default=2, ge=1)
    magnitude: float = Field(default=9.0, ge=0, le=30)


class RandomErasing(Spec):
    """A rectangle of random area and shape is filled with random values (Zhong et al. 2017).

    It has 2 to 33 % of the picture's area, and a height over width of 0.3 to 3.3, as torchvision has it.
    """

    kind: Literal["random_erasing"] = "random_erasing"
    probability: float = Field(default=0.25, ge=0, le=1)


class ColorJitter(Spec):
    """Brightness, contrast and saturation times a random factor each, in random order (InternImage's recipe: 0.4).

    Attributes:
        strength: factors are drawn from 1 - strength (at least 0) to 1 + strength.
    """

    kind: Literal["color_jitter"] = "color_jitter"
    strength: float = Field(default=0.4, ge=0)


class Resize(Spec):
    """The whole picture, larger or smaller; what becomes smaller is smoothed first.

    Attributes:
        shorter: length of the shorter side, the shape being kept; None: the augmentation's size, whatever the shape
            (Dosovitskiy et al. 2020, code).
        interpolation: between pixels; bicubic in most published folders of ViT and CLIP (timm, open_clip, code).
    """

    kind: Literal["resize"] = "resize"
    shorter: int | None = Field(default=None, ge=1)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"


class CenterCrop(Spec):
    """The middle of the picture, of the augmentation's size."""

    kind: Literal["center_crop"] = "center_crop"


FixedStep = Annotated[Resize | CenterCrop, Field(discriminator="kind")]
"""What is done to a picture without chance."""

Step = Annotated[
    RandomResizedCrop
    | RandomCrop
    | HorizontalFlip
    | RandomAffine
    | RandAugment
    | RandomErasing
    | ColorJitter
    | Resize
    | CenterCrop,
    Field(discriminator="kind"),
]
"""What is done to one picture."""


class Mixup(Spec):
    """Two pictures, and their classes, in shares of one random number (Zhang et al. 2018, section 2).

    Attributes:
        alpha: the share is drawn from Beta(alpha, alpha).
    """

    kind: Literal["mixup"] = "mixup"
    alpha: float = Field(default=0.8, gt=0, le=1)


class CutMix(Spec):
    """A rectangle of another picture; classes in shares of the areas (Yun et al. 2019, section 3.1).

    Attributes:
        alpha: the first picture's share of the area is drawn from Beta(alpha, alpha); a rectangle that reaches over
            the edge is cut off there, which leaves it more.
    """

    kind: Literal["cutmix"] = "cutmix"
    alpha: float = Field(default=1.0, gt=0, le=1)


Mix = Annotated[Mixup | CutMix, Field(discriminator="kind")]


class Augmentation(Spec):
    """How a set's pictures become batches.

    Attributes:
        size: height and width of what the model sees; steps that cut or resize go by it.
        channels: 1 grey or 3 red, green and blue; pictures of the other kind are converted.
        steps: of training, in order, on values 0 to 255.
        evaluation: of evaluation, in order.
        mix: what is done with two pictures of a training batch; of several, one is drawn evenly for each picture.
        mean, std: per channel, on values 0 to 1, taken off and divided by.
    """

    size: tuple[int, int]
    channels: Literal[1, 3] = 3
    steps: tuple[Step, ...] = ()
    evaluation: tuple[FixedStep, ...] = ()
    mix: tuple[Mix, ...] = ()
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @model_validator(mode="after")
    def _fits(self) -> Augmentation:
        if min(self.size) < 1:
            raise ValueError(f"size={list(self.size)} must be a height and a width of at least 1")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise ValueError(f"{name}={list(values)} must have one value per channel ({self.channels})")
        if min(self.std) <= 0:
            raise ValueError(f"std={list(self.std)} must be positive")
        return self
