"""What commands print: for programs one JSON document or one text on standard output, all talk on standard error.

docs/json.md has the documents of all commands, and the rule for their numbers.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

STDOUT: Final = Path("-")


def print_json(version: int, **fields: Any) -> None:
    """Print a document; its version changes when a field goes or means something else."""
    sys.stdout.write(json.dumps({"version": version, **fields}, indent=1) + "\n")


def say(line: str) -> None:
    """Write one line to standard error; what a file said in it is text and nothing else."""
    from twofold.errors import shown

    sys.stderr.write(f"{shown(line)}\n")
    sys.stderr.flush()


def put(text: str, target: Path) -> None:
    """Write text to standard output, or whole to a file."""
    from twofold.files import write_text

    if target == STDOUT:
        sys.stdout.write(text)
    else:
        write_text(target, text)
