"""Emoji named in words: a captioner that learns from two artists' drawings and names a third's."""

from __future__ import annotations

from corestone.core.units import duration
from corestone.models.picture_spec import Captioner
from corestone.nn.spec import ConvLayer, Init, PatchEmbedding
from corestone.objectives.spec import Captioning
from corestone.optim.spec import AdamW, Cosine
from corestone.recipes.multimodal.emoji import CONTEXT_LENGTH, SIZE, VOCAB_SIZE, drawings_net, named_drawings
from corestone.recipes.spec import Run
from corestone.train.spec import Rhythm, Training
from corestone.zoo.coca import coca


def small_coca() -> Captioner:
    """The paper's shape in small, behind the convolutions of `clip-emoji` and one more over most of what they see: with
    so few pictures a Transformer does not learn what places mean (docs/LOG.md). Its 2 x 2 patches are wide views."""
    patches = PatchEmbedding(image_size=(SIZE, SIZE), patch_size=1, class_token=False)
    spec = coca(192, 6, (1, 768), (2, 768), vocab_size=VOCAB_SIZE, picture=patches, queries=4)
    seen = drawings_net()
    wide = ConvLayer(channels=384, kernel=seen.maps[-1][0] - 1)
    return spec.model_copy(
        update={
            "stem": seen.model_copy(update={"layers": (*seen.layers, wide)}),
            "embedding": spec.embedding.model_copy(update={"context_length": CONTEXT_LENGTH}),
            "init": Init(std=None, token_std=0.02, position_std=0.01, scale_residual=True),
        }
    )


def coca_emoji() -> Run:
    """A CoCa of 6 M parameters. `data.source.split=concept` holds out names in place of an artist."""
    return Run(
        name="coca-emoji",
        description="A small CoCa that names emoji, learnt from 7,300 of two artists; a third artist's are held out.",
        model=small_coca(),
        objective=Captioning(),
        data=named_drawings(),
        optimiser=AdamW(learning_rate=2e-3, beta2=0.98, eps=1e-6, weight_decay=0.2),
        schedule=Cosine(warmup=duration("50 steps"), final=0.0),
        training=Training(length=duration("800 steps"), batch_examples=256),
        rhythm=Rhythm(
            log=duration("20 steps"),
            evaluate=duration("200 steps"),
            sample=duration("200 steps"),
            checkpoint=duration("200 steps"),
        ),
    )
