"""BASIC's three stages on emoji (Pham et al. 2021), with Lion (Chen et al. 2023): what a drawing is, then what it is
called, then both together. Each begins with the one before, whose run folder `start.path` names."""

from __future__ import annotations

from corestone.core.units import duration
from corestone.data.images.spec import Images
from corestone.models.picture_spec import CoAtNet, Stage, TwoTower
from corestone.nn.spec import GridTransformer, MBConv
from corestone.objectives.spec import Classification, Contrastive
from corestone.optim.spec import Cosine, Lion
from corestone.recipes.multimodal.emoji import CONTEXT_LENGTH, DRAWINGS, SIZE, VOCAB_SIZE, named_drawings
from corestone.recipes.multimodal.stages import locked_image
from corestone.recipes.spec import Run, Start
from corestone.train.spec import Rhythm, Training
from corestone.zoo.basic import basic, text_tower
from corestone.zoo.coatnet import stem

DATA = named_drawings()
CONCEPTS = 1694
DECAY = 0.3


def _image() -> CoAtNet:
    conv, attention = MBConv(), GridTransformer(head_dim=32)
    stages = (
        Stage(depth=1, width=48, block=conv),
        Stage(depth=2, width=96, block=conv),
        Stage(depth=2, width=160, block=attention, halve=False),
        Stage(depth=2, width=256, block=attention),
    )
    return CoAtNet(image_size=(SIZE, SIZE), classes=CONCEPTS, stem=stem(24), stages=stages)


def _model() -> TwoTower:
    return basic(_image(), text_tower(128, 3, head_dim=32, vocab_size=VOCAB_SIZE, length=CONTEXT_LENGTH))


def _rhythm(steps: int) -> Rhythm:
    return Rhythm(
        log=duration("20 steps"),
        evaluate=duration(f"{steps // 4} steps"),
        sample=None,
        checkpoint=duration(f"{steps // 4} steps"),
    )


def basic_emoji_1() -> Run:
    """The image tower as a classifier. An emoji's class is its concept: its name without skin tone, gender, family
    members and direction (`corestone data show emoji-artists`)."""
    return Run(
        name="basic-emoji-1",
        description="BASIC on emoji, stage 1 of 3: 1,694 concepts are told apart; another artist's are held out.",
        model=_image(),
        objective=Classification(smoothing=0.1),
        data=Images(source=DATA.source, augmentation=DRAWINGS),
        optimiser=Lion(learning_rate=1e-3, weight_decay=DECAY),
        schedule=Cosine(warmup=duration("30 steps"), final=0.0),
        training=Training(length=duration("600 steps"), batch_examples=128),
        rhythm=_rhythm(600),
    )


def basic_emoji_2() -> Run:
    """The image tower is frozen, and the text tower learns where its pictures are."""
    return Run(
        name="basic-emoji-2",
        description="BASIC on emoji, stage 2 of 3: names learn where the pictures of a frozen tower are.",
        model=_model(),
        start=Start(path="runs/basic-emoji-1"),
        objective=Contrastive(),
        data=DATA,
        optimiser=Lion(learning_rate=3e-4, rules=locked_image(DECAY)),
        schedule=Cosine(warmup=duration("30 steps"), final=0.0),
        training=Training(length=duration("300 steps"), batch_examples=256),
        rhythm=_rhythm(300),
    )


def basic_emoji_3() -> Run:
    """Both towers, at a lower rate."""
    return Run(
        name="basic-emoji-3",
        description="BASIC on emoji, stage 3 of 3: both towers together, at a third of the rate.",
        model=_model(),
        start=Start(path="runs/basic-emoji-2"),
        objective=Contrastive(),
        data=DATA,
        optimiser=Lion(learning_rate=1e-4, weight_decay=DECAY),
        schedule=Cosine(warmup=duration("20 steps"), final=0.0),
        training=Training(length=duration("160 steps"), batch_examples=256),
        rhythm=_rhythm(160),
    )
