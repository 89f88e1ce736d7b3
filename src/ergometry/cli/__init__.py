"""The command line, ``erg``: one file per command. Heavy imports belong inside the commands, so that help is quick."""

from __future__ import annotations

import sys

import typer

from ergometry.cli import export, ls, rm, run
from ergometry.core.errors import ErgError

app = typer.Typer(
    name="erg",
    help="The ergometer of neural-network training: where every joule went, and what it bought.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command(
    "run",
    context_settings={"allow_interspersed_args": False},
)(run.run)
app.command("ls")(ls.ls)
app.command("rm")(rm.rm)
app.command("export")(export.export)


def main() -> None:
    """Run ``erg``; an error of ergometry's is one line on standard error and its exit status."""
    try:
        app()
    except ErgError as error:
        sys.stderr.write(f"erg: {error}\n")
        sys.exit(error.exit_status)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
