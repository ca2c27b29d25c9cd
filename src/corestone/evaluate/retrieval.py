"""Finding a picture's text among all texts, and a text's picture among all pictures.

Shape letters: I pictures, T texts, R rows of a chunk, E width of the shared space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corestone.core.batch import ImageBatch, TextBatch
from corestone.core.errors import DataError
from corestone.core.metric import Metric
from corestone.evaluate.intervals import proportion_interval, ratio_interval
from corestone.nn.modes import evaluation_mode

FIRST = (1, 5, 10)
CHUNK = 2**24
"""Similarities that exist at a time: 64 MB in float32."""


class RetrievalScore:
    """Scores a model of pairs. Satisfies `core.protocols.Evaluator`.

    Args:
        pictures, texts: give all of them for a batch size, in order.
        owner_T: number of the picture that each text describes.
        wording_T: a number for what each text says, the same for texts that say the same; None: all differ.
        batch_size: rows at a time; changes speed and memory, not the result.
    """

    def __init__(
        self,
        pictures: Callable[[int], Iterator[ImageBatch]],
        texts: Callable[[int], Iterator[TextBatch]],
        owner_T: Tensor,
        batch_size: int,
        reading: str = "",
        wording_T: Tensor | None = None,
    ) -> None:
        self._pictures, self._texts, self._owner_T, self._wording_T = pictures, texts, owner_T, wording_T
        self._batch_size, self._reading = batch_size, reading

    def run(self, model: Any) -> Iterator[Metric]:
        """Yield what `retrieval_metrics` does."""
        yield from self.metrics(*self.vectors(model))

    def metrics(self, images_IE: Tensor, texts_TE: Tensor) -> Iterator[Metric]:
        """Yield what `retrieval_metrics` does of these vectors."""
        device = images_IE.device
        wording_T = None if self._wording_T is None else self._wording_T.to(device)
        yield from retrieval_metrics(images_IE, texts_TE, self._owner_T.to(device), self._reading, wording_T)

    def vectors(self, model: Any) -> tuple[Tensor, Tensor]:
        """Those of all pictures (I, E) and of all texts (T, E), float32."""
        device = next(iter(model.named_parameters()))[1].device
        with evaluation_mode(model), torch.inference_mode():
            images_IE = torch.cat([model.image(batch.to(device)).float() for batch in self._pictures(self._batch_size)])
            texts_TE = torch.cat([model.text(batch.to(device)).float() for batch in self._texts(self._batch_size)])
        return images_IE, texts_TE


def retrieval_metrics(
    images_IE: Tensor, texts_TE: Tensor, owner_T: Tensor, reading: str = "", wording_T: Tensor | None = None
) -> Iterator[Metric]:
    """Yield `text_recall_at_K` (a picture for which one of its own texts is among the K most similar texts) and
    `image_recall_at_K` (a text whose picture is among the K most similar pictures) for K = 1, 5, 10.

    A text of another picture that says what one of the picture's own says is as right as that one: no model can tell
    them apart. Others that are just as similar count as more similar, so a model that says the same of everything finds
    nothing. A picture's texts are no independent trials: intervals of the second resample pictures with all their
    texts.

    Args:
        owner_T: number of the picture that each text describes.
        wording_T: a number for what each text says; None: all differ.

    Raises:
        DataError: a text describes no picture of these, or a picture has no text.
    """
    count = len(images_IE)
    owned_I = torch.bincount(owner_T, minlength=count)
    if len(owner_T) != len(texts_TE) or len(owned_I) > count:
        raise DataError(
            f"evaluation: {len(texts_TE):,} texts name pictures up to number {len(owned_I) - 1:,} in {len(owner_T):,} "
            f"entries, and there are {count:,} pictures; give each text one of them"
        )
    if bool((owned_I == 0).any()):
        lonely = int((owned_I == 0).nonzero()[0])
        raise DataError(f"evaluation: picture {lonely:,} has no text; leave it out")
    if wording_T is None:
        wording_T = torch.arange(len(owner_T), device=owner_T.device)
    before_I = _texts_before_own(images_IE, texts_TE, owner_T, wording_T)
    before_T = _pictures_before_own(images_IE, texts_TE, owner_T, wording_T)
    owners = owner_T.cpu().numpy()
    said = "; ".join(filter(None, [f"among {len(texts_TE):,} texts, any of the picture's own", reading]))
    for first in FIRST:
        hits = int((before_I < first).sum())
        ends = proportion_interval(hits, count)
        yield Metric(f"text_recall_at_{first}", hits / count, "share of pictures", count, ends, said)
    said = "; ".join(filter(None, [f"among {count:,} pictures", reading]))
    for first in FIRST:
        hits_I = np.bincount(owners, before_T < first, count).astype(np.float64)
        interval = ratio_interval(hits_I, np.bincount(owners, minlength=count).astype(np.float64))
        value = float(hits_I.sum()) / len(owners)
        yield Metric(f"image_recall_at_{first}", value, "share of texts", len(owners), interval, said)


def _texts_before_own(images_IE: Tensor, texts_TE: Tensor, owner_T: Tensor, wording_T: Tensor) -> NDArray[np.int64]:
    """How many texts of others are at least as similar to each picture as its most similar own one."""
    found, size, wordings = [], max(1, CHUNK // len(texts_TE)), int(wording_T.max()) + 1
    for first in range(0, len(images_IE), size):
        some_RE = images_IE[first : first + size]
        inside_T = (owner_T >= first) & (owner_T < first + len(some_RE))
        says_RW = torch.zeros(len(some_RE), wordings, dtype=torch.bool, device=owner_T.device)
        says_RW[owner_T[inside_T] - first, wording_T[inside_T]] = True
        similar_RT, own_RT = some_RE @ texts_TE.T, says_RW[:, wording_T]
        best_R1 = similar_RT.masked_fill(~own_RT, -torch.inf).amax(dim=1, keepdim=True)
        found.append(((similar_RT >= best_R1) & ~own_RT).sum(dim=1))
    return torch.cat(found).cpu().numpy()


def _pictures_before_own(images_IE: Tensor, texts_TE: Tensor, owner_T: Tensor, wording_T: Tensor) -> NDArray[np.int64]:
    """How many pictures of other texts are at least as similar to each text as the most similar of its own."""
    found, size = [], max(1, CHUNK // max(len(images_IE), len(texts_TE)))
    for some_RE, wording_R in zip(texts_TE.split(size), wording_T.split(size), strict=True):
        row, text = (wording_R[:, None] == wording_T).nonzero(as_tuple=True)
        own_RI = torch.zeros(len(some_RE), len(images_IE), dtype=torch.bool, device=owner_T.device)
        own_RI[row, owner_T[text]] = True
        similar_RI = some_RE @ images_IE.T
        best_R1 = similar_RI.masked_fill(~own_RI, -torch.inf).amax(dim=1, keepdim=True)
        found.append(((similar_RI >= best_R1) & ~own_RI).sum(dim=1))
    return torch.cat(found).cpu().numpy()
