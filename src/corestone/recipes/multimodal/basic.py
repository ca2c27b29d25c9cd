"""BASIC at published scale on your own pictures and pairs, in three stages (Pham et al. 2021), and with Lion (Chen et
al. 2023). Each stage begins with the one before, whose run folder `start.path` names.

Published and read: 65,536 pairs a step, the sizes, and that Lion serves both vision and contrastive stages. Taken from
CoAtNet (Dai et al. 2021, appendix A) for stage 1: 14 epochs of 4,096 labelled pictures, a rate of 0.001 (of 0.0005 for
CoAtNet-7), 20,000 steps of warm-up, a line to zero, a decay of 0.01. Not found in any source at hand, and assumed: the
order of the stages, rates and lengths of stages 2 and 3, Adafactor's betas; the optimiser's name (AdaFactorW) is
second-hand. With Lion, rates are 5 times smaller and decays 5 times larger, within the 3 to 10 times that its paper
advises.
"""

from __future__ import annotations

from corestone.core.units import duration
from corestone.data.images.augment_spec import Augmentation, CenterCrop, HorizontalFlip, RandomResizedCrop, Resize
from corestone.data.images.spec import Images, WebDataset
from corestone.data.spec import Unigram
from corestone.models.picture_spec import CoAtNet
from corestone.objectives.spec import Classification, Contrastive
from corestone.optim.spec import Adafactor, AdamW, Linear, Lion, Optimiser, Rule
from corestone.recipes.multimodal.stages import locked_image
from corestone.recipes.multimodal.web import EVALUATION, HALF, PREPARE, RHYTHM, cropped, web_pairs
from corestone.recipes.spec import Evaluation, Run, Start
from corestone.train.spec import Rhythm, Training
from corestone.zoo.catalogue import find
from corestone.zoo.coatnet import sizes

DECAY, LION = 0.01, 5.0
"""Of Adam and Adafactor, and how much smaller a rate and larger a decay is with Lion."""
ON_PAIRS = {2: (1e-3, 500_000), 3: (1e-4, 50_000)}
"""Learning rate and steps of a stage."""


def _classifier(size: str, image: CoAtNet, learning_rate: float, micro_batch: int, lion: bool) -> Run:
    """Stage 1: the image tower tells the classes of your pictures apart; set model.classes to their number. JFT, the
    paper's set, is private."""
    optimiser: Optimiser = AdamW(learning_rate=learning_rate, beta2=0.999, weight_decay=DECAY)
    if lion:
        optimiser = Lion(learning_rate=learning_rate / LION, weight_decay=LION * DECAY)
    return Run(
        name=_name(size, 1, lion),
        description=f"BASIC-{size}, stage 1 of 3{_with(lion)}: its image tower on your own labelled pictures.",
        model=image,
        objective=Classification(),
        data=Images(
            source=WebDataset(shards=("labelled/{00000..09999}.tar",), validation_percent=0.01),
            prepare=PREPARE,
            augmentation=Augmentation(
                size=image.image_size,
                steps=(RandomResizedCrop(), HorizontalFlip()),
                evaluation=(Resize(shorter=256), CenterCrop()),
                mean=HALF,
                std=HALF,
            ),
            workers=16,
        ),
        optimiser=optimiser,
        schedule=Linear(warmup=duration("20000 steps"), final=0.0),
        training=Training(length=duration("14 epochs"), batch_examples=4096, micro_batch=micro_batch),
        rhythm=Rhythm(
            log=duration("50 steps"), evaluate=duration("5000 steps"), sample=None, checkpoint=duration("1000 steps")
        ),
        evaluation=Evaluation(batch_size=256, pictures_while_training=50_000),
    )


def _pairs(size: str, stage: int, micro_batch: int, lion: bool) -> Run:
    """Stages 2 and 3: on pairs, first with the image tower frozen."""
    learning_rate, steps = ON_PAIRS[stage]
    decay = LION * DECAY if lion else DECAY
    everything = (Rule(match=("*",), weight_decay=decay, decay_vectors=False),)
    rules = locked_image(decay) if stage == 2 else everything
    optimiser: Optimiser = Adafactor(learning_rate=learning_rate, beta1=0.9, beta2=0.999, rules=rules)
    if lion:
        optimiser = Lion(learning_rate=learning_rate / LION, rules=rules)
    what = "names learn where the pictures of a frozen tower are" if stage == 2 else "both towers at a lower rate"
    return Run(
        name=_name(size, stage, lion),
        description=f"BASIC-{size}, stage {stage} of 3{_with(lion)}: {what}.",
        model=find(f"basic-{size.lower()}").spec,
        start=Start(path=f"runs/{_name(size, stage - 1, lion)}"),
        objective=Contrastive(),
        data=web_pairs(cropped(224), Unigram(vocab_size=32_000, sentinels=0), context_length=64),
        optimiser=optimiser,
        schedule=Linear(warmup=duration("10000 steps"), final=0.0),
        training=Training(
            length=duration(f"{steps} steps"), batch_examples=65_536, micro_batch=micro_batch, recompute=True
        ),
        rhythm=RHYTHM,
        evaluation=EVALUATION,
    )


def _name(size: str, stage: int, lion: bool) -> str:
    return f"basic-{size.lower()}{'-lion' if lion else ''}-{stage}"


def _with(lion: bool) -> str:
    return " with Lion" if lion else ""


def basic_s(stage: int, lion: bool = False) -> Run:
    """With CoAtNet-0; stages count from 1."""
    if stage == 1:
        return _classifier("S", sizes()["coatnet-0"], 1e-3, 128, lion)
    return _pairs("S", stage, 256, lion)


def basic_l(stage: int, lion: bool = False) -> Run:
    """With CoAtNet-7; stages count from 1."""
    if stage == 1:
        return _classifier("L", sizes()["coatnet-7"], 5e-4, 16, lion)
    return _pairs("L", stage, 16, lion)
