"""What Corestone and Hugging Face call the same things: one record per model class of theirs.

A new class is a new record; the code that reads and writes folders knows none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from corestone.models.picture_spec import ImageEncoder, TwoTower
from corestone.models.spec import Decoder, Encoder, EncoderDecoder
from corestone.nn.spec import Stack

Tree = dict[str, Any]

Exchanged = Decoder | Encoder | EncoderDecoder
"""The shapes of computation that model classes of the library have."""


Mapped = Exchanged | ImageEncoder | TwoTower
"""The shapes whose parameters another library has under names of its own."""


def stacks_of(spec: Mapped) -> dict[str, Stack]:
    """A record's stacks by their names in it."""
    if isinstance(spec, EncoderDecoder):
        return {"encoder": spec.encoder, "decoder": spec.decoder}
    if isinstance(spec, TwoTower):
        image = {"image": spec.image.stack} if isinstance(spec.image, ImageEncoder) else {}
        return {**image, "text": spec.text.stack}
    return {"stack": spec.stack}


@dataclass(frozen=True)
class Name:
    """One parameter, or one statistic of a batch norm, on both sides; `{layer}` stands for the layer's number.

    Attributes:
        theirs: several names are parts of one parameter here, one above the other.
        layout: how the library keeps it: "plain" as here; "transposed" as (in, out) where a linear map has (out, in);
            "by_head" with the queries', keys' and values' rows of one head together, here all queries come first;
            "batched" with an axis of length 1 in front; "single" without the one that is here; "kernel" as a
            convolution's (out, channels, height, width) where the linear map of a patch has (out, channels * height *
            width).
        gated: the name goes with feed-forwards that are gated, or that are not; None: with both.
    """

    ours: str
    theirs: str | tuple[str, ...]
    layout: Literal["plain", "transposed", "by_head", "batched", "single", "kernel"] = "plain"
    gated: bool | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """Their names, of which there may be one."""
        return (self.theirs,) if isinstance(self.theirs, str) else self.theirs


@dataclass(frozen=True)
class Tensors:
    """How a model class names its tensors.

    Attributes:
        names: the parameters; those that a record does not ask for are passed over.
        prefixes: what may stand before every name of the body; the first is written on export.
        heads: beginnings of names that stand without prefix.
        repeats: names under which a tensor may be stored once more, and those of the tensors that they must equal;
            where the record has a parameter of that name, it is no repetition.
        old_endings: endings of names in early checkpoints, and what they became.
        buffers: tensors that hold no weights and may stand in a file.
    """

    names: tuple[Name, ...]
    prefixes: tuple[str, ...]
    heads: tuple[str, ...] = ()
    repeats: Mapping[str, str] = field(default_factory=dict)
    old_endings: Mapping[str, str] = field(default_factory=dict)
    buffers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """How config.json says what a record says.

    Attributes:
        plainly: config.json in the words below, given the names of the tensors that are stored; for classes whose words
            have changed their meaning.
        keys: the settings of config.json by the names that `settings.py` gives them.
        needed: settings that must be positive whole numbers: a guessed number of heads would load and compute something
            else.
        defaults: what the library assumes where config.json is silent, by the names in config.json.
        activations: names of each activation there, the first one written on export,
        gated: and those of them that stand for a gated feed-forward.
        only: settings that change the arithmetic, with the values that can be expressed here.
        afresh: settings that only matter to who starts from new weights, with the value that can be kept; another one
            is noted.
        shape: what is the same in all models of the class: in `norm`, `block`, `mixer`, `feedforward`, `embedding`,
            `rotary` and `init`, and whether there is a `final_norm` and an `embedding_norm`.
        parts: what the record has beside embedding, stacks and init (or other than these), given the settings by our
            names and the `norm` made of them.
    """

    keys: Mapping[str, str]
    needed: tuple[str, ...]
    defaults: Mapping[str, Any]
    activations: Mapping[str, tuple[str, ...]]
    only: Mapping[str, tuple[Any, ...]]
    plainly: Callable[[Mapping[str, Any], Collection[str]], Mapping[str, Any]] = lambda config, stored: config
    gated: tuple[str, ...] = ()
    afresh: Mapping[str, Any] = field(default_factory=dict)
    shape: Mapping[str, Any] = field(default_factory=dict)
    parts: Callable[[Tree], Tree] = lambda told: {}


@dataclass(frozen=True)
class Named:
    """A model class of another library.

    Attributes:
        architecture: the class. Classes of one shape differ in their heads, and a folder's tensors tell which.
    """

    architecture: str
    tensors: Tensors


@dataclass(frozen=True)
class Family(Named):
    """A model class of the `transformers` library and how a record says the same.

    Attributes:
        record: the shape of computation that it is here.
        model_type: its name in config.json.
        loader: the class whose `from_pretrained` loads it,
        loader_options: and what must be given beside the folder.
        outputs: what it computes, by our names (see `agreement.outputs_of`) and by the library's.
    """

    record: type[Exchanged]
    model_type: str
    loader: str
    outputs: Mapping[str, str]
    settings: Settings
    loader_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def loading(self) -> str:
        """The call that loads an exported folder, as users write it."""
        options = "".join(f", {name}={value!r}" for name, value in self.loader_options.items())
        return f"{self.loader}.from_pretrained(folder{options})"


ACTIVATIONS = {"gelu_tanh": ("gelu_new", "gelu_pytorch_tanh"), "relu": ("relu",), "silu": ("silu", "swish")}
"""Those whose names there mean the same in every class but GPT-1's."""

ANY_FAMILY: Mapping[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
}

TIED: Mapping[str, tuple[Any, ...]] = {**ANY_FAMILY, "tie_word_embeddings": (True,)}
