"""Emoji and their names: two artists draw the same things, so one artist's drawings can be held out whole."""

from __future__ import annotations

from corestone.core.units import duration
from corestone.data.images.augment_spec import Augmentation, RandomResizedCrop
from corestone.data.images.spec import EmbeddedImages, Pairs
from corestone.data.spec import BytePair
from corestone.models.picture_spec import ImageEncoder, TextTower, TwoTower
from corestone.nn.spec import Init, Norm, PatchEmbedding, TokenEmbedding
from corestone.objectives.spec import Contrastive
from corestone.optim.spec import AdamW, Cosine
from corestone.recipes.spec import Run
from corestone.train.spec import Rhythm, Training
from corestone.zoo.clip import stack

VOCAB_SIZE, CONTEXT_LENGTH, SIZE = 1024, 24, 72

DRAWINGS = Augmentation(
    size=(SIZE, SIZE),
    steps=(RandomResizedCrop(scale=(0.6, 1.0)),),
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)
"""The colours' scale is CLIP's; the crop is wider, as drawings fill their square. Nothing is mirrored, for names tell
left from right."""


def clip_emoji() -> Run:
    """A CLIP of 3 M parameters. `data.source.split=concept` holds out names in place of an artist."""
    image = ImageEncoder(
        embedding=PatchEmbedding(image_size=(SIZE, SIZE), patch_size=12, bias=False, norm=Norm()),
        stack=stack(192, 4),
        init=Init(std=None, position_std=192**-0.5),
    )
    text = TextTower(
        embedding=TokenEmbedding(vocab_size=VOCAB_SIZE, context_length=CONTEXT_LENGTH),
        stack=stack(128, 3),
        init=Init(std=None, token_std=0.02, position_std=0.01, scale_residual=True),
    )
    return Run(
        name="clip-emoji",
        description="A small CLIP on 3,500 emoji of one artist and their names; another artist's are held out.",
        model=TwoTower(image=image, text=text, embed_dim=128),
        objective=Contrastive(),
        data=Pairs(
            source=EmbeddedImages(name="emoji", split="artist"),
            augmentation=DRAWINGS,
            tokenizer=BytePair(vocab_size=VOCAB_SIZE),
            context_length=CONTEXT_LENGTH,
        ),
        optimiser=AdamW(learning_rate=1e-3, beta2=0.98, eps=1e-6, weight_decay=0.2),
        schedule=Cosine(warmup=duration("50 steps"), final=0.0),
        training=Training(length=duration("900 steps"), batch_examples=256),
        rhythm=Rhythm(
            log=duration("20 steps"), evaluate=duration("150 steps"), sample=None, checkpoint=duration("300 steps")
        ),
    )
