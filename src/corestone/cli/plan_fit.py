"""`corestone plan fit`: scaling laws of own runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def fit(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUNS|CSV",
            help="Run folders or folders of these; or a CSV file with the columns parameters, tokens, loss and, where "
            "known, flops, step, name.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the figures and of study.json.")] = Path("runs/scaling"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the intervals' resamples.")] = 0,
    metric: Annotated[
        str | None, typer.Option(help="The runs' metric to fit, by name. Default: the one by which they are judged.")
    ] = None,
) -> None:
    """Fit scaling laws to runs.

    How the loss falls with size, data and compute, and what is the best use of compute. Prints every constant with a
    95 % interval, and the error with which the laws of the smaller runs tell the largest ones: that is how far to trust
    them.
    """
    from corestone.plan.study import study
    from corestone.plan.told import told, unusable
    from corestone.recipes.scaling import measured
    from corestone.report.scaling import write_figures

    data = measured(paths, metric)
    found = study(data.rows, seed)
    tree = {"loss": data.loss, "material": data.material, "unusable_runs": unusable(data.dropped), **told(found)}
    figures = write_figures(found, out, data.loss, data.material)
    text = json.dumps(tree, indent=1)
    (out / "study.json").write_text(text + "\n", encoding="utf-8")
    if as_json:
        typer.echo(text)
        return
    from rich.console import Console

    console = Console()
    show(console, tree)
    for line in [
        *notes(tree),
        f"figures: {', '.join(path.name for path in figures if path.suffix == '.png')} in {out}",
    ]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def show(console: Console, tree: dict[str, Any]) -> None:
    """The laws, how far they reach, and the best use of compute."""
    fitted = {name: law for name, law in tree["laws"].items() if "reason" not in law}
    laws = _table(f"Laws of {tree['loss']} over {tree['material']}", ("law", "constant"), ("value", "95 % interval"))
    for name, law in fitted.items():
        for place, (constant, figure) in enumerate(law["constants"].items()):
            laws.add_row("" if place else f"[bold]{name}[/]", constant.replace("_", " "), *_cells(figure))
        laws.add_row("", "median error, worst", f"{law['median_error']:.2%}, {law['worst_error']:.2%}", "")
        laws.add_section()
    if fitted:
        console.print(laws)
    numbers = ("largest runs", "times beyond the rest", "mean error", "worst", "bias")
    held = _table("Extrapolation to the largest runs", ("law of the rest",), numbers)
    for name, law in fitted.items():
        one = law["extrapolation"]
        if "reason" not in one:
            errors = (f"{one[key]:+.2%}" if key == "bias" else f"{one[key]:.2%}" for key in _ERRORS)
            held.add_row(name, str(len(one["runs"])), f"{one['factor']:.3g}", *errors)
    if held.row_count:
        console.print(held)
    best = _table("Best use of compute", ("by",), ("FLOPs", "parameters", tree["material"], "loss"))
    _fill_best(best, tree)
    if best.row_count:
        console.print(best)


_ERRORS = ("mean_error", "worst_error", "bias")


def _fill_best(table: Table, tree: dict[str, Any]) -> None:
    law, valleys = tree["best"], tree["isoflop"]
    if "reason" not in law:
        exponents = [f"~ C^{ranged(law[f'{one}_exponent'], 3)}" for one in ("parameters", "tokens")]
        table.add_row("parameters and tokens", "C", *exponents, "")
        for one in law["at"]:
            cells = (ranged(one[name], 4) for name in ("parameters", "tokens", "loss"))
            table.add_row(f"  at {one['factor']:g} x the largest", f"{one['flops']:.3g}", *cells)
        table.add_section()
    if "reason" not in valleys:
        if "reason" not in valleys["parameters"]:
            lines = (valleys[name] for name in ("parameters", "tokens"))
            cells = (f"~ C^{ranged({'value': line['exponent'], 'interval': line['interval']}, 3)}" for line in lines)
            table.add_row("IsoFLOP", "C", *cells, "")
        for one in valleys["valleys"]:
            mark = " (beyond the sizes)" if one["bottom_outside_of_the_sizes"] else ""
            sizes = (f"{one['parameters']:.4g}{mark}", f"{one['tokens']:.4g}", f"{one['loss']:.4g}")
            table.add_row(f"  {one['runs']} runs", f"{one['flops']:.3g}", *sizes)


def _table(title: str, words: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    from rich.table import Table

    table = Table(*words, title=title)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _cells(figure: dict[str, Any]) -> tuple[str, str]:
    ends = figure["interval"]
    return f"{figure['value']:.5g}", "" if ends is None else f"{ends[0]:.4g} to {ends[1]:.4g}"


def ranged(figure: dict[str, Any], digits: int) -> str:
    """A value with its interval in brackets."""
    ends = figure["interval"]
    shown = "" if ends is None else f" ({ends[0]:.{digits}g} to {ends[1]:.{digits}g})"
    return f"{figure['value']:.{digits}g}{shown}"


def notes(tree: dict[str, Any]) -> list[str]:
    """What was left out and what could not be told."""
    notes = [f"left out: {one['name']}: {one['reason']}" for one in tree["unusable_runs"]]
    notes += [f"left out: {one['name']}: {one['reason']} ({one['found']})" for one in tree["dropped"]["rows"]]
    for name, law in tree["laws"].items():
        if "reason" in law:
            notes.append(f"no law of {name}: {law['reason']}")
            continue
        notes += [f"law of {name}: outlier left out: {one['name']}: {one['found']}" for one in law["outliers"]]
        notes += [f"law of {name}: {note}" for note in law["notes"]]
        if all(figure["interval"] is None for figure in law["constants"].values()):
            notes.append(f"law of {name}: no intervals of {law['rows']} rows; they need 8")
        if "reason" in law["extrapolation"]:
            notes.append(f"law of {name}: no extrapolation error: {law['extrapolation']['reason']}")
    valleys = tree["isoflop"]
    if "reason" in valleys:
        return [*notes, f"no valleys: {valleys['reason']}"]
    return notes + [
        f"IsoFLOP: {one['flops']:.3g} FLOPs, {one['runs']} runs, skipped: {one['reason']}" for one in valleys["skipped"]
    ]
