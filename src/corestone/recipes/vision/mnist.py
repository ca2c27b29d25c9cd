"""Digits: 5,000 of MNIST's, minutes on a laptop."""

from __future__ import annotations

from corestone.core.units import duration
from corestone.data.images.augment_spec import Augmentation, RandomAffine
from corestone.data.images.spec import EmbeddedImages, Images
from corestone.models.spec import ClassHead, ConvNet, ImageEncoder
from corestone.nn.spec import PatchEmbedding
from corestone.objectives.spec import Classification
from corestone.optim.spec import AdamW, Cosine
from corestone.recipes.spec import Run
from corestone.train.spec import Rhythm, Training
from corestone.zoo.mnist_cnn import m3
from corestone.zoo.vit import vit

DIGITS = Augmentation(
    size=(28, 28), channels=1, steps=(RandomAffine(degrees=20, translate=0.2),), mean=(0.5,), std=(0.5,)
)
"""The published networks' own (An et al. 2020)."""


def _digits(name: str, description: str, model: ConvNet | ImageEncoder, learning_rate: float, steps: int) -> Run:
    return Run(
        name=name,
        description=description,
        model=model,
        objective=Classification(),
        data=Images(source=EmbeddedImages(name="mnist5k"), augmentation=DIGITS),
        optimiser=AdamW(learning_rate=learning_rate, beta2=0.999, weight_decay=0.0),
        schedule=Cosine(warmup=duration("50 steps"), final=0.01),
        training=Training(length=duration(f"{steps} steps"), batch_examples=120),
        rhythm=Rhythm(
            log=duration("20 steps"),
            evaluate=duration("100 steps"),
            sample=None,
            checkpoint=duration("200 steps"),
        ),
    )


def mnist() -> Run:
    """Ten convolutions of 3 x 3, a member of the ensemble that leads on MNIST."""
    return _digits("mnist", "A simple convolutional network (M3) on 5,000 digits of MNIST.", m3(), 1e-3, 1000)


def mnist_vit() -> Run:
    """A Vision Transformer of patches of 4 x 4."""
    model = vit(128, 4, 4, 4, image_size=(28, 28), head=ClassHead(classes=10))
    embedding: PatchEmbedding = model.embedding.model_copy(update={"channels": 1})
    model = model.model_copy(update={"embedding": embedding})
    return _digits("mnist-vit", "A small Vision Transformer on 5,000 digits of MNIST.", model, 1e-3, 1500)
