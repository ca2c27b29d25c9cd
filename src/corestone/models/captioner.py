"""The captioner: a picture and a text as vectors of one space, and the text written beside the picture.

Shape letters: B batch, T tokens, Q queries (what captions are written from), D width, E width of the shared space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corestone.core.batch import ImageBatch, ImageTextBatch, TextBatch
from corestone.core.mask import Mask
from corestone.core.protocols import Output
from corestone.models.convnet import ConvNetModel
from corestone.models.decoder import build_head
from corestone.models.flops import pool_flops, stack_flops
from corestone.models.picture_spec import Captioner
from corestone.models.similarity import LearnedSimilarity
from corestone.nn.cache import KVCache, empty_cache
from corestone.nn.embedding import TokenEmbeddingLayer
from corestone.nn.init import started, without_values
from corestone.nn.lowered import Memory
from corestone.nn.norm import at_least_float32, build_norm
from corestone.nn.patches import PatchEmbeddingLayer, check_pictures
from corestone.nn.pooling import EVERYTHING, AttentionPoolLayer
from corestone.nn.spec import Norm, Stack
from corestone.nn.stack import StackLayer


class CaptionerModel(nn.Module):
    """`model(batch)` gives hidden values (B, T, D) of the captions, and the unit vectors (B, E) of pictures and texts
    as the intermediate values `image` and `text`; `model.head(hidden)` gives logits (B, T, V).

    Satisfies `objectives.contrastive.PairModel`. A text's rows are filled up on the right; its vector stands behind the
    last real token of each row, in front of what fills the row up, so causality alone keeps that out of sight. Texts
    are read causally whatever their mask says.
    """

    generates = "captions"
    ways_in = ("image", "text", "encode", "decode")
    """Methods by which objectives enter the model, beside calling it (`parallel.compiled`)."""

    def __init__(self, spec: Captioner) -> None:
        super().__init__()
        self.spec = spec
        width, before = spec.decoder.width, int(spec.image_embedding.class_token)
        self.stem = ConvNetModel(spec.stem) if spec.stem is not None else None
        self.image_embedding = PatchEmbeddingLayer(spec.cut, width)
        self.image_stack = StackLayer(spec.image_stack)
        self.caption_pool = AttentionPoolLayer(spec.caption_pool, width, before)
        self.contrast_pool = AttentionPoolLayer(spec.contrast_pool, width, 0)
        self.image_out = nn.Linear(width, spec.shared_width, bias=False)
        self.embedding = TokenEmbeddingLayer(spec.embedding, width)
        self.text_token = nn.Embedding(1, width)
        self.decoder = StackLayer(spec.decoder)
        self.text_norm = build_norm(spec.decoder.final_norm or Norm(), width)
        self.text_out = nn.Linear(width, spec.shared_width, bias=False)
        self.head = build_head(spec.head, self.embedding.token, width)
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
        return self.spec.image_embedding.image_size

    @property
    def channels(self) -> int:
        """Of a picture."""
        return self.spec.image_embedding.channels

    @property
    def vocab_size(self) -> int:
        """Rows of the token table."""
        return self.spec.embedding.vocab_size

    @property
    def context_length(self) -> int:
        """The most tokens a text may have."""
        return self.spec.embedding.context_length

    @property
    def longest_answer(self) -> int | None:
        """The most tokens that can be written, where positions are learned; else None."""
        return None if self.spec.embedding.position is None else self.context_length

    def encode(self, batch: ImageBatch) -> Tensor:
        """What captions are written from, (B, Q, D)."""
        images_BCHW = batch.images_BCHW
        if self.stem is not None:
            check_pictures(images_BCHW, self.channels, self.image_size)
            images_BCHW = self.stem.map(images_BCHW)
        x_BSD = self.image_embedding(images_BCHW)
        positions_BS = torch.arange(x_BSD.shape[1], device=x_BSD.device).expand(x_BSD.shape[:2])
        return self.caption_pool.look(self.image_stack(x_BSD, positions_BS, Mask(causal=False)))

    def image(self, batch: ImageBatch) -> Tensor:
        """Unit vectors (B, E), float32."""
        return self._image_vector(self.encode(batch))

    def image_features(self, batch: ImageBatch) -> Tensor:
        """Vectors (B, D) of pictures in front of the projection to the shared space."""
        features_BD: Tensor = self.contrast_pool(self.encode(batch))
        return features_BD

    def text(self, batch: TextBatch) -> Tensor:
        """Unit vectors (B, E), float32."""
        return self._text_vector(*self._read(batch))

    def decode(self, target: TextBatch, found_BQD: Tensor | None, cache: KVCache | None = None) -> Output:
        """Hidden values of texts beside `encode`'s of their pictures; a cache remembers those, which are None then."""
        mask = replace(target.mask, causal=True)
        memory = Memory(found_BQD, EVERYTHING)
        return self._scaled(self.decoder(self.embedding(target), target.positions_BT, mask, cache, memory))

    def forward(self, batch: ImageTextBatch) -> Output:
        """Captions and both vectors. Dropout is drawn for `image`, then for `text`, then for the rest."""
        found_BQD = self.encode(batch.images)
        image_BE = self._image_vector(found_BQD)
        x_BTD, lengths_B = self._read(batch.texts)
        text_BE = self._text_vector(x_BTD, lengths_B)
        layers = range(self.spec.unimodal, len(self.spec.decoder.blocks))
        tokens_BTD = x_BTD[:, :-1]  # the text's own vector is behind every token, or in the place of one that fills up
        positions_BT = batch.texts.positions_BT
        x_BTD = self.decoder.through(layers, tokens_BTD, positions_BT, Mask(), None, Memory(found_BQD, EVERYTHING))
        hidden = self._scaled(self.decoder.ended(x_BTD)).hidden
        return Output(hidden=hidden, intermediates={"image": image_BE, "text": text_BE})

    def after_update(self, masters: Mapping[str, Tensor] | None = None) -> None:
        """Bring the scale back (`LearnedSimilarity.after_update`)."""
        self.similarity.after_update(masters)

    def empty_cache(self, batch: int, capacity: int, dtype: torch.dtype) -> KVCache:
        """Room for `batch` rows of at most `capacity` written tokens, in `dtype`, where the weights are."""
        return empty_cache(self.spec.decoder, batch, capacity, dtype, self.embedding.token.weight.device)

    def training_flops(self, tokens: int, contrast: bool = True) -> float:
        """Floating-point operations of forward and backward per picture and text of so many tokens; pictures themselves
        have no gradient.

        Args:
            contrast: whether the vectors are made.
        """
        spec, width = self.spec, self.spec.decoder.width
        embedding, queries = spec.cut, spec.caption_pool.queries
        flops = (4.0 if self.stem is None else 6.0) * embedding.patches * embedding.patch_values * width
        flops += 0.0 if self.stem is None else self.stem.training_flops()
        flops += embedding.tokens * stack_flops(spec.image_stack, embedding.tokens, causal=False)
        flops += pool_flops(spec.caption_pool, width, embedding.patches)
        read = tokens + int(contrast)
        flops += read * stack_flops(_part(spec.decoder, slice(0, spec.unimodal)), read, causal=True)
        writing = _part(spec.decoder, slice(spec.unimodal, None))
        flops += tokens * (stack_flops(writing, tokens, causal=True, sources=queries) + 6.0 * width * self.vocab_size)
        if contrast:
            flops += pool_flops(spec.contrast_pool, width, queries) + 12.0 * width * spec.shared_width
        return flops

    def _read(self, batch: TextBatch) -> tuple[Tensor, Tensor]:
        """The residual stream (B, T + 1, D) behind the blocks that see the text alone, and how many real tokens each
        row has: so many stand before its vector."""
        tokens_BTD, lengths_B = self.embedding(batch), lengths(batch)
        B, T, _ = tokens_BTD.shape
        places_BT = torch.arange(T + 1, device=tokens_BTD.device).expand(B, T + 1)
        own = at_least_float32(self.text_token.weight)
        x_BTD = torch.where((places_BT == lengths_B[:, None])[..., None], own, F.pad(tokens_BTD, (0, 0, 0, 1)))
        return self.decoder.through(range(self.spec.unimodal), x_BTD, places_BT, Mask()), lengths_B

    def _text_vector(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        last_BD = x_BTD[torch.arange(len(x_BTD), device=x_BTD.device), lengths_B]
        normed_BD = self.text_norm(last_BD).to(self.text_out.weight.dtype)
        return F.normalize(at_least_float32(self.text_out(normed_BD)), dim=-1)

    def _image_vector(self, found_BQD: Tensor) -> Tensor:
        return F.normalize(at_least_float32(self.image_out(self.contrast_pool(found_BQD))), dim=-1)

    def _scaled(self, hidden_BTD: Tensor) -> Output:
        return Output(hidden=hidden_BTD if self.spec.head.scale == 1.0 else hidden_BTD * self.spec.head.scale)


def lengths(batch: TextBatch) -> Tensor:
    """Real tokens (B,) of each row: those of its first token's segment, behind which it is filled up."""
    segments_BT = batch.mask.segments_BT
    if segments_BT is None:
        return torch.full_like(batch.tokens_BT[:, 0], batch.tokens_BT.shape[1])
    return (segments_BT == segments_BT[:, :1]).sum(dim=1)


def _part(stack: Stack, layers: slice) -> Stack:
    return stack.model_copy(update={"blocks": stack.blocks[layers]})


def build_captioner(spec: Captioner, seed: int = 0, device: torch.device | str = "cpu") -> CaptionerModel:
    """Build a captioner with initial values; on the meta device, without values and in milliseconds."""
    with without_values():
        model = CaptionerModel(spec)
    branches = 2 * len(spec.image_stack.blocks) + sum(3 if b.cross is not None else 2 for b in spec.decoder.blocks)
    model = started(model, device, spec.init, branches, seed)
    model.similarity.start()
    return model
