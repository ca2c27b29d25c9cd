"""`corestone plan`: what a run will need, reach and cost, before it begins; and what runs teach later plans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from corestone.cli.plan_fit import fit
from corestone.cli.plan_ladder import ladder

DEFAULT = "recipe"
"""The command that plans a run: the one that is meant where no other is named."""


class RecipeFirst(TyperGroup):
    """A group that takes a word it does not know as the recipe of its first command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in {"--help", "-h"}:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=RecipeFirst,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Say what a run will need, reach and cost; fit scaling laws.\n\n"
    "`corestone plan RECIPE [PATH=VALUE ...] [--hardware NAME xN]` plans a run (`corestone plan recipe --help`).",
)


@app.command(DEFAULT)
def recipe(
    recipe: Annotated[
        str, typer.Argument(help="A recipe's name, a .yaml file, or a .py file with recipe().", metavar="RECIPE")
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(help="Typed overrides, and xN for the number of devices.", metavar="PATH=VALUE|xN"),
    ] = None,
    hardware: Annotated[
        str | None,
        typer.Option(help="a100-40, a100-80, h100, h200, b200, mi300x, tpu-v5e, tpu-v5p, or cpu: this machine."),
    ] = None,
    sharding: Annotated[
        Literal["none", "zero1", "zero2", "zero3"] | None,
        typer.Option(help="What is split over devices. Default: as little as fits, or all."),
    ] = None,
    mfu: Annotated[
        float | None, typer.Option(min=0.001, max=1, help="Share of the peak reached, recomputed operations too.")
    ] = None,
    price: Annotated[float | None, typer.Option(min=0, help="USD per device and hour, not the table's.")] = None,
    region: Annotated[str, typer.Option(help="Electricity grid, such as france.")] = "world",
    budget: Annotated[str | None, typer.Option(help="100USD, 10hours or 1e21FLOPs: what it buys.")] = None,
    fit: Annotated[
        Path | None,
        typer.Option(help="The loss by own runs: ladder.json of plan ladder, or study.json of plan fit."),
    ] = None,
    available: Annotated[float | None, typer.Option(min=1, help="Training tokens or pictures that there are.")] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Try a few steps on this machine first, which takes some 15 s.")
    ] = False,
    noise_from: Annotated[
        Path | None,
        typer.Option(help="A run that measured its gradient's noise scale: the batch that it suggests.", metavar="RUN"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with plots to this file.")] = None,
) -> None:
    """Plan a run, which trains nothing (but some steps with --probe).

    Parameters, operations, memory, time, money, energy, data, expected loss, what rules suggest, and warnings.
    """
    from corestone.plan.spec import device_count
    from corestone.recipes.catalogue import find_recipe

    counts = [count for word in words or [] if (count := device_count(word)) is not None]
    run = find_recipe(recipe, [word for word in words or [] if device_count(word) is None])  # refused before torch
    from corestone.recipes.plan import Wanted, plan_recipe

    devices = counts[-1] if counts else None
    wanted = Wanted(hardware, devices, sharding, mfu, price, region, budget, available, probe, noise_from, fit)
    plan = plan_recipe(run, wanted)
    if html is not None:
        from corestone.report.plan import write_plan

        typer.echo(f"page: {write_plan(plan, html)}", err=as_json)
    if as_json:
        typer.echo(json.dumps(plan, indent=1))
        return
    _show(plan)


app.command("fit")(fit)
app.command("ladder")(ladder)


@app.command("calibrate")
def calibrate(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs of this machine.", metavar="RUN")],
) -> None:
    """Let runs of this machine correct later plans.

    Memory and speed, by kind of model.
    """
    from corestone.recipes.calibrate import calibrate as calibrate_by

    path, found = calibrate_by(runs)
    for line in found:
        typer.echo(line)
    typer.echo(f"calibration: {path}")


def _show(plan: dict[str, Any]) -> None:
    """One screen."""
    from rich.console import Console
    from rich.table import Table

    from corestone.report.planned import others, rows, suggested

    console = Console()
    table = Table(show_header=False, title=f"plan of {plan['recipe']}", title_justify="left", title_style="bold")
    table.add_column(style="bold")
    table.add_column()
    shown = rows(plan)
    for label, value in shown:
        table.add_row(label, value)
    console.print(table)
    elsewhere = others(plan)
    if elsewhere:
        beside = Table("elsewhere", "time", "USD", "CO2", "fits", title_justify="left")
        for row in elsewhere:
            beside.add_row(*row)
        console.print(beside)
    settings = Table("setting", "has", "rules say", title_justify="left")
    for line in suggested(plan):
        settings.add_row(*line)
    console.print(settings)
    for note in plan["suggestions"]["notes"]:
        console.print(f"note       {note}", highlight=False, soft_wrap=True)
    for warning in plan["warnings"]:
        console.print(f"[yellow]warning[/]  {warning}", highlight=False)
    if any("*" in cell for row in [*shown, *elsewhere] for cell in row):
        console.print("* rests on a figure that was not seen at its source; corestone/plan/*.yaml say which")
