"""Steps on one picture. What chance decides is drawn from the picture's own numbers, so no state is touched.

A picture is a uint8 tensor (C, H, W). The arithmetic is torchvision's, but for what the number of threads would change.

Shape letters: C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from corestone.core.batch import Colours
from corestone.core.errors import DataError
from corestone.core.rng import Draws
from corestone.data.images.augment_spec import (
    Augmentation,
    CenterCrop,
    ColorJitter,
    FixedStep,
    HorizontalFlip,
    RandAugment,
    RandomAffine,
    RandomCrop,
    RandomErasing,
    RandomResizedCrop,
    Resize,
    Step,
)
from corestone.data.images.picture import Box, Choose, Pixels, Size, cut, whole

_TRIES = 10  # of a random area and shape, until the rectangle lies inside the picture
_ERASED_AREA, _ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)
_GREY = 128  # what comes in at the edges in RandAugment's own code


@cache
def v2() -> ModuleType:
    """torchvision's transforms, imported with the first picture: they load torch's compiler, 0.17 GB and two seconds,
    which a run without pictures has no use for (docs/LOG.md)."""
    import torchvision.transforms.v2

    transforms: ModuleType = torchvision.transforms.v2
    return transforms


def training_picture(spec: Augmentation, pixels: Pixels, draws: Draws) -> Tensor:
    """Apply the steps of training to pixels (H, W, C); `draws` are those of one row.

    Raises DataError for a picture that the steps cannot bring to the augmentation's size and channels.
    """
    choose, _ = first_part(spec, draws)
    return training_part(spec, cut(pixels, choose(pixels.shape[:2])), draws)


def first_part(spec: Augmentation, draws: Draws) -> tuple[Choose, Size | None]:
    """What of a picture the first step of training looks at, and how large that must stay if it is read at a smaller
    scale (None: it must not be)."""
    first = spec.steps[0] if spec.steps else None
    if not isinstance(first, RandomResizedCrop):
        return whole, None
    numbers = _numbers(draws, 2 * _TRIES + 2)
    return partial(resized_crop_box, first, numbers=numbers), spec.size if first.reduced else None


def training_part(spec: Augmentation, pixels: Pixels, draws: Draws) -> Tensor:
    """Apply the steps of training to what `first_part` names, with the draws that it was given.

    Raises DataError as `training_picture` does.
    """
    picture, steps = _picture(pixels, spec.channels), spec.steps
    if steps and isinstance(steps[0], RandomResizedCrop):
        picture, steps = v2().functional.resize(picture, list(spec.size)), steps[1:]
    for step in steps:
        picture = apply(step, picture, spec.size, draws)
    return _of_size(picture, spec, "steps")


def evaluation_picture(spec: Augmentation, pixels: Pixels) -> Tensor:
    """Apply the steps of evaluation to pixels (H, W, C). Raises DataError as `training_picture` does."""
    picture = _picture(pixels, spec.channels)
    for step in spec.evaluation:
        picture = _apply_fixed(step, picture, spec.size)
    return _of_size(picture, spec, "evaluation")


def colours(spec: Augmentation) -> Colours:
    """What normalises the pictures."""
    return Colours(spec.mean, spec.std)


def normalise(spec: Augmentation, picture: Tensor) -> Tensor:
    """Values 0 to 255 as float32 with the mean taken off and divided by the deviation."""
    return colours(spec).normalise(picture)


def denormalise(spec: Augmentation, values: Tensor) -> Tensor:
    """The uint8 values that `normalise` made these of, rounded; shape (..., C, H, W)."""
    mean, std = colours(spec).on(values.device)
    return ((values * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def apply(step: Step, picture: Tensor, size: Size, draws: Draws) -> Tensor:
    """Apply one step; `size` is the augmentation's."""
    match step:
        case RandomResizedCrop():
            top, left, height, width = resized_crop_box(step, _size(picture), _numbers(draws, 2 * _TRIES + 2))
            picture = v2().functional.resized_crop(picture, top, left, height, width, list(size))
        case RandomCrop():
            picture = _random_crop(step, picture, size, draws)
        case HorizontalFlip():
            if _numbers(draws, 1)[0] < step.probability:
                picture = v2().functional.horizontal_flip(picture)
        case RandomAffine():
            picture = _random_affine(step, picture, draws)
        case RandAugment():
            for _ in range(step.layers):
                number, sign = _numbers(draws, 2)
                operate = OPERATIONS[int(number * len(OPERATIONS))]
                picture = operate(picture, step.magnitude / 10, -1 if sign < 0.5 else 1)
        case RandomErasing():
            picture = _random_erasing(step, picture, draws)
        case ColorJitter():
            picture = _color_jitter(step, picture, draws)
        case Resize() | CenterCrop():
            picture = _apply_fixed(step, picture, size)
    return picture


def resized_crop_box(spec: RandomResizedCrop, size: Size, numbers: list[float]) -> Box:
    """Where a random resized crop is taken; the last two of the numbers are for the place."""
    height, width = size
    low, high = (math.log(ratio) for ratio in spec.ratio)
    for area, shape in zip(numbers[: 2 * _TRIES : 2], numbers[1 : 2 * _TRIES : 2], strict=True):
        pixels = height * width * _between(*spec.scale, area)
        ratio = math.exp(_between(low, high, shape))
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            return _whole(height - h, numbers[-2]), _whole(width - w, numbers[-1]), h, w
    w = min(width, max(1, round(height * spec.ratio[1])))
    h = min(height, max(1, round(width / spec.ratio[0])))
    return (height - h) // 2, (width - w) // 2, h, w


def _apply_fixed(step: FixedStep, picture: Tensor, size: Size) -> Tensor:
    match step:
        case Resize():
            sides = list(size) if step.shorter is None else [step.shorter]
            picture = v2().functional.resize(picture, sides, v2().InterpolationMode(step.interpolation), antialias=True)
        case CenterCrop():
            picture = v2().functional.center_crop(_at_least(picture, size, "center_crop"), list(size))
    return picture


def _random_crop(spec: RandomCrop, picture: Tensor, size: Size, draws: Draws) -> Tensor:
    if spec.padding:
        picture = v2().functional.pad(picture, [spec.padding])
    height, width = _size(_at_least(picture, size, "random_crop"))
    top, left = _numbers(draws, 2)
    picture = v2().functional.crop(picture, _whole(height - size[0], top), _whole(width - size[1], left), *size)
    return picture


def _random_affine(spec: RandomAffine, picture: Tensor, draws: Draws) -> Tensor:
    turn, right, down = (2 * number - 1 for number in _numbers(draws, 3))
    height, width = _size(picture)
    shift = [round(right * spec.translate * width), round(down * spec.translate * height)]
    picture = v2().functional.affine(picture, angle=turn * spec.degrees, translate=shift, scale=1.0, shear=[0.0, 0.0])
    return picture


def _random_erasing(spec: RandomErasing, picture: Tensor, draws: Draws) -> Tensor:
    chance, down, right, *numbers = _numbers(draws, 3 + 2 * _TRIES)
    if chance >= spec.probability:
        return picture
    height, width = _size(picture)
    low, high = (math.log(ratio) for ratio in _ERASED_RATIO)
    for area, shape in zip(numbers[::2], numbers[1::2], strict=True):
        pixels = height * width * _between(*_ERASED_AREA, area)
        ratio = math.exp(_between(low, high, shape))
        h, w = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < h < height and 0 < w < width:
            values = (draws.uniform(picture.shape[0], h, w)[0] * 256).to(torch.uint8)
            picture = v2().functional.erase(picture, _whole(height - h, down), _whole(width - w, right), h, w, values)
            break
    return picture


def _color_jitter(spec: ColorJitter, picture: Tensor, draws: Draws) -> Tensor:
    changes = (v2().functional.adjust_brightness, adjust_contrast, v2().functional.adjust_saturation)
    numbers = _numbers(draws, 6)
    factors = [_between(max(0.0, 1 - spec.strength), 1 + spec.strength, number) for number in numbers[:3]]
    for place in np.argsort(numbers[3:]).tolist():
        picture = changes[place](picture, factors[place])
    return picture


def adjust_contrast(picture: Tensor, factor: float) -> Tensor:
    """torchvision's, with a mean of whole numbers, which the number of threads cannot change in the last place."""
    grey = v2().functional.rgb_to_grayscale(picture)
    mean = torch.tensor(int(grey.sum()) / grey.numel())
    return picture.mul(factor).add_(mean, alpha=1 - factor).clamp_(0, 255).to(torch.uint8)


def _sheared(picture: Tensor, right: float, down: float) -> Tensor:
    degrees = [math.degrees(math.atan(right)), math.degrees(math.atan(down))]
    fill = [_GREY] * picture.shape[0]
    picture = v2().functional.affine(
        picture, angle=0.0, translate=[0, 0], scale=1.0, shear=degrees, fill=fill, center=[0, 0]
    )
    return picture


def _shifted(picture: Tensor, right: float, down: float) -> Tensor:
    fill = [_GREY] * picture.shape[0]
    shift = [int(right), int(down)]
    picture = v2().functional.affine(picture, angle=0.0, translate=shift, scale=1.0, shear=[0.0, 0.0], fill=fill)
    return picture


def _enhanced(change: Callable[[Tensor, float], Tensor], picture: Tensor, amount: float) -> Tensor:
    return change(picture, max(0.0, 1 + 0.9 * amount))


_SHIFT = 150 / 331  # of the width or height: AutoAugment's 150 of 331 pixels

OPERATIONS: tuple[Callable[[Tensor, float, int], Tensor], ...] = (
    lambda picture, strength, sign: picture,
    lambda picture, strength, sign: _sheared(picture, 0.3 * strength * sign, 0.0),
    lambda picture, strength, sign: _sheared(picture, 0.0, 0.3 * strength * sign),
    lambda picture, strength, sign: _shifted(picture, _SHIFT * strength * picture.shape[-1] * sign, 0.0),
    lambda picture, strength, sign: _shifted(picture, 0.0, _SHIFT * strength * picture.shape[-2] * sign),
    lambda picture, strength, sign: v2().functional.rotate(
        picture, 30 * strength * sign, fill=[_GREY] * picture.shape[0]
    ),
    lambda picture, strength, sign: _enhanced(v2().functional.adjust_brightness, picture, strength * sign),
    lambda picture, strength, sign: _enhanced(v2().functional.adjust_saturation, picture, strength * sign),
    lambda picture, strength, sign: _enhanced(adjust_contrast, picture, strength * sign),
    lambda picture, strength, sign: _enhanced(v2().functional.adjust_sharpness, picture, strength * sign),
    lambda picture, strength, sign: v2().functional.posterize(picture, max(1, round(8 - 4 * strength))),
    lambda picture, strength, sign: v2().functional.solarize(picture, max(0.0, 255 * (1 - strength))),
    lambda picture, strength, sign: v2().functional.autocontrast(picture),
    lambda picture, strength, sign: v2().functional.equalize(picture),
)
"""RandAugment's operations, in torchvision's order; strength 1 is AutoAugment's strongest, sign says which way."""


def _picture(pixels: Pixels, channels: int) -> Tensor:
    """Pixels as a picture of so many channels."""
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise DataError(
            f"pixels of shape {pixels.shape} are no picture (height, width, 1 or 3 channels); prepare it so"
        )
    picture = torch.from_numpy(np.require(pixels, requirements="W")).permute(2, 0, 1)
    if picture.shape[0] != channels:
        picture = v2().functional.rgb_to_grayscale(picture) if channels == 1 else picture.expand(3, -1, -1)
    return picture


def _of_size(picture: Tensor, spec: Augmentation, steps: str) -> Tensor:
    if _size(picture) != spec.size:
        raise DataError(
            f"{_shown(_size(picture))} pixels (height x width) after augmentation.{steps}, where "
            f"augmentation.size={_shown(spec.size)}; add a crop or resize to augmentation.{steps}"
        )
    return picture


def _at_least(picture: Tensor, size: Size, step: str) -> Tensor:
    height, width = _size(picture)
    if height < size[0] or width < size[1]:
        raise DataError(
            f"{step} cannot cut {_shown(size)} pixels (height x width) out of {_shown((height, width))}; put a resize "
            "before it"
        )
    return picture


def _shown(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _size(picture: Tensor) -> Size:
    return picture.shape[-2], picture.shape[-1]


def _numbers(draws: Draws, count: int) -> list[float]:
    """Numbers in [0, 1) for the one row of these draws."""
    numbers: list[float] = draws.uniform(count)[0].tolist()
    return numbers


def _between(low: float, high: float, number: float) -> float:
    return low + (high - low) * number


def _whole(highest: int, number: float) -> int:
    """A whole number of 0 to `highest`."""
    return int(number * (highest + 1))
