"""The command line: the list of subcommands, and how errors, Ctrl-C and exit codes are handled.

Exit codes: 0 done, 1 findings, 2 usage, 3 expected failure (one line on standard error), 130 interrupted. Heavy
modules are imported inside the subcommand that uses them, so that `--help` stays quick.
"""

import os
import sys

import typer

from twofold.cli import build, compare, cpus, host, run, walk, workloads

app = typer.Typer(
    name="twofold",
    help="Build guest memory as a hypervisor does, run real code on it, and price its page sizes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(compare.compare)
app.command()(build.build)
app.command()(run.run)
app.command()(walk.walk)
app.command()(workloads.workloads)
app.command()(cpus.cpus)
app.add_typer(host.app, name="host")

EXIT_FAILURE = 3
EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command line; every expected failure is one line, never a traceback."""
    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        _leave("interrupted; nothing was written", EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has gone, which is its right
        os._exit(0)
    except Exception as error:
        from twofold.errors import TwofoldError

        if not isinstance(error, TwofoldError):
            raise
        _leave(str(error), EXIT_FAILURE)


def _leave(line: str, code: int) -> None:
    """Say one line and go at once, whatever other threads are still doing."""
    sys.stdout.flush()
    sys.stderr.write(f"twofold: {' '.join(line.split())}\n")
    sys.stderr.flush()
    os._exit(code)
