"""What the README shows of a command is what the command prints."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(
    r"```text\n\$ twofold ([^\n]*)\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
)


def test_the_readme_shows_the_threads_own_table_and_a_real_host():
    shown = [command for command, _ in BLOCKS]
    assert any("examples/thread-2007.toml" in command for command in shown)
    assert any("--host fragmented" in command for command in shown)


@pytest.mark.medium
@pytest.mark.parametrize(("command", "printed"), BLOCKS, ids=[command for command, _ in BLOCKS])
def test_what_the_readme_shows_is_what_is_printed(command, printed):
    code = "from twofold.cli import main; main()"
    argv = [sys.executable, "-c", code, *shlex.split(command), "--quiet"]
    environment = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, env=environment, check=True)
    assert done.stdout == printed
