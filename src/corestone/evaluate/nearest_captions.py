"""Which captions lie nearest to a picture, for the eye.

Captions are compared by what they say: one that several pictures have counts once, and is own to each of them.

Shape letters: I pictures, T texts, U different texts, R rows of a chunk, E width of the shared space.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from corestone.evaluate.retrieval import CHUNK

Said = tuple[str, float]
"""A caption, and the cosine of its vector and a picture's."""


@dataclass(frozen=True)
class Nearest:
    """What a picture's vector is near to.

    Attributes:
        own: the nearest of its own captions.
        before: captions of others alone that are at least as near as that.
        nearest: the nearest of all captions, the nearest first, and whether each is one of its own.
    """

    own: Said
    before: int
    nearest: tuple[tuple[str, float, bool], ...]


class DistinctCaptions:
    """The different captions of some pictures, their vectors (U, E), and whose they are.

    Args:
        texts_TE: unit vectors.
        captions, owner_T: of each text what it says, and the number of its picture.
    """

    def __init__(self, texts_TE: Tensor, captions: Sequence[str], owner_T: Tensor) -> None:
        numbers: dict[str, int] = {}
        firsts = []
        self._own: dict[int, list[int]] = {}
        for place, (caption, owner) in enumerate(zip(captions, owner_T.tolist(), strict=True)):
            if caption not in numbers:
                numbers[caption] = len(numbers)
                firsts.append(place)
            self._own.setdefault(owner, []).append(numbers[caption])
        self.said, self.vectors_UE = list(numbers), texts_TE[firsts]

    def own(self, places: Sequence[int]) -> Tensor:
        """Which of the captions some pictures have, (R, U)."""
        own_RU = torch.zeros(len(places), len(self.said), dtype=torch.bool, device=self.vectors_UE.device)
        for row, place in enumerate(places):
            own_RU[row, self._own[place]] = True
        return own_RU

    def similar(self, images_IE: Tensor, places: Sequence[int]) -> Tensor:
        """Cosines of some pictures with all captions, (R, U)."""
        return images_IE[list(places)] @ self.vectors_UE.T

    def nearest(self, images_IE: Tensor, places: Sequence[int], most: int = 3) -> list[Nearest]:
        """What some of the pictures are nearest to."""
        similar_RU, own_RU = self.similar(images_IE, places), self.own(places)
        found = []
        for similar_U, own_U in zip(similar_RU, own_RU, strict=True):
            best = int(similar_U.masked_fill(~own_U, -torch.inf).argmax())
            order = similar_U.topk(min(most, len(similar_U))).indices.tolist()
            found.append(
                Nearest(
                    own=(self.said[best], float(similar_U[best])),
                    before=int(((similar_U >= similar_U[best]) & ~own_U).sum()),
                    nearest=tuple((self.said[u], float(similar_U[u]), bool(own_U[u])) for u in order),
                )
            )
        return found

    def mistaken(self, images_IE: Tensor) -> list[int]:
        """Pictures to which a caption of others alone is at least as near as any own one, those first where the
        difference of cosines is the largest."""
        margin_I = torch.cat(list(self._margins(images_IE)))
        order = margin_I.argsort(descending=True, stable=True)
        return order[margin_I[order] >= 0].tolist()

    def _margins(self, images_IE: Tensor) -> Iterator[Tensor]:
        size = max(1, CHUNK // len(self.said))
        for first in range(0, len(images_IE), size):
            places = range(first, min(first + size, len(images_IE)))
            similar_RU, own_RU = self.similar(images_IE, places), self.own(places)
            others_R = similar_RU.masked_fill(own_RU, -torch.inf).amax(dim=1)
            yield others_R - similar_RU.masked_fill(~own_RU, -torch.inf).amax(dim=1)
