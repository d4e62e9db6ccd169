"""The command line as a fixture: each call is a process of its own, forked from one that has loaded everything."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def line(self):
        """The one line on standard error."""
        (line,) = self.err.splitlines()
        return line


class Twofold:
    """Starts command lines in a folder of their own."""

    def __init__(self, server, folder, scratch):
        self.server, self.folder, self.scratch = server, folder, scratch
        self.calls = 0

    def start(self, *argv, stdout=None, **env):
        """Start a command; return its process id."""
        self.calls += 1
        self.paths = [self.scratch / f"{name}{self.calls}" for name in ("out", "err")]
        request = {
            "argv": [str(part) for part in argv],
            "cwd": str(self.folder),
            "env": env,
            "stdout": str(stdout or self.paths[0]),
            "stderr": str(self.paths[1]),
        }
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return self.answer()["pid"]

    def answer(self):
        return json.loads(self.server.stdout.readline())

    def finish(self):
        """Wait for the command that was started."""
        code = self.answer()["code"]
        out, err = (path.read_text() if path.exists() else "" for path in self.paths)
        return Done(code, out, err)

    def __call__(self, *argv, **env):
        self.start(*argv, **env)
        return self.finish()

    def files(self):
        """Return the names of all files in the folder."""
        return sorted(path.name for path in self.folder.rglob("*"))


@pytest.fixture(scope="session")
def forkserver():
    environment = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR"}}
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("forkserver.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment | {"COLUMNS": "80"},
    )
    assert json.loads(server.stdout.readline())["pid"] == server.pid
    yield server
    server.stdin.close()
    server.wait()
    server.stdout.close()


@pytest.fixture
def twofold(forkserver, tmp_path, tmp_path_factory):
    """The command, run in an empty folder."""
    return Twofold(forkserver, tmp_path, tmp_path_factory.mktemp("streams"))


@pytest.fixture(scope="session")
def executable():
    """The installed command."""
    return str(Path(sys.executable).with_name("twofold"))
