"""A process that has loaded everything once and forks for each command line: real processes, without their start.

Read from standard input, a JSON line each: {argv, cwd, env, stdout, stderr}. Answered on standard output, a JSON line
each: {pid} at once, {pid, code} at the end.
"""

import gc
import json
import os
import sys

from twofold import cli
from twofold.study import compare, make_scenario


def load_everything():
    """Load what commands load, compiled kernels and engine included."""
    import polars as pl  # noqa: F401  loaded, not used: its threads would not come through a fork

    import twofold.report.terminal  # noqa: F401

    fields = {"host": {"size": "256MiB"}, "guest": {"memory": "64MiB"}, "accesses": 10, "executed": 1, "repeat": 1}
    compare(make_scenario(fields))


def become(argv, cwd, env, stdout, stderr):
    """Run the command line in this process, which a fork has just made; never returns."""
    os.chdir(cwd)
    os.environ.update(env)
    for number, path in (1, stdout), (2, stderr):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, number)
    sys.argv = ["twofold", *argv]
    code = 1
    try:
        cli.main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:  # noqa: BLE001  as the interpreter ends with what nobody caught
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def say(**fields):
    """Answer one line."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def main():
    """Serve until standard input ends."""
    load_everything()
    gc.freeze()  # a collection in a child would copy every page that it looks at
    say(pid=os.getpid())
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            become(**json.loads(line))
        say(pid=pid)
        _, status = os.waitpid(pid, 0)
        say(pid=pid, code=os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
