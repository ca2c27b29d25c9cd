"""Records of the shapes of computation that see pictures."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from corestone.core.spec import Spec
from corestone.models.spec import Head, check_both_ways
from corestone.nn.spec import (
    AttentionPool,
    ClassTokenPool,
    ConvLayer,
    Gradients,
    GridTransformer,
    Init,
    LastTokenPool,
    MBConv,
    PatchEmbedding,
    Pool,
    Stack,
    TextPool,
    TokenEmbedding,
)


class ClassHead(Spec):
    """The map from one vector to a logit per class.

    Attributes:
        hidden: a dense map and tanh stand before it (Dosovitskiy et al. 2021, section 3.1: while pretraining).
    """

    classes: int = Field(ge=1)
    hidden: bool = False


class ImageEncoder(Spec):
    """A transformer that sees whole pictures: patches, stack, one vector, logits (Dosovitskiy et al. 2021).

    Attributes:
        head: None: the vector alone.
    """

    kind: Literal["image_encoder"] = "image_encoder"
    embedding: PatchEmbedding
    stack: Stack
    pool: Pool = ClassTokenPool()
    head: ClassHead | None = None
    init: Init = Init()

    @property
    def outputs(self) -> int:
        """Values of a picture's vector."""
        return self.stack.width

    @model_validator(mode="after")
    def _fits(self) -> ImageEncoder:
        check_both_ways(self.stack, "stack")
        if any(block.cross is not None for block in self.stack.blocks):
            raise ValueError("stack.blocks: an encoder has nothing to cross to; set cross=null")
        if isinstance(self.pool, ClassTokenPool) and not self.embedding.class_token:
            raise ValueError("pool.kind=class_token needs embedding.class_token=true; or set pool.kind=mean")
        if isinstance(self.pool, AttentionPool) and self.pool.queries > 1:
            raise ValueError(f"pool.queries={self.pool.queries}: a picture as one vector needs one query")
        return self


class Similarity(Spec):
    """How similarities become logits: `scale * cosine + bias`, both learned.

    Attributes:
        scale: its first value; its logarithm is learned.
        scale_most: it is brought back to this after each update (Radford et al. 2021, section 2.5); None: never.
        bias: its first value; None: there is none. Zhai et al. 2023 start with scale=10 and bias=-10.
    """

    scale: float = Field(default=1 / 0.07, gt=0)
    scale_most: float | None = Field(default=100.0, gt=0)
    bias: float | None = None


class ConvNet(Spec):
    """A classifier of convolutions one after the other; every value of the last map goes to a linear map without bias,
    whose outputs are batch-normed (An et al. 2020).

    Attributes:
        image_size: height and width of the pictures.
        channels: of the pictures.
        classes: None: the values of the last map alone, as the image tower of a `TwoTower`.
        gradients: what the first layer sees in place of the picture; None: the picture.
    """

    kind: Literal["convnet"] = "convnet"
    image_size: tuple[int, int]
    channels: int = Field(default=3, ge=1)
    classes: int | None = Field(ge=2)
    gradients: Gradients | None = None
    layers: tuple[ConvLayer, ...] = Field(min_length=1)
    init: Init = Init(std=None)

    @property
    def maps(self) -> tuple[tuple[int, int], ...]:
        """Height and width of what each layer makes."""
        sizes = [self.seen]
        for layer in self.layers:
            sizes.append(layer.outputs(sizes[-1]))
        return tuple(sizes[1:])

    @property
    def seen(self) -> tuple[int, int]:
        """Height and width of what the first layer sees."""
        height, width = self.image_size
        if self.gradients is None:
            return height, width
        return height // self.gradients.cell, width // self.gradients.cell

    @property
    def seen_channels(self) -> int:
        """Channels of what the first layer sees."""
        return self.channels + (0 if self.gradients is None else self.gradients.directions)

    @property
    def outputs(self) -> int:
        """Values of a picture's vector."""
        height, width = self.maps[-1]
        return height * width * self.layers[-1].channels

    @model_validator(mode="after")
    def _fits(self) -> ConvNet:
        if self.gradients is not None and min(self.seen) < 1:
            raise ValueError(
                f"gradients.cell={self.gradients.cell} exceeds pictures of {self.image_size}; make it smaller"
            )
        for place, size in enumerate(self.maps):
            if min(size) < 1:
                before = self.maps[place - 1] if place else self.seen
                raise ValueError(f"layers.{place}: kernel={self.layers[place].kernel} exceeds its map of {before}")
        return self


class Captioner(Spec):
    """A picture and its text as vectors of one space, and the text written token by token beside the picture (Yu et al.
    2022).

    Pools stand on each other: the first one's queries look at the picture's patches, and its findings are what captions
    are written from; the second one's query looks at those findings. Both ends share the width of `decoder`.

    Attributes:
        stem: convolutions over the picture, of whose last map the patches are cut (section 3.2: other encoders than a
            ViT serve too; Xiao et al. 2021, arXiv 2106.14881, has convolutions in front of one); None: of the picture.
        image_embedding, image_stack: the picture's patches.
        caption_pool: of the patches.
        contrast_pool: of what `caption_pool` found; one query.
        embedding: of the text's tokens; a learned vector for the whole text stands behind the last of them.
        decoder: its first blocks see the text alone, and behind them that vector is read; the blocks from the first one
            with `cross` on see the picture too.
        shared_width: of the space of both vectors.
        head: of the captions.
        similarity: its logits are told apart by softmax, in which a bias would say nothing.
    """

    kind: Literal["captioner"] = "captioner"
    stem: ConvNet | None = None
    image_embedding: PatchEmbedding
    image_stack: Stack
    caption_pool: AttentionPool
    contrast_pool: AttentionPool
    embedding: TokenEmbedding
    decoder: Stack
    shared_width: int = Field(ge=1)
    head: Head = Head()
    similarity: Similarity = Similarity()
    init: Init = Init()

    @property
    def unimodal(self) -> int:
        """Blocks that see the text alone."""
        return next(layer for layer, block in enumerate(self.decoder.blocks) if block.cross is not None)

    @property
    def cut(self) -> PatchEmbedding:
        """`image_embedding` of what the patches are cut of: the last map of `stem`, or the picture."""
        if self.stem is None:
            return self.image_embedding
        of = {"image_size": self.stem.maps[-1], "channels": self.stem.layers[-1].channels}
        return self.image_embedding.model_copy(update=of)

    def _fits_behind(self, stem: ConvNet) -> None:
        """Raise ValueError where no patch can be cut of a stem's last map."""
        if stem.classes is not None:
            raise ValueError("stem.classes: what stands in front of patches tells no classes apart; set it to null")
        seen, shown = (
            (stem.channels, *stem.image_size),
            (self.image_embedding.channels, *self.image_embedding.image_size),
        )
        if seen != shown:
            raise ValueError(
                f"stem and image_embedding are of one picture: {seen} and {shown} must agree (channels, size)"
            )
        if min(self.cut.image_size) < self.cut.patch_size:
            height, width = self.cut.image_size
            raise ValueError(
                f"stem: its last map of {height}x{width} has no room for a patch of "
                f"image_embedding.patch_size={self.cut.patch_size}"
            )

    @model_validator(mode="after")
    def _fits(self) -> Captioner:
        if self.stem is not None:
            self._fits_behind(self.stem)
        if self.image_stack.width != self.decoder.width:
            raise ValueError(
                f"image_stack.width={self.image_stack.width} and decoder.width={self.decoder.width} must agree"
            )
        check_both_ways(self.image_stack, "image_stack")
        if any(block.cross is not None for block in self.image_stack.blocks):
            raise ValueError("image_stack.blocks: an encoder has nothing to cross to; set cross=null")
        if self.contrast_pool.queries != 1:
            raise ValueError(f"contrast_pool.queries={self.contrast_pool.queries}: one vector needs one query")
        if self.similarity.bias is not None:
            raise ValueError("similarity.bias: a captioner tells pairs apart by softmax; set bias=null")
        if self.embedding.width is not None or self.head.transform is not None:
            raise ValueError(
                "a captioner's token table has the width of its decoder: leave embedding.width and head.transform out"
            )
        crossing = [block.cross is not None for block in self.decoder.blocks]
        if crossing[0] or not crossing[-1] or crossing != sorted(crossing):
            raise ValueError(
                "decoder.blocks: the first need cross=null, to read the text alone, and all others cross, to see the "
                "picture"
            )
        return self


class Stage(Spec):
    """Blocks of one kind and width.

    Attributes:
        halve: the first block halves the height and width of the map.
    """

    depth: int = Field(ge=1)
    width: int = Field(ge=4, multiple_of=4)
    block: Annotated[MBConv | GridTransformer, Field(discriminator="kind")]
    halve: bool = True

    @model_validator(mode="after")
    def _fits(self) -> Stage:
        if isinstance(self.block, GridTransformer) and self.width % self.block.head_dim:
            raise ValueError(f"width={self.width} is no multiple of block.head_dim={self.block.head_dim}")
        return self


class CoAtNet(Spec):
    """A classifier of convolutions, then inverted bottlenecks, then transformer blocks, on ever smaller maps (Dai et
    al. 2021). The last map's mean, layer-normed, goes through a dense map and tanh to the logits.

    Attributes:
        image_size: height and width of the pictures.
        channels: of the pictures.
        classes: None: the mean alone, layer-normed.
        drop_path: how often the last block's branches are left out in training; the others' less, in equal steps from
            0 at the first (Huang et al. 2016).
    """

    kind: Literal["coatnet"] = "coatnet"
    image_size: tuple[int, int] = (224, 224)
    channels: int = Field(default=3, ge=1)
    classes: int | None = Field(default=1000, ge=2)
    stem: tuple[ConvLayer, ...] = Field(min_length=1)
    stages: tuple[Stage, ...] = Field(min_length=1)
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    init: Init = Init(std=None)

    @property
    def outputs(self) -> int:
        """Values of a picture's vector."""
        return self.stages[-1].width

    @property
    def maps(self) -> tuple[tuple[int, int], ...]:
        """Height and width of what each stage makes."""
        size, sizes = self.image_size, []
        for layer in self.stem:
            size = layer.outputs(size)
        for stage in self.stages:
            size = (size[0] // 2, size[1] // 2) if stage.halve else size
            sizes.append(size)
        return tuple(sizes)

    @model_validator(mode="after")
    def _fits(self) -> CoAtNet:
        size = self.image_size
        for layer in self.stem:
            size = layer.outputs(size)
        for place, (stage, after) in enumerate(zip(self.stages, self.maps, strict=True)):
            if min(size) < 1 or (stage.halve and (size[0] % 2 or size[1] % 2)):
                height, width = self.image_size
                raise ValueError(
                    f"stages.{place}: a map of {size[0]}x{size[1]} cannot be halved; choose another "
                    f"image_size={height}x{width}, or halve=false"
                )
            size = after
        return self


class ModifiedResNet(Spec):
    """CLIP's residual networks: three convolutions, four stages of bottlenecks, and a vector that the mean of the last
    map's places finds by attention among them (Radford et al. 2021, section 2.4). It has no classes: it is the image
    tower of a `TwoTower`, whose projection is the attention's last linear map.

    Attributes:
        image_size: height and width of the pictures; the last map has a 32nd of them.
        channels: of the pictures.
        width: channels behind the stem; a stage's maps have 4, 8, 16 and 32 times as many.
        depths: bottlenecks of each stage.
        head_dim: of the attention.
    """

    kind: Literal["modified_resnet"] = "modified_resnet"
    image_size: tuple[int, int] = (224, 224)
    channels: int = Field(default=3, ge=1)
    width: int = Field(default=64, ge=2, multiple_of=2)
    depths: tuple[int, int, int, int]
    head_dim: int = Field(default=64, ge=1)
    init: Init = Init(std=None)

    @property
    def outputs(self) -> int:
        """Values of a picture's vector."""
        return 32 * self.width

    @model_validator(mode="after")
    def _fits(self) -> ModifiedResNet:
        height, width = self.image_size
        if height < 1 or width < 1 or height % 32 or width % 32:
            raise ValueError(f"image_size={height}x{width} is halved five times; give multiples of 32")
        if min(self.depths) < 1:
            raise ValueError(f"depths={list(self.depths)}: each stage has at least one bottleneck")
        if self.outputs % self.head_dim:
            raise ValueError(f"32 * width = {self.outputs} is no multiple of head_dim={self.head_dim}")
        return self


class TextTower(Spec):
    """A transformer that makes one vector of a text.

    Attributes:
        causal: a token sees itself and the text before it; else all of the text. The batch's mask says which tokens
            are text.
    """

    embedding: TokenEmbedding
    stack: Stack
    causal: bool = True
    pool: TextPool = LastTokenPool()
    init: Init = Init()

    @model_validator(mode="after")
    def _fits(self) -> TextTower:
        if not self.causal:
            check_both_ways(self.stack, "stack")
        if any(block.cross is not None for block in self.stack.blocks):
            raise ValueError("stack.blocks: a text tower has nothing to cross to; set cross=null")
        if self.causal and isinstance(self.pool, ClassTokenPool):
            raise ValueError("pool.kind=class_token is blind in a causal text; set causal=false, or another pool.kind")
        return self


class Projection(Spec):
    """A linear map to the space that pictures and texts share."""

    bias: bool = False


class TwoTower(Spec):
    """Pictures and texts in one space, where those that belong together are near (Radford et al. 2021).

    Attributes:
        embed_dim: values of a vector in that space.
        image_projection, text_projection: from a tower's vector; None: it is in that space already.
    """

    kind: Literal["two_tower"] = "two_tower"
    image: Annotated[ImageEncoder | ModifiedResNet | CoAtNet | ConvNet, Field(discriminator="kind")]
    text: TextTower
    embed_dim: int = Field(ge=1)
    image_projection: Projection | None = Projection()
    text_projection: Projection | None = Projection()
    similarity: Similarity = Similarity()

    @model_validator(mode="after")
    def _fits(self) -> TwoTower:
        if isinstance(self.image, ImageEncoder) and self.image.head is not None:
            raise ValueError("image.head: a tower makes vectors, no logits; set head=null")
        if isinstance(self.image, CoAtNet | ConvNet) and self.image.classes is not None:
            raise ValueError("image.classes: a tower makes vectors, no logits; set classes=null")
        towers = (
            ("image", self.image_projection, self.image.outputs),
            ("text", self.text_projection, self.text.stack.width),
        )
        for name, projection, outputs in towers:
            if projection is None and outputs != self.embed_dim:
                raise ValueError(
                    f"{name}_projection=null needs a tower of embed_dim={self.embed_dim}, and the {name} tower's "
                    f"vectors have {outputs} values; give it a projection"
                )
        return self
