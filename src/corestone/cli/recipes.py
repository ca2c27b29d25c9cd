"""`corestone recipes` and `corestone show`: what can be run, and what exactly it says."""

from __future__ import annotations

import json
from typing import Annotated

import typer

OVERRIDES = typer.Argument(help="Typed overrides, such as training.batch_tokens=8192.", metavar="PATH=VALUE")


def recipes(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the recipes that ship with Corestone."""
    from rich.console import Console
    from rich.table import Table

    from corestone.recipes.catalogue import PUBLISHED, RECIPES, SMALL

    if as_json:
        runs = {name: build() for name, build in RECIPES.items()}
        rows = [
            {"recipe": name, "published_scale": name in PUBLISHED, "description": run.description}
            for name, run in runs.items()
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    for title, group in (("Minutes on a laptop", SMALL), ("At published scale", PUBLISHED)):
        table = Table("recipe", "length", "description", title=title, title_justify="left", title_style="bold")
        for name, build in group.items():
            run = build()
            table.add_row(name, str(run.training.length), run.description)
        Console().print(table)


def show(
    recipe: Annotated[
        str | None,
        typer.Argument(help="A recipe's name, a .yaml file, or a .py file with recipe().", metavar="RECIPE"),
    ] = None,
    overrides: Annotated[list[str] | None, OVERRIDES] = None,
    width: Annotated[
        int | None, typer.Option(help="Print a transformer's recipe at another width: heads become more, not wider.")
    ] = None,
    mup_base: Annotated[
        int | None, typer.Option(help="Print it in muP: rates tuned at this width are to suit the recipe's own.")
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of recipe files instead.")] = False,
) -> None:
    """Print a recipe, resolved, as YAML that runs the same run.

    Save it, change it, and give the file to pretrain.
    """
    from corestone.core.errors import SpecError
    from corestone.core.spec import to_yaml
    from corestone.recipes.catalogue import RECIPES, find_recipe
    from corestone.recipes.spec import Run

    if schema:
        typer.echo(json.dumps(Run.model_json_schema(), indent=2))
        return
    if recipe is None:
        raise SpecError(f"show: which recipe? known: {', '.join(RECIPES)}")
    run = find_recipe(recipe, overrides or [])
    if width is not None or mup_base is not None:
        from corestone.recipes.mup import at_width, mup

        run = run if width is None else at_width(run, width)
        run = run if mup_base is None else mup(run, mup_base)
    typer.echo(to_yaml(run), nl=False)
