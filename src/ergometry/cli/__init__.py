"""The command line, ``erg``: one file per command. Heavy imports belong inside the commands, so that help is quick."""

from __future__ import annotations

import sys

import typer

from ergometry.cli import (
    calibrate,
    compare,
    demo,
    doctor,
    equations,
    export,
    gain,
    ls,
    plan,
    plan_pipeline,
    plan_power,
    predict,
    report,
    rm,
    run,
    verify,
)
from ergometry.cli.misuse import in_house_form
from ergometry.core.errors import ErgError

app = typer.Typer(
    name="erg",
    help="The ergometer of neural-network training: where every joule went, and what it bought.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("run", context_settings={"allow_interspersed_args": False})(run.run)
app.command("demo")(demo.demo)
app.command("calibrate")(calibrate.calibrate)
app.command("doctor")(doctor.doctor)
app.command("gain")(gain.gain)
app.command("report")(report.report)
app.command("compare")(compare.compare)
app.command("ls")(ls.ls)
app.command("rm")(rm.rm)
app.command("export")(export.export)
app.command("plan")(plan.plan)
app.command("predict", context_settings={"allow_interspersed_args": False})(predict.predict)
app.command("plan-pipeline")(plan_pipeline.plan_pipeline)
app.command("plan-power")(plan_power.plan_power)
app.command("equations")(equations.equations)
app.command("verify")(verify.verify)


def main() -> None:
    """Run ``erg``; an error, of use or of ours, is one line on standard error and its exit status."""
    from typer import Abort
    from typer.exceptions import TyperException

    try:
        status = app(standalone_mode=False)
    except ErgError as error:
        sys.stderr.write(f"erg: {error}\n")
        status = error.exit_status
    except TyperException as error:
        status = _refused(error)
    except Abort:
        status = 130
    except BrokenPipeError:
        sys.stderr.close()
        status = 1
    sys.exit(status)


def _refused(error: Exception) -> int:
    """Say what the command-line library would not take; return the exit status."""
    if getattr(error, "message", "") or hasattr(error, "param"):  # else the help was shown, as no word was given
        sys.stderr.write(f"erg: {in_house_form(error)}\n")
    return int(getattr(error, "exit_code", 2))
