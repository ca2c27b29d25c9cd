"""Pictures with captions from the web, in tar shards of your own: `pairs/00000.tar` to `pairs/09999.tar`, as
img2dataset writes them."""

from __future__ import annotations

from corestone.core.units import duration
from corestone.data.images.augment_spec import Augmentation, CenterCrop, RandomCrop, Resize
from corestone.data.images.spec import Pairs, PrepareImages, WebDataset
from corestone.data.spec import Tokenizer
from corestone.recipes.spec import Evaluation
from corestone.train.spec import Rhythm

HALF = (0.5, 0.5, 0.5)
PREPARE = PrepareImages(on_bad="skip", deduplicate=False)
"""What cannot be read is left out and counted; the papers' sets hold pictures more than once."""
RHYTHM = Rhythm(
    log=duration("20 steps"), evaluate=duration("2000 steps"), sample=None, checkpoint=duration("500 steps")
)
EVALUATION = Evaluation(batch_size=256, pictures_while_training=5_000)


def cropped(size: int, mean: tuple[float, ...] = HALF, std: tuple[float, ...] = HALF) -> Augmentation:
    """A square at a random place of the picture, whose shorter side has so many pixels, and nothing else (Radford et
    al. 2021, section 2.3); the middle in evaluation."""
    resize = Resize(shorter=size)
    return Augmentation(
        size=(size, size), steps=(resize, RandomCrop()), evaluation=(resize, CenterCrop()), mean=mean, std=std
    )


def web_pairs(augmentation: Augmentation, tokenizer: Tokenizer, context_length: int) -> Pairs:
    """One pair in ten thousand is held out."""
    return Pairs(
        source=WebDataset(shards=("pairs/{00000..09999}.tar",), validation_percent=0.01),
        prepare=PREPARE,
        augmentation=augmentation,
        tokenizer=tokenizer,
        context_length=context_length,
        workers=16,
    )
