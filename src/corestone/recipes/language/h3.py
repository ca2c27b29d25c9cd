"""Hybrid H3 at published scale, and how the parameters of its state-space models are trained."""

from __future__ import annotations

from corestone.core.units import duration
from corestone.data.spec import BytePair, Component, Data, Files
from corestone.objectives.spec import NextToken
from corestone.optim.spec import AdamW, Cosine, Rule
from corestone.recipes.spec import Run
from corestone.train.spec import Rhythm, Training
from corestone.zoo.h3 import CONTEXT_LENGTH, h3


def h3_adamw(learning_rate: float) -> AdamW:
    """Steps, A and B of the state-space models do not decay and learn at 0.001 at most (the authors' settings): decay
    would pull their time scales to one value. C is read like a matrix and decays like one."""
    slow = min(1.0, 1e-3 / learning_rate)
    rules = (
        Rule(match=("*.token.weight", "*.qkv.weight", "*.out.weight", "*.feedforward.*.weight"), weight_decay=0.1),
        Rule(match=("*.shift.output", "*.diagonal.output"), weight_decay=0.1),
        Rule(match=("*.diagonal.log_*", "*.diagonal.frequency", "*.diagonal.input", "*.shift.input"), lr_scale=slow),
        Rule(match=("*norm.weight", "*.bias", "*.skip")),
    )
    return AdamW(learning_rate=learning_rate, rules=rules)


def h3_125m() -> Run:
    """H3-125M on your own files; for GPUs. The paper trained on 400 B tokens of the Pile.

    Learning rate, batch and warm-up are those of the authors' configuration for this size.
    """
    return Run(
        name="h3-125m",
        description="Hybrid H3 125M on your own files (400 B tokens).",
        model=h3(width=768, depth=12, num_heads=12, attention={6}),
        objective=NextToken(),
        data=Data(
            components=(Component(source=Files(paths=("texts/",))),),
            tokenizer=BytePair(vocab_size=50257),
            context_length=CONTEXT_LENGTH,
        ),
        optimiser=h3_adamw(6e-4),
        schedule=Cosine(warmup=duration("8000 steps"), final=0.1),
        training=Training(length=duration("400e9 tokens"), batch_tokens=256 * CONTEXT_LENGTH, micro_batch=16),
        rhythm=Rhythm(evaluate=duration("1000 steps"), sample=duration("5000 steps"), checkpoint=duration("500 steps")),
    )
