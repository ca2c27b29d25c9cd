"""Other sides of training benchmarks: a loop as one writes it by hand, a GPT in nanoGPT's style for it, and the Hugging
Face Trainer.

The last two compute the same GPT-2 from the same weights: `weights` are Corestone's parameters by name.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class PlainBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.mixer_norm, self.feedforward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = self.qkv(self.mixer_norm(x)).split(D, dim=2)
        q, k, v = (y.view(B, T, self.heads, -1).transpose(1, 2) for y in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(B, T, D))
        return x + self.down(F.gelu(self.up(self.feedforward_norm(x)), approximate="tanh"))


class PlainGPT(nn.Module):
    """A GPT as one writes it by hand: float32 weights, autocast, full logits."""

    def __init__(self, spec) -> None:
        super().__init__()
        width, vocab = spec.stack.width, spec.embedding.vocab_size
        self.token = nn.Embedding(vocab, width)
        self.position = nn.Embedding(spec.embedding.context_length, width)
        heads = spec.stack.blocks[0].mixer.num_heads
        self.blocks = nn.ModuleList(PlainBlock(width, heads) for _ in spec.stack.blocks)
        self.final_norm = nn.LayerNorm(width)

    def forward(self, tokens, targets):
        x = self.token(tokens) + self.position(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.final_norm(x), self.token.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def load(self, weights) -> None:
        names = {"embedding.token": "token", "embedding.position": "position", "stack.final_norm": "final_norm"}
        state = {}
        for name, value in weights.items():
            for old, new in names.items():
                name = name.replace(old, new)
            name = name.replace("stack.blocks", "blocks").replace(".mixer.", ".").replace(".feedforward.", ".")
            state[name] = value
        self.load_state_dict(state)


def groups(model: nn.Module, decay: float = 0.1):
    """Weight decay on matrices and tables alone."""
    return [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]


class Loop:
    """A training loop as one writes it by hand: autocast to bfloat16 or none, fused AdamW, clipping."""

    def __init__(
        self, model: nn.Module, loss: Callable[..., torch.Tensor], autocast: bool, learning_rate: float = 3e-4
    ) -> None:
        """`loss` is the mean of a batch, whose parts it is given."""
        self.model, self.loss, self.autocast = model, loss, autocast
        self.optimiser = torch.optim.AdamW(groups(model), lr=learning_rate, betas=(0.9, 0.95), fused=True)

    def step(self, *batch: Any) -> float:
        self.optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            loss = self.loss(*batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        return loss.item()

    def times(self, batches) -> tuple[list[float], list[float]]:
        """Seconds and loss of each step."""
        seconds, losses = [], []
        for batch in batches:
            start = time.perf_counter()
            losses.append(self.step(*batch))
            seconds.append(time.perf_counter() - start)
        return seconds, losses


class HandWritten(Loop):
    """The GPT above, in bf16 or float32; compiled where asked."""

    name = "hand-written loop"

    def __init__(
        self, spec, weights, dtype=torch.bfloat16, learning_rate: float = 3e-4, compiled: bool = False
    ) -> None:
        model = PlainGPT(spec)
        model.load(weights)
        if compiled:
            self.name = "hand-written loop, compiled"
        super().__init__(model, torch.compile(model) if compiled else model, dtype == torch.bfloat16, learning_rate)

    @torch.no_grad()
    def held_out(self, tokens, targets) -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            return self.model(tokens, targets).item()


class HuggingFace:
    """`transformers.Trainer`, in bf16 (autocast) or float32, with fused AdamW."""

    name = "Hugging Face Trainer"

    def __init__(self, spec, weights, dtype=torch.bfloat16) -> None:
        from transformers import GPT2Config, GPT2LMHeadModel

        stack, table = spec.stack, spec.embedding
        config = GPT2Config(
            vocab_size=table.vocab_size,
            n_positions=table.context_length,
            n_embd=stack.width,
            n_layer=len(stack.blocks),
            n_head=stack.blocks[0].mixer.num_heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,
        )
        self.dtype = dtype
        self.model = GPT2LMHeadModel(config)
        load_gpt2(self.model, weights)

    def times(self, batches) -> tuple[list[float], list[float]]:
        from transformers import Trainer, TrainerCallback, TrainingArguments

        seconds: list[float] = []
        losses: list[float] = []

        class Clock(TrainerCallback):
            def on_step_begin(self, args, state, control, **given):
                self.start = time.perf_counter()

            def on_step_end(self, args, state, control, **given):
                seconds.append(time.perf_counter() - self.start)

            def on_log(self, args, state, control, logs=None, **given):
                if logs and "loss" in logs:
                    losses.append(float(logs["loss"]))

        # Labels are shifted by the model, so the last target of a row goes unused: its share of work is one in T.
        rows = [
            {"input_ids": row, "labels": torch.cat([row[:1], target[:-1]])}
            for tokens, targets in batches
            for row, target in zip(tokens, targets, strict=True)
        ]
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=len(batches[0][0]),
                max_steps=len(batches),
                bf16=self.dtype == torch.bfloat16,
                use_cpu=True,
                optim="adamw_torch_fused",
                learning_rate=3e-4,
                adam_beta2=0.95,
                weight_decay=0.1,
                max_grad_norm=1.0,
                lr_scheduler_type="constant",
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
            )
            trainer = Trainer(model=self.model, args=arguments, train_dataset=Rows(rows), callbacks=[Clock()])
            trainer._get_train_sampler = lambda *_: None  # in order, as the other sides
            trainer.train()
        return seconds, losses


class Rows(torch.utils.data.Dataset):
    def __init__(self, rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def load_gpt2(model, weights) -> None:
    """Put Corestone's parameters into a `GPT2LMHeadModel`; its Conv1D stores (in, out)."""
    state = {}
    for name, value in weights.items():
        name = name.replace("embedding.token", "wte").replace("embedding.position", "wpe")
        name = name.replace("stack.final_norm", "ln_f").replace("stack.blocks", "h")
        name = name.replace("mixer_norm", "ln_1").replace("feedforward_norm", "ln_2")
        name = name.replace("mixer.qkv", "attn.c_attn").replace("mixer.out", "attn.c_proj")
        name = name.replace("feedforward.up", "mlp.c_fc").replace("feedforward.down", "mlp.c_proj")
        matrix = name.endswith(".weight") and value.ndim == 2 and not name.startswith("w")
        state[f"transformer.{name}"] = value.t() if matrix else value
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= {"lm_head.weight"}, missing
    model.tie_weights()
