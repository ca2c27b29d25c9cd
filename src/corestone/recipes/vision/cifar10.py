"""CIFAR-10 by fine-tuning, on your folder of its binary version."""

from __future__ import annotations

from corestone.core.units import duration
from corestone.data.images.augment_spec import Augmentation, HorizontalFlip, RandomResizedCrop, Resize
from corestone.data.images.spec import Cifar10, Images, PrepareImages
from corestone.models.picture_spec import ClassHead
from corestone.objectives.spec import Classification
from corestone.optim.spec import SGD, Cosine
from corestone.recipes.spec import Evaluation, Run, Start
from corestone.train.spec import Rhythm, Training
from corestone.zoo.vit import vit


def vit_l16_cifar10() -> Run:
    """Ten thousand steps at 384 pixels from a pretrained ViT-L/16 (Dosovitskiy et al. 2021, appendix B.1.1, table 4).

    Name the pretrained run or checkpoint with start.path. The paper tries the rates 0.001, 0.003, 0.01 and 0.03 on 2 %
    of the training pictures; 0.03, a warm-up of 500 steps, dropout of 0.1, and how pictures are cut and resized are
    those of the published code.
    """
    return Run(
        name="vit-l16-cifar10",
        description="ViT-L/16, pretrained elsewhere (start.path), fine-tuned on your folder of CIFAR-10.",
        model=vit(1024, 24, 16, 16, image_size=(384, 384), head=ClassHead(classes=10), dropout=0.1),
        start=Start(path="runs/vit-l16", zero_head=True),
        objective=Classification(),
        data=Images(
            source=Cifar10(path="cifar-10-batches-bin", validation_percent=2.0),
            prepare=PrepareImages(deduplicate=False),
            augmentation=Augmentation(
                size=(384, 384),
                steps=(RandomResizedCrop(scale=(0.05, 1.0)), HorizontalFlip()),
                evaluation=(Resize(),),
                mean=(0.5, 0.5, 0.5),
                std=(0.5, 0.5, 0.5),
            ),
            workers=16,
        ),
        optimiser=SGD(learning_rate=0.03, momentum=0.9, weight_decay=0.0),
        schedule=Cosine(warmup=duration("500 steps"), final=0.0),
        training=Training(length=duration("10000 steps"), batch_examples=512, micro_batch=32),
        rhythm=Rhythm(
            log=duration("20 steps"), evaluate=duration("500 steps"), sample=None, checkpoint=duration("500 steps")
        ),
        evaluation=Evaluation(batch_size=128),
    )
