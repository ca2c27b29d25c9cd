"""ImageNet-1k from scratch at published scale, on a folder of your own: `imagenet/train/CLASS/*.JPEG` and
`imagenet/val/CLASS/*.JPEG`."""

from __future__ import annotations

from corestone.core.units import duration
from corestone.data.images.augment_spec import (
    Augmentation,
    CenterCrop,
    HorizontalFlip,
    Mixup,
    RandAugment,
    RandomResizedCrop,
    Resize,
)
from corestone.data.images.spec import ImageFolder, Images, PrepareImages
from corestone.models.picture_spec import ClassHead
from corestone.objectives.spec import Classification
from corestone.optim.spec import AdamW, Cosine
from corestone.recipes.spec import Evaluation, Run
from corestone.train.spec import Rhythm, Training
from corestone.zoo.catalogue import find
from corestone.zoo.vit import vit

HALF = (0.5, 0.5, 0.5)
WARMUP = duration("10000 steps")
TRAINING = Training(length=duration("300 epochs"), batch_examples=4096, micro_batch=128)
"""Of both recipes, with norms clipped at 1 (Dosovitskiy et al. 2021, table 3; Dai et al. 2021, appendix A)."""
RHYTHM = Rhythm(log=duration("50 steps"), evaluate=duration("1 epochs"), sample=None, checkpoint=duration("1 epochs"))
EVALUATION = Evaluation(batch_size=256, pictures_while_training=50_000)


def _imagenet(augmentation: Augmentation) -> Images:
    """The published sides are kept whole, so repeated pictures stay. Where the folder has no `val`, 1 % is held out."""
    return Images(
        source=ImageFolder(path="imagenet", validation_percent=1.0),
        prepare=PrepareImages(deduplicate=False),
        augmentation=augmentation,
        workers=16,
    )


def vit_b16() -> Run:
    """Adam with a decay of 0.3 and dropout of 0.1 (Dosovitskiy et al. 2021, table 3).

    Pictures are cut and flipped as in the authors' published code, which is that of fine-tuning: parts of 5 to 100 % of
    the area; in evaluation the whole picture is resized. The head has the hidden layer of pretraining. Gains and biases
    do not decay, of which the paper says nothing.
    """
    return Run(
        name="vit-b16",
        description="ViT-B/16 on your folder of ImageNet-1k, from scratch.",
        model=vit(768, 12, 12, 16, head=ClassHead(classes=1000, hidden=True), dropout=0.1),
        objective=Classification(),
        data=_imagenet(
            Augmentation(
                size=(224, 224),
                steps=(RandomResizedCrop(scale=(0.05, 1.0)), HorizontalFlip()),
                evaluation=(Resize(),),
                mean=HALF,
                std=HALF,
            )
        ),
        optimiser=AdamW(learning_rate=3e-3, beta2=0.999, weight_decay=0.3),
        schedule=Cosine(warmup=WARMUP, final=0.0),
        training=TRAINING,
        rhythm=RHYTHM,
        evaluation=EVALUATION,
    )


def coatnet_0() -> Run:
    """RandAugment of two steps of strength 15, mixup, smoothing, a fifth of the last block's branches left out (Dai et
    al. 2021, appendix A).

    The paper gives neither Adam's betas, for which 0.9 and 0.999 stand here, nor how pictures are cut, for which
    Inception's crop does. Each micro-batch is batch-normed by itself.
    """
    model = find("coatnet-0").spec.model_copy(update={"drop_path": 0.2})
    return Run(
        name="coatnet-0",
        description="CoAtNet-0 on your folder of ImageNet-1k, from scratch.",
        model=model,
        objective=Classification(smoothing=0.1),
        data=_imagenet(
            Augmentation(
                size=(224, 224),
                steps=(RandomResizedCrop(), HorizontalFlip(), RandAugment(layers=2, magnitude=15)),
                evaluation=(Resize(shorter=256), CenterCrop()),
                mix=(Mixup(alpha=0.8),),
                mean=HALF,
                std=HALF,
            )
        ),
        optimiser=AdamW(learning_rate=1e-3, beta2=0.999, weight_decay=0.05),
        schedule=Cosine(warmup=WARMUP, final=0.01),
        training=TRAINING,
        rhythm=RHYTHM,
        evaluation=EVALUATION,
    )
