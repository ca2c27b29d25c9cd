"""`corestone mup`: does muP hold on a recipe, and does its learning rate carry over to other widths?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corestone.cli.recipes import OVERRIDES

if TYPE_CHECKING:
    from rich.console import Console

    from corestone.recipes.spec import Run

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Check how values and learning rates change with the width.\n\n"
    "`corestone show RECIPE --width W --mup-base B` rewrites a recipe, tuned at width B, for width W.",
)

RECIPE = typer.Argument(help="A recipe's name, a .yaml file, or a .py file with recipe().", metavar="RECIPE")
WIDTHS = typer.Option(help="Such as 64,128,256. Default: 1, 2, 4 and 8 times the least that the recipe can have.")
BASE = typer.Option(help="The width at which muP is the recipe as it is. Default: the least of the widths.")
OUT = typer.Option(help="Folder of the figure and of its numbers. Default: runs/NAME-mup.")
AS_JSON = typer.Option("--json", help="Print JSON.")


@app.command("check")
def check(
    recipe: Annotated[str, RECIPE],
    overrides: Annotated[list[str] | None, OVERRIDES] = None,
    widths: Annotated[str | None, WIDTHS] = None,
    base: Annotated[int | None, BASE] = None,
    steps: Annotated[int, typer.Option(min=1, help="Updates, after which values are looked at again.")] = 5,
    seeds: Annotated[int, typer.Option(min=1, help="Counted from the recipe's; their mean is shown.")] = 3,
    out: Annotated[Path | None, OUT] = None,
    as_json: Annotated[bool, AS_JSON] = False,
) -> None:
    """Coordinate check: how far a few steps move values, by width.

    By part of the model: in muP as far at all widths, in the standard parametrisation further the wider the model. Exit
    code 1 where muP does not hold.
    """
    run = _found(recipe, overrides)
    from corestone.recipes.coordinates import coordinate_check, widths_of
    from corestone.report.mup import draw_coordinates

    chosen, least = widths_of(run, _whole(widths), base)
    found = coordinate_check(run, chosen, least, steps, seeds, lambda line: typer.echo(line, err=True))
    folder = out or Path("runs") / f"{run.name}-mup"
    _end(found, draw_coordinates(found, folder / "coordinates.png"), as_json, _show_check)
    if not found["flat"]:
        raise typer.Exit(1)


@app.command("transfer")
def transfer(
    recipe: Annotated[str, RECIPE],
    overrides: Annotated[list[str] | None, OVERRIDES] = None,
    rates: Annotated[str, typer.Option(help="low:high, each twice the one before, or a list: a,b,c.")] = "0.0005:0.032",
    widths: Annotated[str | None, WIDTHS] = None,
    base: Annotated[int | None, BASE] = None,
    steps: Annotated[int, typer.Option(min=10, help="Length of each run.")] = 200,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each rate, with seeds counted from the recipe's.")] = 1,
    out: Annotated[Path | None, OUT] = None,
    as_json: Annotated[bool, AS_JSON] = False,
) -> None:
    """Try many rates at many widths: the best at each, by short runs.

    In muP the same one, in the standard parametrisation a smaller one the wider the model. Run it again after an
    interruption and it goes on where it stopped; with more rates, widths or seeds, or another base, it adds their runs.
    """
    run = _found(recipe, overrides)
    from corestone.recipes.coordinates import widths_of
    from corestone.recipes.transfer import Grid, read_rates
    from corestone.recipes.transfer import transfer as train_all
    from corestone.report.mup import draw_transfer

    tried = read_rates(rates)
    chosen, least = widths_of(run, _whole(widths), base)
    folder = out or Path("runs") / f"{run.name}-mup"
    grid = Grid(tuple(chosen), least, tried, seeds)
    found = train_all(run, grid, steps, folder, lambda line: typer.echo(line, err=True))
    _end(found, draw_transfer(found, folder / "transfer.png"), as_json, _show_transfer)


def _found(recipe: str, overrides: list[str] | None) -> Run:
    from corestone.recipes.catalogue import find_recipe

    return find_recipe(recipe, overrides or [])  # refused before torch is loaded


def _whole(text: str | None) -> list[int] | None:
    from corestone.core.errors import SpecError

    if text is None:
        return None
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise SpecError(f"--widths '{text}': give whole numbers with commas between them, such as 64,128,256")
    return [int(part) for part in text.split(",")]


def _end(found: dict[str, Any], picture: Path, as_json: bool, show: Callable[[Console, dict[str, Any]], None]) -> None:
    """Write the numbers beside the picture, and show them."""
    from rich.console import Console

    from corestone.core.runlog import spelled

    text = json.dumps(spelled(found), indent=1)
    picture.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    if as_json:
        typer.echo(text)
    else:
        show(Console(), found)
    typer.echo(f"figure: {picture}", err=as_json)


def _show_check(console: Console, found: dict[str, Any]) -> None:
    """Changes and slopes, a table per parametrisation."""
    from rich.table import Table

    seeds = f"mean of {found['seeds']} seeds" if found["seeds"] > 1 else "one seed"
    told = f"change of {found['recipe']}'s values in {found['steps']} steps at {found['learning_rate']:g}, {seeds}"
    for kind, changes in found["changes"].items():
        console.print(f"[bold]{kind}[/]: {told}", highlight=False, soft_wrap=True)
        table = Table(box=None)
        table.add_column("part", no_wrap=True)
        for name in (*(f"width {width}" for width in found["widths"]), "slope"):
            table.add_column(name, justify="right", no_wrap=True)
        for part, sizes in changes.items():
            table.add_row(part, *(f"{size:.3g}" for size in sizes), f"{found['slopes'][kind][part]:+.2f}")
        console.print(table)
        console.print()
    for kind, slopes in found["slopes"].items():
        ends = " and ".join(f"{pick(slopes.values()):+.2f} ({pick(slopes, key=slopes.get)})" for pick in (min, max))
        console.print(f"{kind}: slopes between {ends}", highlight=False, soft_wrap=True)
    flat = f"{'is flat' if found['flat'] else 'is NOT flat'} (slopes within {found['bound']:g} of 0)"
    grows = "grows with the width" if found["grows"] else "does not grow: its widths or steps are too few to tell"
    console.print(f"verdict: muP {flat}; standard {grows}", highlight=False, soft_wrap=True)


def _show_transfer(console: Console, found: dict[str, Any]) -> None:
    """Losses by rate and width, a table per parametrisation; the best rate of a width has a star."""
    from rich.table import Table

    seeds = f"mean of {found['seeds']} seeds" if found["seeds"] > 1 else "one seed"
    told = f"loss of {found['recipe']} at the end of {found['steps']} steps, {seeds}"
    for kind, rows in found["losses"].items():
        console.print(f"[bold]{kind}[/]: {told}", highlight=False, soft_wrap=True)
        table = Table(box=None)
        table.add_column("rate", justify="right", no_wrap=True)
        for width in rows:
            table.add_column(f"width {width}", justify="right", no_wrap=True)
        for place, rate in enumerate(found["rates"]):
            cells = (f"{'*' if losses[place] == min(losses) else ''}{losses[place]:.3f}" for losses in rows.values())
            table.add_row(f"{rate:g}", *cells)
        console.print(table)
        console.print()
    ends = {found["rates"][0], found["rates"][-1]}
    if any(best in ends for rates in found["best"].values() for best in rates.values()):
        console.print("a best rate (*) stands at an end of the range: widen --rates", highlight=False)
    for kind, drift in found["drift"].items():
        moved = "is the same at all widths" if drift == 1 else f"differs by up to {drift:.3g} times between widths"
        console.print(f"{kind}: the best rate {moved}", highlight=False, soft_wrap=True)
