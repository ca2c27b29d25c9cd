"""Digits: 5,000 of MNIST's, minutes on a laptop."""

from __future__ import annotations

from corestone.core.units import duration
from corestone.data.images.augment_spec import Augmentation, RandomAffine
from corestone.data.images.spec import EmbeddedImages, Images
from corestone.data.spec import Bytes, Component, Data, Embedded
from corestone.generate.spec import Sampling
from corestone.models.picture_spec import ClassHead, ConvNet
from corestone.nn.spec import PatchEmbedding
from corestone.objectives.spec import Classification, NextToken
from corestone.optim.spec import AdamW, Cosine
from corestone.recipes.spec import Run, Samples
from corestone.train.spec import Average, Rhythm, Training
from corestone.zoo.gpt import gpt2
from corestone.zoo.mnist_cnn import m3, m5, m7
from corestone.zoo.vit import vit

DIGITS = Augmentation(
    size=(28, 28), channels=1, steps=(RandomAffine(degrees=20, translate=0.2),), mean=(0.5,), std=(0.5,)
)
"""The published networks' own (An et al. 2020)."""


BATCH = 120
RHYTHM = Rhythm(log=duration("20 steps"), evaluate=duration("100 steps"), sample=None, checkpoint=duration("200 steps"))


def _digits() -> Images:
    return Images(source=EmbeddedImages(name="mnist5k"), augmentation=DIGITS)


def _member(name: str, kind: str, model: ConvNet, steps: int) -> Run:
    """A member of the ensemble that leads on MNIST (An et al. 2020 and the authors' code).

    As published: pictures, their turns and shifts, Adam at 0.001 without decay, warm-up or clipping, batches of 120,
    and weights averaged at 0.999 with a ramp. Otherwise: minutes, some 20 passes over 4,000 digits, in place of 150
    over 60,000; the rate falls to 0.05, as 150 times 0.98 would, but along a cosine; and batch norms of the averaged
    weights have statistics of their own, where the authors' code takes those of the last ones.

    The authors take each run's best epoch by the test side; here that side is scored once, at the end.
    """
    return Run(
        name=name,
        description=f"A simple convolutional network ({kind}) on 5,000 digits of MNIST.",
        model=model,
        objective=Classification(),
        data=_digits(),
        optimiser=AdamW(learning_rate=1e-3, beta2=0.999, weight_decay=0.0),
        schedule=Cosine(final=0.05),
        training=Training(
            length=duration(f"{steps} steps"),
            batch_examples=BATCH,
            clip_norm=None,
            average=Average(decay=0.999, ramp=True),
        ),
        rhythm=RHYTHM,
    )


def mnist() -> Run:
    """Ten convolutions of 3 x 3."""
    return _member("mnist", "M3", m3(), 600)


def mnist_m5() -> Run:
    """Five convolutions of 5 x 5."""
    return _member("mnist-m5", "M5", m5(), 700)


def mnist_m7() -> Run:
    """Four convolutions of 7 x 7."""
    return _member("mnist-m7", "M7", m7(), 700)


def mnist_vit() -> Run:
    """A Vision Transformer of patches of 4 x 4."""
    model = vit(128, 4, 4, 4, image_size=(28, 28), head=ClassHead(classes=10))
    embedding: PatchEmbedding = model.embedding.model_copy(update={"channels": 1})
    return Run(
        name="mnist-vit",
        description="A small Vision Transformer on 5,000 digits of MNIST.",
        model=model.model_copy(update={"embedding": embedding}),
        objective=Classification(),
        data=_digits(),
        optimiser=AdamW(learning_rate=1e-3, beta2=0.999, weight_decay=0.0),
        schedule=Cosine(warmup=duration("50 steps"), final=0.01),
        training=Training(length=duration("1500 steps"), batch_examples=BATCH),
        rhythm=RHYTHM,
    )


def mnist_gpt() -> Run:
    """A picture is written value by value (Chen et al. 2020, image GPT), behind the name of its digit, so that
    `corestone generate runs/mnist-gpt $'7\\n'` draws a seven. Of the vocabulary 257 are used: bytes, and the
    end of a document."""
    vocab_size, context_length = 320, 256
    return Run(
        name="mnist-gpt",
        description="A small GPT that writes digits of MNIST, 14 x 14 grey values each.",
        model=gpt2(width=192, depth=4, num_heads=3, vocab_size=vocab_size, context_length=context_length),
        objective=NextToken(),
        data=Data(
            components=(Component(source=Embedded(name="mnist5k-text")),),
            tokenizer=Bytes(),
            context_length=context_length,
        ),
        optimiser=AdamW(learning_rate=2e-3),
        schedule=Cosine(warmup=duration("50 steps"), final=0.05),
        training=Training(length=duration("800 steps"), batch_tokens=4096),
        rhythm=Rhythm(
            log=duration("20 steps"),
            evaluate=duration("200 steps"),
            sample=duration("200 steps"),
            checkpoint=duration("200 steps"),
        ),
        samples=Samples(prompts=("3\n", "8\n"), sampling=Sampling(temperature=1.0, max_tokens=210)),
    )
