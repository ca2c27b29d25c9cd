"""The command line: verbs, and the one place where errors become exit codes.

Torch is imported inside the verbs that need it, so that `corestone --help` answers at once.
"""

from __future__ import annotations

import gc
import signal
import sys
import traceback
from typing import Annotated

import typer

from corestone import __version__
from corestone.cli import (
    caption,
    check,
    compare,
    data,
    embed,
    evaluate,
    generate,
    interop,
    leaderboard,
    ledger,
    mup,
    plan,
    prepare,
    pretrain,
    recipes,
    rehearse,
    report,
    sweep,
    vote,
    zoo,
)
from corestone.core.errors import CorestoneError, Interrupted
from corestone.parallel.allocator import restart_without_thread_cache

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Pretrain your own foundation models: from raw data to a trained, evaluated, documented model.",
)
app.add_typer(data.app, name="data")
app.command("prepare")(prepare.prepare)
app.command("recipes")(recipes.recipes)
app.command("show")(recipes.show)
app.command("check")(check.check)
app.add_typer(plan.app, name="plan")
app.add_typer(mup.app, name="mup")
app.command("rehearse")(rehearse.rehearse)
app.command("pretrain")(pretrain.pretrain)
app.command("compare")(compare.compare)
app.command("sweep")(sweep.sweep)
app.command("evaluate")(evaluate.evaluate)
app.command("vote")(vote.vote)
app.command("generate")(generate.generate)
app.command("caption")(caption.caption)
app.command("embed")(embed.embed)
app.command("report")(report.report)
app.command("leaderboard")(leaderboard.leaderboard)
app.command("ledger")(ledger.ledger)
app.command("zoo")(zoo.zoo)
app.command("import")(interop.import_)
app.command("convert")(interop.convert)
app.command("export")(interop.export)

TRAINING_VERBS = {"pretrain", "compare", "sweep", "mup", "plan ladder"}
"""Verbs whose memory is worth a restart of the process, before torch is loaded (docs/LOG.md)."""


def _version(value: bool) -> None:
    if value:
        typer.echo(f"corestone {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere.")] = False,
) -> None:
    """Options of every verb; `main` reads --debug itself."""


def main() -> None:
    """Run a verb.

    Exit codes: 0 done, 1 a defect of Corestone or a failed check, 2 a mistake the user can mend, 128 + n stopped by
    signal n.
    """
    given = sys.argv[1:]
    debug = "--debug" in given
    sys.argv[1:] = [argument for argument in given if argument != "--debug"]
    if TRAINING_VERBS.intersection([" ".join(sys.argv[1:end]) for end in (2, 3)]):
        restart_without_thread_cache(given)
    try:
        app()
    except CorestoneError as error:
        sys.exit(_fail(str(error), debug))
    except Interrupted as stop:
        print(f"{stop}; run the same command again to go on", file=sys.stderr)
        sys.exit(128 + stop.signum)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # the reader of our output left, as `head` does
        sys.stderr.close()
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        sys.exit(_fail(f"{place}{error.strerror or error}", debug))
    finally:
        gc.freeze()  # the end searches nothing of torch for cycles, which takes 0.3 s; all of it goes anyway


def _fail(message: str, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    return 2
