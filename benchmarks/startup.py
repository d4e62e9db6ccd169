"""How long `twofold --help` takes, against a bare program of the same CLI library printing its help.

    .venv/bin/python benchmarks/startup.py

Both run in turn, as whole processes.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROUNDS = 15
BARE = """import typer
app = typer.Typer(add_completion=False, rich_markup_mode=None)
@app.command()
def one(): "First."
@app.command()
def two(): "Second."
app()
"""


def seconds(command: list[str]) -> float:
    """Return how long a command takes as a whole process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603  our own commands
    return time.perf_counter() - start


def main() -> None:
    """Run both in turn, so that they see the same machine, and compare medians."""
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE, encoding="utf-8")
        commands = {
            "bare": [sys.executable, str(bare), "--help"],
            "twofold": [str(Path(sys.executable).parent / "twofold"), "--help"],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(ROUNDS):
            for name, command in commands.items():
                times[name].append(seconds(command))
    middle = {name: median(each) for name, each in times.items()}
    for name, took in middle.items():
        print(f"{name:10} {took * 1000:7.0f} ms")
    ratio = middle["twofold"] / middle["bare"]
    print(f"twofold --help / bare program {ratio:.2f} x  <= 1.5  {'held' if ratio <= 1.5 else 'MISSED'}")


if __name__ == "__main__":
    main()
