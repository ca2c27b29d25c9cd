"""Two towers into one space: a picture's and a text's.

Shape letters: B batch, T tokens, D width, E width of the shared space.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corestone.core.batch import ImageBatch, ImageTextBatch, TextBatch
from corestone.core.mask import Mask
from corestone.core.protocols import Output
from corestone.core.rng import fold
from corestone.models.coatnet import CoAtNetModel
from corestone.models.convnet import ConvNetModel
from corestone.models.flops import stack_flops
from corestone.models.image_encoder import ImageEncoderModel
from corestone.models.picture_spec import (
    CoAtNet,
    ConvNet,
    ImageEncoder,
    ModifiedResNet,
    Projection,
    TextTower,
    TwoTower,
)
from corestone.models.resnet import ModifiedResNetModel
from corestone.models.similarity import LearnedSimilarity
from corestone.nn.embedding import TokenEmbeddingLayer
from corestone.nn.init import initialise, materialise, without_values
from corestone.nn.modes import is_frozen
from corestone.nn.norm import at_least_float32
from corestone.nn.pooling import pool_text
from corestone.nn.spec import Init
from corestone.nn.stack import StackLayer


class TextTowerModel(nn.Module):
    """`tower(batch)` gives a vector per text (B, D).

    A row is one text, with what fills it up behind it in a segment of its own, or without segments where all of it is
    text. Whether tokens see later ones is the record's to say, whatever the batch's mask says.
    """

    def __init__(self, spec: TextTower) -> None:
        super().__init__()
        self.spec = spec
        self.embedding = TokenEmbeddingLayer(spec.embedding, spec.stack.width)
        self.stack = StackLayer(spec.stack)

    def forward(self, batch: TextBatch) -> Output:
        # Seen causally, what stands behind a text is never looked at: kernels are faster without segments.
        mask = Mask() if self.spec.causal else Mask(causal=False, segments_BT=batch.mask.segments_BT)
        hidden_BTD = self.stack(self.embedding(batch), batch.positions_BT, mask)
        return Output(hidden=pool_text(self.spec.pool, hidden_BTD, batch.mask), intermediates={"tokens": hidden_BTD})


class TwoTowerModel(nn.Module):
    """`model.image(pictures)` and `model.text(texts)` give float32 unit vectors (B, E), `log_scale` and `bias` what
    makes logits of their products. Satisfies `objectives.contrastive.PairModel`."""

    generates = "nothing"
    ways_in = ("image", "text")
    """Methods by which objectives enter the model, beside calling it (`parallel.compiled`)."""

    def __init__(self, spec: TwoTower) -> None:
        super().__init__()
        self.spec = spec
        image = spec.image
        self.image_tower = _image_tower(image)
        self.text_tower = TextTowerModel(spec.text)
        self.image_projection = _projection(spec.image_projection, image.outputs, spec.embed_dim)
        self.text_projection = _projection(spec.text_projection, spec.text.stack.width, spec.embed_dim)
        self.similarity = LearnedSimilarity(spec.similarity)

    @property
    def log_scale(self) -> nn.Parameter:
        """Logarithm of what similarities are multiplied by (scalar)."""
        return self.similarity.log_scale

    @property
    def bias(self) -> nn.Parameter | None:
        """Added to similarities (scalar); None where there is none."""
        return self.similarity.bias

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of a picture."""
        return self.image_tower.image_size

    @property
    def channels(self) -> int:
        """Of a picture."""
        return self.image_tower.channels

    @property
    def vocab_size(self) -> int:
        """Rows of the token table."""
        return self.spec.text.embedding.vocab_size

    @property
    def context_length(self) -> int:
        """The most tokens a text may have."""
        return self.spec.text.embedding.context_length

    def image(self, batch: ImageBatch) -> Tensor:
        """Unit vectors (B, E) of pictures."""
        return _unit(self.image_projection(self.image_tower(batch).hidden))

    def image_features(self, batch: ImageBatch) -> Tensor:
        """Vectors (B, D) of pictures in front of the projection to the shared space."""
        features_BD: Tensor = self.image_tower(batch).hidden
        return features_BD

    def text(self, batch: TextBatch) -> Tensor:
        """Unit vectors (B, E) of texts."""
        return _unit(self.text_projection(self.text_tower(batch).hidden))

    def forward(self, batch: ImageTextBatch) -> Output:
        """The pictures' vectors; the texts' are the intermediate value `texts`."""
        return Output(hidden=self.image(batch.images), intermediates={"texts": self.text(batch.texts)})

    def after_update(self, masters: Mapping[str, Tensor] | None = None) -> None:
        """Bring the scale back (`LearnedSimilarity.after_update`)."""
        self.similarity.after_update(masters)

    def training_flops(self, text_tokens: int | None = None) -> float:
        """Floating-point operations of forward and backward per pair. A frozen image tower only goes forward: a third
        of its operations, but for its first map, which is counted as a third where it is half.

        Args:
            text_tokens: of the text, with what fills it up; None: the most it may have.
        """
        spec, tokens = self.spec, self.context_length if text_tokens is None else text_tokens
        flops = self.image_tower.training_flops() / (3 if is_frozen(self.image_tower) else 1)
        flops += tokens * stack_flops(spec.text.stack, tokens, spec.text.causal)
        if spec.text.embedding.width is not None:
            flops += 6.0 * tokens * spec.text.embedding.width * spec.text.stack.width
        if spec.image_projection is not None:
            flops += 6.0 * spec.image.outputs * spec.embed_dim
        if spec.text_projection is not None:
            flops += 6.0 * spec.text.stack.width * spec.embed_dim
        return flops


def _image_tower(
    spec: ImageEncoder | ModifiedResNet | CoAtNet | ConvNet,
) -> ImageEncoderModel | ModifiedResNetModel | CoAtNetModel | ConvNetModel:
    match spec:
        case ImageEncoder():
            return ImageEncoderModel(spec)
        case ModifiedResNet():
            return ModifiedResNetModel(spec)
        case CoAtNet():
            return CoAtNetModel(spec)
        case ConvNet():
            return ConvNetModel(spec)


def _branches(spec: ImageEncoder | ModifiedResNet | CoAtNet | ConvNet) -> int:
    """Residual branches of an image tower; of one without any, its layers."""
    match spec:
        case ImageEncoder():
            return 2 * len(spec.stack.blocks)
        case ModifiedResNet():
            return sum(spec.depths)
        case CoAtNet():
            return 2 * sum(stage.depth for stage in spec.stages)
        case ConvNet():
            return len(spec.layers)


def _projection(spec: Projection | None, width: int, embed_dim: int) -> nn.Module:
    return nn.Identity() if spec is None else nn.Linear(width, embed_dim, bias=spec.bias)


def _unit(x_BE: Tensor) -> Tensor:
    """Of length 1, in float32."""
    return F.normalize(at_least_float32(x_BE), dim=-1)


def build_two_tower(spec: TwoTower, seed: int = 0, device: torch.device | str = "cpu") -> TwoTowerModel:
    """Build both towers, each with its record's initial values, and projections whose deviation is 1/sqrt(inputs)
    (Radford et al. 2021, code); on the meta device, without values and in milliseconds."""
    with without_values():
        model = TwoTowerModel(spec)
    if torch.device(device).type == "meta":
        return model
    materialise(model, device)
    image = spec.image
    initialise(model.image_tower, image.init, _branches(image), fold(seed, "image"))
    initialise(model.text_tower, spec.text.init, 2 * len(spec.text.stack.blocks), fold(seed, "text"))
    for name, projection in (("image", model.image_projection), ("text", model.text_projection)):
        initialise(projection, Init(std=None), 1, fold(seed, name, "projection"))
    model.similarity.start()
    return model
