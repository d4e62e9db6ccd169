"""How long commands take: the default comparison, what compiling adds the first time, the thread's example, cold ones.

    .venv/bin/python benchmarks/compare.py

The cold run has a cache folder of its own, so the machine code that is kept for this user stays as it is.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TWOFOLD = str(Path(sys.executable).parent / "twofold")
COMMAND = [TWOFOLD, "compare", "--host", "fragmented", "--quiet"]
EXAMPLE = Path(__file__).parents[1] / "examples" / "thread-2007.toml"
PROMISED_SECONDS = 30
PROMISED_EXAMPLE_SECONDS = 60
GUEST = ("--size", "2GiB", "--guest", "512MiB")
COLD = {
    "build": [TWOFOLD, "build", *GUEST, "--design", "toolstack"],
    "walk": [TWOFOLD, "walk", *GUEST],
}
PROMISED_CPU_SECONDS = 10


def seconds(cache: str, command: list[str] = COMMAND) -> float:
    """Return how long one run takes as a whole process, with its kernels kept in `cache`."""
    start = time.perf_counter()
    environment = {**os.environ, "XDG_CACHE_HOME": cache}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)  # noqa: S603  our own command
    return time.perf_counter() - start


def cold_cpu_seconds(command: list[str]) -> float:
    """Return the CPU time of one run whose kernels nobody has compiled before."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as cache:
        seconds(cache, command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Run once cold, then warm."""
    with tempfile.TemporaryDirectory() as cache:
        cold = seconds(cache)
        warm = min(seconds(cache) for _ in range(3))
        thread = seconds(cache, [TWOFOLD, "compare", "--scenario", str(EXAMPLE), "--quiet"])
    for what, took, promised in (
        ("compare, warm", warm, PROMISED_SECONDS),
        ("cold compile: the first run's extra", cold - warm, PROMISED_SECONDS),
        ("the thread's example, its own kernels cold", thread, PROMISED_EXAMPLE_SECONDS),
        *(
            (f"cold {name}, CPU time", cold_cpu_seconds(command), PROMISED_CPU_SECONDS)
            for name, command in COLD.items()
        ),
    ):
        held = "held" if took <= promised else "MISSED"
        print(f"{what:43} {took:6.1f} s  <= {promised}  {held}")


if __name__ == "__main__":
    main()
