"""The command line: the list of subcommands, and how errors, Ctrl-C and exit codes are handled.

Exit codes: 0 done, 1 findings or nothing but n/a, 2 usage, 3 expected failure (one line on standard error), 130
interrupted. Heavy modules are imported inside the subcommand that uses them, so that `--help` stays quick.
"""

import contextlib
import os
import sys
import warnings
from typing import Annotated, NoReturn

import typer

from twofold.cli import (
    audit,
    build,
    compare,
    cpus,
    curve,
    documents,
    guard,
    host,
    replay,
    run,
    simulate,
    trace,
    walk,
    workloads,
)
from twofold.start import EXIT_INTERRUPTED, raise_interrupts
from twofold.version import __version__

app = typer.Typer(
    name="twofold",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},  # commands have them from here
)


def _version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        sys.stdout.write(f"twofold {__version__}\n")
        raise typer.Exit


@app.callback()
def twofold(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Build guest memory as a hypervisor does, run real code on it, and price its page sizes."""


app.command()(compare.compare)
app.command()(build.build)
app.command()(run.run)
app.command()(simulate.simulate)
app.command()(audit.audit)
app.command()(walk.walk)
app.command()(replay.replay)
app.command()(curve.curve)
app.command()(workloads.workloads)
app.command()(cpus.cpus)
app.add_typer(host.app, name="host")
app.add_typer(trace.app, name="trace")
guard.guard(app)

EXIT_USAGE = 2
EXIT_FAILURE = 3


def main() -> None:
    """Run the command line; every expected failure is one line, never a traceback."""
    warnings.formatwarning = lambda message, *_args, **_more: f"twofold: {message}\n"  # in one line, as errors are
    try:
        raise_interrupts()
        code = app(prog_name="twofold", standalone_mode=False) or 0
        sys.stdout.flush()  # here, where a reader that has gone can be told apart
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, which is its right
        os._exit(0)
    except SystemExit as end:  # how Typer passes that on
        os._exit(0 if isinstance(end.__context__, BrokenPipeError) else EXIT_FAILURE)
    except (MemoryError, OSError) as error:
        _leave(_problem(error), EXIT_FAILURE)
    except Exception as error:
        from twofold.errors import TwofoldError

        if isinstance(error, TwofoldError):
            _leave(str(error), EXIT_FAILURE)
        if not hasattr(error, "format_message"):  # what the parser of the command line raises
            raise
        _refuse(error.format_message())
    if code == EXIT_INTERRUPTED:
        _leave("interrupted; nothing was written", EXIT_INTERRUPTED)
    sys.exit(code)


def _problem(error: MemoryError | OSError) -> str:
    """Return what the system says of what it could not do, and of what."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) or "out of memory"


def _refuse(message: str) -> NoReturn:
    """Say what is wrong with the command line; without any arguments that is the help."""
    if "\n" in message:
        sys.stderr.write(f"{message}\n")
        sys.exit(EXIT_USAGE)
    _leave(f"{message} (--help says what there is)", EXIT_USAGE)


def _leave(line: str, code: int) -> NoReturn:
    """Say one line and go at once, whatever other threads are still doing."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        documents.say(f"twofold: {' '.join(line.split())}")
    os._exit(code)
