"""Records of the block table: what a transformer layer is made of.

An option enters a record when a paper of the zoo uses it and a parity test covers it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from corestone.core.spec import Spec


class Norm(Spec):
    """Normalisation over the width, with a gain and a bias.

    Attributes:
        kind: "layer" takes off the mean and divides by the deviation (Ba et al. 2016); "rms" divides by the root of the
            mean square and has a gain alone (Zhang and Sennrich 2019).
        bias: PaLM's layer norms have a gain alone (Chowdhery et al. 2022, section 2).
    """

    kind: Literal["layer", "rms"] = "layer"
    eps: float = Field(default=1e-5, gt=0)
    bias: bool = True

    @model_validator(mode="after")
    def _fits(self) -> Norm:
        if self.kind == "rms" and self.bias:
            raise ValueError("a norm of kind=rms has no bias; set bias=false")
        return self


class Rotary(Spec):
    """Queries and keys turned by angles that grow with the position (Su et al. 2021, section 3.4).

    Attributes:
        dims: the first so many values of each head are turned, the others stay.
        interleaved: pairs are neighbours (GPT-J); else the first half pairs with the second (PaLM).
    """

    kind: Literal["rotary"] = "rotary"
    dims: int = Field(ge=2, multiple_of=2)
    interleaved: bool = False


class Alibi(Spec):
    """Scores fall linearly with the distance, at a slope per head (Press et al. 2022, section 3)."""

    kind: Literal["alibi"] = "alibi"


class Buckets(Spec):
    """A learned bias per head and bucket of distances, one table for the whole stack (Raffel et al. 2020, section 2.1).

    Attributes:
        num: buckets; half of them for one distance each, the others wider and wider up to `max_distance`.
    """

    kind: Literal["buckets"] = "buckets"
    num: int = Field(default=32, ge=4, multiple_of=4)
    max_distance: int = Field(default=128, ge=4)


class Attention(Spec):
    """Multi-head attention (Vaswani et al. 2017, section 3.2).

    Attributes:
        num_kv_heads: heads of keys and values, each shared by as many query heads (Shazeer 2019: 1); None: one each.
        bias_in, bias_out: whether the maps to queries, keys and values, and the map behind, have biases.
        position: how scores know positions; None where the embedding tells them.
        scale: factor of the scores; None: 1/sqrt(head_dim).
        window: a token sees itself and the `window - 1` tokens before it; None sees everything the mask allows.
        conv_width: queries, keys and values each mix with those of the `conv_width - 1` tokens before, channel by
            channel (So et al. 2021, section 4); None: they do not.
        shared_qk: queries are a linear map, over all heads at once, of the keys behind their convolution (So et al.
            2021, code).
        dropout: on the attention probabilities.
    """

    kind: Literal["attention"] = "attention"
    num_heads: int = Field(ge=1)
    num_kv_heads: int | None = Field(default=None, ge=1)
    head_dim: int = Field(ge=1)
    bias_in: bool = True
    bias_out: bool = True
    position: Annotated[Rotary | Alibi | Buckets, Field(discriminator="kind")] | None = None
    scale: float | None = Field(default=None, gt=0)
    window: int | None = Field(default=None, ge=1)
    conv_width: int | None = Field(default=None, ge=2)
    shared_qk: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_kv_heads or self.num_heads

    @property
    def made_heads(self) -> int:
        """Heads that are made of what the layer reads: of keys and values, and of queries unless keys become these."""
        return 2 * self.kv_heads + (0 if self.shared_qk else self.num_heads)

    @model_validator(mode="after")
    def _fits(self) -> Attention:
        if self.num_heads % self.kv_heads:
            raise ValueError(f"num_heads={self.num_heads} is no multiple of num_kv_heads={self.kv_heads}")
        if self.shared_qk and self.kv_heads != self.num_heads:
            raise ValueError(
                f"shared_qk makes queries of as many heads of keys: leave num_kv_heads={self.kv_heads} out, or set "
                "shared_qk=false"
            )
        if isinstance(self.position, Rotary) and self.position.dims > self.head_dim:
            raise ValueError(f"position.dims={self.position.dims} exceeds head_dim={self.head_dim}")
        return self


class H3(Spec):
    """Two state-space models between products, `q * diagonal(shift(k) * v)` (Fu et al. 2023, section 3.2).

    Attributes:
        state_dim: real values that each model remembers per channel. The diagonal one has half as many complex ones,
            each of which stands for its conjugate too.
    """

    kind: Literal["h3"] = "h3"
    state_dim: int = Field(default=64, ge=2, multiple_of=2)


def _attention_unless_named(mixer: Any) -> Any:
    return {"kind": "attention", **mixer} if isinstance(mixer, Mapping) else mixer


Mixer = Annotated[Attention | H3, Field(discriminator="kind"), BeforeValidator(_attention_unless_named)]
"""What lets a token see others; attention where a recipe names no kind."""


class FeedForward(Spec):
    """Two linear maps with an activation between them (Vaswani et al. 2017, section 3.3).

    Attributes:
        activation: "gelu" is the exact one (Hendrycks and Gimpel 2016), "gelu_tanh" and "quick_gelu", `x sigmoid(1.702
            x)`, their approximations of it.
        gated: the activation of one map multiplies the values of another (Shazeer 2020); silu makes it SwiGLU.
        dropout: on the hidden values (Raffel et al. 2020, code).
    """

    kind: Literal["feedforward"] = "feedforward"
    hidden_dim: int = Field(ge=1)
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "relu_squared", "silu"] = "gelu_tanh"
    gated: bool = False
    bias: bool = True
    dropout: float = Field(default=0.0, ge=0, lt=1)


class Block(Spec):
    """One layer: per branch `y = norm_after(x + dropout(f(norm_in(x))))`, absent parts being the identity.

    Attributes:
        norm_at: "in" is pre-norm (GPT-2), "after" is post-norm (GPT-1); "in_out" stands in front of mixer and
            cross, and behind the feed-forward before that is added to the residual (So et al. 2021, code).
        residual: "parallel" adds both branches, computed from one norm of x, to x at once (Wang and Komatsuzaki 2021).
        cross: attention to another text's hidden values, between mixer and feed-forward; None: there is none.
        dropout: on each branch, before it is added to the residual.
    """

    norm: Norm = Norm()
    norm_at: Literal["in", "after", "in_out"] = "in"
    residual: Literal["sequential", "parallel"] = "sequential"
    mixer: Mixer
    cross: Attention | None = None
    feedforward: FeedForward
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _fits(self) -> Block:
        if self.residual == "parallel" and self.norm_at != "in":
            raise ValueError("residual=parallel goes with norm_at=in: its branches share the norm in front of them")
        if self.residual == "parallel" and self.cross is not None:
            raise ValueError("residual=parallel has no cross: it adds two branches at once")
        if self.cross is not None:
            _check_looks_elsewhere(self.cross, "cross")
        return self


def _check_looks_elsewhere(attention: Attention, where: str) -> None:
    """Refuse what has a meaning only among the tokens of one row."""
    for name in ("shared_qk", "conv_width", "window", "position"):
        if getattr(attention, name):
            raise ValueError(f"{where}.{name}: cross-attention looks at another text, which has no such order")


class Stack(Spec):
    """Layers one after the other, one record each, and an optional norm behind the last.

    Attributes:
        dropout: behind that norm (Raffel et al. 2020, code).
    """

    width: int = Field(ge=1)
    blocks: tuple[Block, ...] = Field(min_length=1)
    final_norm: Norm | None = Norm()
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @property
    def attention(self) -> tuple[Attention, ...]:
        """The token mixers that attend."""
        return tuple(block.mixer for block in self.blocks if isinstance(block.mixer, Attention))

    @model_validator(mode="after")
    def _fits(self) -> Stack:
        mixers = [mixer for mixer in self.attention if isinstance(mixer.position, Buckets)]
        if len({(mixer.position, mixer.num_heads) for mixer in mixers}) > 1:
            raise ValueError("blocks: layers with bucketed positions share a table, so these and num_heads must agree")
        return self


class LearnedPositions(Spec):
    """A table of position vectors, added to the tokens' (Radford et al. 2018).

    Attributes:
        offset: rows before the first that a position reads (OPT: 2, left over from padding).
    """

    kind: Literal["learned"] = "learned"
    offset: int = Field(default=0, ge=0)


class TokenEmbedding(Spec):
    """Token table, and what is done to its rows before the first layer.

    Attributes:
        context_length: the most tokens a row may have.
        position: None where the layers know positions by themselves.
        types: rows of a table that tells the parts of a pair apart (Devlin et al. 2018, section 3); None: none.
        width: of the table; None: the stack's. Another width is mapped to the stack's.
        project: "token" maps the token's row alone and back before the head (OPT-350M); "sum" maps, with a bias, the
            normed sum of token, position and type, whose tables all have that width (Clark et al. 2020, appendix A).
        norm: behind it (BLOOM, BERT).
    """

    vocab_size: int = Field(ge=1)
    context_length: int = Field(ge=1)
    position: LearnedPositions | None = LearnedPositions()
    types: int | None = Field(default=None, ge=1)
    width: int | None = Field(default=None, ge=1)
    project: Literal["token", "sum"] = "token"
    norm: Norm | None = None
    dropout: float = Field(default=0.0, ge=0, lt=1)


class LearnedGrid(Spec):
    """A table of position vectors, one per patch and one for a class token (Dosovitskiy et al. 2021, section 3.1)."""

    kind: Literal["learned_grid"] = "learned_grid"


class PatchEmbedding(Spec):
    """A picture as a row of tokens: its squares of pixels, each mapped linearly (Dosovitskiy et al. 2021, section 3.1).

    Attributes:
        image_size: height and width in pixels; those beyond the last whole patch go unused.
        class_token: whether a learned token stands before the patches.
        position: None where the model does not know where a patch was.
        norm: behind it (Radford et al. 2021, section 2.4).
    """

    image_size: tuple[int, int]
    channels: int = Field(default=3, ge=1)
    patch_size: int = Field(ge=1)
    bias: bool = True
    class_token: bool = True
    position: LearnedGrid | None = LearnedGrid()
    norm: Norm | None = None
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches from top to bottom and from left to right."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def patches(self) -> int:
        """Patches of a picture."""
        return self.grid[0] * self.grid[1]

    @property
    def tokens(self) -> int:
        """Patches, and the class token where there is one."""
        return self.patches + self.class_token

    @property
    def patch_values(self) -> int:
        """Numbers in a patch."""
        return self.channels * self.patch_size**2

    @model_validator(mode="after")
    def _fits(self) -> PatchEmbedding:
        if min(self.image_size) < self.patch_size:
            height, width = self.image_size
            raise ValueError(f"image_size={height}x{width} has no room for a patch of patch_size={self.patch_size}")
        return self


class ClassTokenPool(Spec):
    """A picture as its class token (Dosovitskiy et al. 2021, section 3.1), a text as its first token (Devlin et al.
    2018, section 3.1)."""

    kind: Literal["class_token"] = "class_token"


class MeanPool(Spec):
    """A picture as the mean of its patches (Dosovitskiy et al. 2021, appendix D.3), a text as that of its tokens."""

    kind: Literal["mean"] = "mean"


class AttentionPool(Spec):
    """A picture as what a learned query finds among its patches, then `y = x + feedforward(norm(x))` (Zhai et al.
    2022).

    Attributes:
        queries: vectors that are found; several are no pool of an image encoder, but what captions are written from (Yu
            et al. 2022, section 3.2).
        feedforward: None: `y = norm(x)` (Yu et al. 2022: the pool is one layer of attention).
    """

    kind: Literal["attention"] = "attention"
    queries: int = Field(default=1, ge=1)
    attention: Attention
    norm: Norm = Norm()
    feedforward: FeedForward | None

    @model_validator(mode="after")
    def _fits(self) -> AttentionPool:
        _check_looks_elsewhere(self.attention, "attention")
        return self


Pool = Annotated[ClassTokenPool | MeanPool | AttentionPool, Field(discriminator="kind")]
"""How hidden values of a picture's tokens become one vector."""


class LastTokenPool(Spec):
    """A text as its last token: the end of text where texts end with one (Radford et al. 2021, section 2.4)."""

    kind: Literal["last_token"] = "last_token"


TextPool = Annotated[LastTokenPool | ClassTokenPool | MeanPool, Field(discriminator="kind")]
"""How hidden values of a text's tokens become one vector."""


class InitRule(Spec):
    """The deviation that parameters begin with whose name matches one of the glob patterns."""

    match: tuple[str, ...] = Field(min_length=1)
    std: float = Field(ge=0)


class Init(Spec):
    """Normal initialisation; gains start at 1, biases at 0.

    Attributes:
        std: of every weight matrix; None: 1/sqrt(inputs), per matrix.
        token_std: of the token table; None: `std`.
        position_std: of the position table.
        scale_residual: divide the std of each branch's last matrix by sqrt(number of branches)
            (Radford et al. 2019, section 2.3).
        rules: deviations by name, in place of all of the above; a parameter is claimed by one rule at most (muP: Yang
            et al. 2022).
    """

    std: float | None = Field(default=0.02, gt=0)
    token_std: float | None = Field(default=None, gt=0)
    position_std: float = Field(default=0.02, gt=0)
    scale_residual: bool = False
    rules: tuple[InitRule, ...] | None = None


class Mogrifier(Spec):
    """Before an LSTM's step its input and its state gate each other in turn (Melis et al. 2020, section 2).

    Attributes:
        rounds: of gating; the first gates the input by the state.
        rank: each gate's matrix is a product of two with so many values between them; None: one full matrix.
        bias: whether gates have biases (the paper's code does, its equations do not).
    """

    rounds: int = Field(ge=1)
    rank: int | None = Field(default=None, ge=1)
    bias: bool = True


class LSTM(Spec):
    """A layer of long short-term memory with a forget gate (Gers et al. 2000).

    Attributes:
        mogrifier: None: a plain one.
        cap_input_gate: the input gate is at most 1 - forget gate, so that memories stay within [-1, 1] (Melis et al.
            2020, code).
        state_dropout: on the state a step reads, the same values all along a row (Gal and Ghahramani 2016).
    """

    mogrifier: Mogrifier | None = None
    cap_input_gate: bool = False
    state_dropout: float = Field(default=0.0, ge=0, lt=1)


class ConvLayer(Spec):
    """A convolution over pictures, without bias, then its norm and its activation.

    Attributes:
        kernel: height and width of the square that an output sees.
        stride: inputs from one output to the next.
        padding: zeros around the input, on each side.
        norm: over the rows and places of a batch (Ioffe and Szegedy 2015); None: there is none.
    """

    channels: int = Field(ge=1)
    kernel: int = Field(ge=1)
    stride: int = Field(default=1, ge=1)
    padding: int = Field(default=0, ge=0)
    norm: Literal["batch"] | None = "batch"
    activation: Literal["relu", "gelu"] | None = "relu"

    def outputs(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of what it makes of a map of this size; 0 or less where the kernel does not fit."""
        height, width = ((side + 2 * self.padding - self.kernel) // self.stride + 1 for side in size)
        return height, width


class Gradients(Spec):
    """Fixed maps in front of convolutions: how much brightness changes in each direction in each cell, whatever the
    contrast around (Dalal and Triggs 2005, section 6), and the picture's own channels, cell by cell, behind.

    Attributes:
        cell: pixels along a side; the maps' height and width are the picture's divided by it.
        directions: over half a turn; dark to bright and bright to dark are one.
        around: cells on each side over which contrast is evened out.
        floor: contrast that is small beside this, in units of the pictures' values, is not raised to that of others.
    """

    cell: int = Field(default=2, ge=1)
    directions: int = Field(default=9, ge=3)
    around: int = Field(default=1, ge=0)
    floor: float = Field(default=0.07, gt=0)


class MBConv(Spec):
    """An inverted bottleneck with squeeze and excitation (Sandler et al. 2018; Hu et al. 2018), batch-normed in front,
    as CoAtNet has it: four times as wide inside as its output (Dai et al. 2021, appendix A).

    Attributes:
        stride_at: which convolution skips places where the map is halved: the first, 1 x 1, as in the paper, or the
            depthwise one, as in most implementations.
    """

    kind: Literal["mbconv"] = "mbconv"
    stride_at: Literal["expand", "depthwise"] = "expand"


class GridTransformer(Spec):
    """Attention over all places of a map, with a learned bias per head and offset between two places, and a
    feed-forward four times as wide, layer-normed in front (Dai et al. 2021, section 2.1 and appendix A)."""

    kind: Literal["transformer"] = "transformer"
    head_dim: int = Field(default=32, ge=1)
