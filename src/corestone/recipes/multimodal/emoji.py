"""Emoji and their names: three artists draw the same things, so one artist's drawings can be held out whole."""

from __future__ import annotations

from corestone.core.units import duration
from corestone.data.images.augment_spec import Augmentation, ColorJitter, RandomResizedCrop, Resize
from corestone.data.images.spec import EmbeddedImages, Pairs
from corestone.data.spec import BytePair
from corestone.models.picture_spec import ConvNet, TextTower, TwoTower
from corestone.nn.spec import ConvLayer, Gradients, Init, TokenEmbedding
from corestone.objectives.spec import Contrastive
from corestone.optim.spec import AdamW, Cosine
from corestone.recipes.spec import Run
from corestone.train.spec import Rhythm, Training
from corestone.zoo.clip import stack

VOCAB_SIZE, CONTEXT_LENGTH, SIZE = 4096, 24, 32

DRAWINGS = Augmentation(
    size=(SIZE, SIZE),
    steps=(
        RandomResizedCrop(scale=(0.75, 1.0), ratio=(0.9, 1.1)),
        ColorJitter(strength=0.3),
    ),
    evaluation=(Resize(),),
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)
"""The colours' scale is CLIP's. Artists agree on where things are and roughly on their colours, and differ in line and
shade: crops are wide, what is learnt must not hang on one tint, and less than half the size hides lines (docs/LOG.md
has what each step is worth; erasing hurts, for its noise has gradients of its own). Nothing is mirrored, for names tell
left from right."""


def drawings_net() -> ConvNet:
    """Gradients by direction, on which artists agree more than on shades, beside colours; then two pairs of
    convolutions, the second of each halving the map, down to 4 x 4 places that keep weights of their own in the
    projection: a drawing's parts stand where they stand."""
    layers: list[ConvLayer] = []
    for channels in (96, 192):
        layers += [
            ConvLayer(channels=channels, kernel=3, padding=1),
            ConvLayer(channels=channels, kernel=3, stride=2, padding=1),
        ]
    return ConvNet(image_size=(SIZE, SIZE), classes=None, gradients=Gradients(), layers=tuple(layers))


def named_drawings() -> Pairs:
    """Two artists' drawings with their names, to be scored on those of a third."""
    return Pairs(
        source=EmbeddedImages(name="emoji-artists", split="artist"),
        augmentation=DRAWINGS,
        tokenizer=BytePair(vocab_size=VOCAB_SIZE),
        context_length=CONTEXT_LENGTH,
    )


def clip_emoji() -> Run:
    """A CLIP of 3 M parameters, with a plain convolutional tower: a Vision Transformer needs more than 7,300 pictures.
    `data.source.split=concept` holds out names in place of an artist.

    Names are short, and most of their words are tokens of their own: a single layer reads them.
    """
    text = TextTower(
        embedding=TokenEmbedding(vocab_size=VOCAB_SIZE, context_length=CONTEXT_LENGTH),
        stack=stack(128, 1),
        init=Init(std=None, token_std=0.02, position_std=0.01, scale_residual=True),
    )
    return Run(
        name="clip-emoji",
        description="A small CLIP on 7,300 emoji of two artists and their names; a third artist's are held out.",
        model=TwoTower(image=drawings_net(), text=text, embed_dim=512),
        objective=Contrastive(),
        data=named_drawings(),
        optimiser=AdamW(learning_rate=2e-3, beta2=0.98, eps=1e-6, weight_decay=0.2),
        schedule=Cosine(warmup=duration("20 steps"), final=0.0),
        training=Training(length=duration("900 steps"), batch_examples=512),
        rhythm=Rhythm(
            log=duration("20 steps"), evaluate=duration("300 steps"), sample=None, checkpoint=duration("300 steps")
        ),
    )
