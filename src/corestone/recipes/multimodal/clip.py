"""CLIP at published scale on your own pairs (Radford et al. 2021)."""

from __future__ import annotations

from corestone.core.units import duration
from corestone.data.spec import BytePair
from corestone.objectives.spec import Contrastive
from corestone.optim.spec import AdamW, Cosine
from corestone.recipes.multimodal.web import EVALUATION, RHYTHM, cropped, web_pairs
from corestone.recipes.spec import Run, Start
from corestone.train.spec import Training
from corestone.zoo.catalogue import find

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def _clip(name: str, description: str, learning_rate: float, size: int = 224) -> Run:
    """Adam with a decay of 0.2 on matrices, 2,000 steps of warm-up, a cosine, 32,768 pairs a step, 32 epochs of 400 M
    pairs (tables 18 to 20). Norms are not clipped, of which the paper says nothing; the tokenizer is trained on your
    captions, with the published number of entries."""
    return Run(
        name=name,
        description=description,
        model=find(name).spec,
        objective=Contrastive(),
        data=web_pairs(cropped(size, MEAN, STD), BytePair(vocab_size=49_408), context_length=77),
        optimiser=AdamW(learning_rate=learning_rate, beta2=0.98, eps=1e-6, weight_decay=0.2),
        schedule=Cosine(warmup=duration("2000 steps"), final=0.0),
        training=Training(
            length=duration("32 epochs"), batch_examples=32_768, micro_batch=256, recompute=True, clip_norm=None
        ),
        rhythm=RHYTHM,
        evaluation=EVALUATION,
    )


def clip_vit_b32() -> Run:
    """The smallest Vision Transformer."""
    return _clip("clip-vit-b32", "CLIP ViT-B/32 on your own pairs (400 M of them in the paper).", 5e-4)


def clip_vit_l14() -> Run:
    """The largest."""
    return _clip("clip-vit-l14", "CLIP ViT-L/14 on your own pairs (400 M of them in the paper).", 4e-4)


def clip_vit_l14_336() -> Run:
    """One more epoch at 336 pixels, with positions interpolated (section 2.5, table 20). The warm-up is that of the
    other runs, of which the paper says nothing here."""
    run = _clip("clip-vit-l14-336", "One more epoch of CLIP ViT-L/14 at 336 pixels (start.path).", 2e-5, size=336)
    training = run.training.model_copy(update={"length": duration("1 epochs")})
    return run.model_copy(update={"start": Start(path="runs/clip-vit-l14"), "training": training})
