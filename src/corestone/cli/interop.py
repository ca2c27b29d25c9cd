"""corestone import, corestone export: other libraries' models in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from corestone.core.errors import CheckpointError, CorestoneError, unknown
from corestone.core.format import si

FORMATS = ("huggingface", "timm", "open_clip")


def import_(
    folder: Annotated[
        Path, typer.Argument(help="A folder with a config, safetensors and, of text, a tokenizer.", metavar="FOLDER")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint to write; must not exist yet.")],
) -> None:
    """Turn another library's folder into a checkpoint.

    Of Hugging Face, timm or open_clip, it may hold a GPT-1, GPT-2, GPT-J, OPT, BLOOM, BERT, ELECTRA, T5 or FLAN-T5; a
    picture classifier: a ViT, or a CoAtNet of timm; or a model of pictures and texts: a CLIP or SigLIP. Pickled weights
    go through convert first.
    """
    from corestone.interop.family import stacks_of
    from corestone.interop.incoming import import_huggingface  # keeps torch out of --help
    from corestone.interop.incoming_pairs import holds_pairs
    from corestone.interop.incoming_pictures import holds_pictures

    if holds_pairs(folder):
        _import_pairs(folder, out)
        return
    if holds_pictures(folder):
        _import_pictures(folder, out)
        return
    done = import_huggingface(folder, out)
    for note in done.notes:
        typer.echo(f"note: {note}")
    stacks, table = list(stacks_of(done.spec).values()), done.spec.embedding
    layers = " + ".join(str(len(stack.blocks)) for stack in stacks)
    typer.echo(
        f"{done.architecture}: {si(done.parameters)} parameters, {layers} layers of width {stacks[0].width}, "
        f"{table.vocab_size:,} tokens, context {table.context_length:,}"
    )
    typer.echo(f"wrote {done.folder}")


def _import_pictures(folder: Path, out: Path) -> None:
    from corestone.interop.incoming_pictures import import_pictures  # keeps torch out of --help

    done = import_pictures(folder, out)
    for note in done.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"{done.architecture}: {si(done.parameters)} parameters, {done.classes:,} classes of pictures")
    typer.echo(f"wrote {done.folder}")


def _import_pairs(folder: Path, out: Path) -> None:
    from corestone.interop.incoming_pairs import import_pairs  # keeps torch out of --help

    done = import_pairs(folder, out)
    for note in done.notes:
        typer.echo(f"note: {note}")
    table, size = done.spec.text.embedding, done.spec.embed_dim
    typer.echo(
        f"{done.architecture} of {done.library}: {si(done.parameters)} parameters, vectors of {size:,} values, "
        f"{table.vocab_size:,} tokens, context {table.context_length:,}"
    )
    typer.echo(f"wrote {done.folder}")


def convert(
    source: Annotated[
        Path, typer.Argument(help="A .bin, .pt, .pth or .ckpt file, or the .index.json of several.", metavar="FILE")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; must not exist yet.")],
) -> None:
    """Turn a pickled torch checkpoint into safetensors.

    Its config and tokenizer come along. Only tensors are ever loaded: nothing in the file is run.
    """
    from corestone.interop.convert import convert_pickle  # keeps torch out of --help

    done = convert_pickle(source, out)
    if done.inside:
        typer.echo(f"note: the tensors stood under '{done.inside}'")
    for names in done.shared:
        typer.echo(f"note: {', '.join(names)} are one tensor or parts of it; each is written in full")
    if done.left_out:
        typer.echo(f"note: {len(done.left_out)} entries left out, no tensors of the model: {', '.join(done.left_out)}")
    typer.echo(f"{done.tensors:,} tensors, {si(done.parameters)} parameters, read back bit for bit")
    typer.echo(f"wrote {done.folder}" + (f", with {', '.join(done.copied)}" if done.copied else ""))


def export(
    source: Annotated[
        Path,
        typer.Argument(help="A run folder (its newest whole checkpoint) or a checkpoint folder.", metavar="RUN"),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; must not exist yet.")],
    format: Annotated[
        str, typer.Option(help="What to write: huggingface, timm (classifiers), or open_clip (pictures and texts).")
    ] = "huggingface",
    part: Annotated[
        Literal["generator", "discriminator"] | None,
        typer.Option(help="Which of ELECTRA's two encoders; without it, the discriminator.", show_default=False),
    ] = None,
) -> None:
    """Write a model for another library.

    The folder is kept only if what was written computes the same logits as the model.
    """
    if format not in FORMATS:
        raise CorestoneError(unknown("format", format, FORMATS))
    from corestone.interop.outgoing import export_huggingface  # keeps torch out of --help
    from corestone.interop.outgoing_pictures import reads_pictures

    if reads_pictures(source):
        if part is not None:
            raise CheckpointError(f"{source}: this model reads pictures and has no {part}; export it without --part")
        _export_pictures(source, out, format)
        return
    if format != "huggingface":
        raise CheckpointError(
            f"{source}: this model reads text, and {format} holds models that read pictures; give --format huggingface"
        )
    done = export_huggingface(source, out, part)
    if done.part is not None:
        typer.echo(f"note: this is the {done.part} alone; --part chooses between generator and discriminator")
    for check in done.checks:
        typer.echo(f"check: {check}")
    if done.dropped_rows:
        typer.echo(f"note: {done.dropped_rows} padding rows of the token table, which no token has, were left out")
    typer.echo(f"wrote {done.folder} ({done.architecture}; {done.loading} loads it)")


def _export_pictures(source: Path, out: Path, library: str) -> None:
    from corestone.interop.outgoing_pairs import export_pairs  # keeps torch out of --help
    from corestone.interop.outgoing_pictures import export_pictures, kind_of

    done = (export_pairs if kind_of(source) == "two_tower" else export_pictures)(source, out, library)
    for check in done.checks:
        typer.echo(f"check: {check}")
    for note in done.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"wrote {done.folder} ({done.architecture}; {done.loading})")
