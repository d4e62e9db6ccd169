"""How long the default comparison takes, and what compiling its kernels adds the first time.

    .venv/bin/python benchmarks/compare.py

The cold run has a cache folder of its own, so the machine code that is kept for this user stays as it is.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = [str(Path(sys.executable).parent / "twofold"), "compare", "--host", "fragmented", "--quiet"]
PROMISED_SECONDS = 30


def seconds(cache: str) -> float:
    """Return how long one run takes as a whole process, with its kernels kept in `cache`."""
    start = time.perf_counter()
    environment = {**os.environ, "XDG_CACHE_HOME": cache}
    subprocess.run(COMMAND, check=True, stdout=subprocess.DEVNULL, env=environment)  # noqa: S603  our own command
    return time.perf_counter() - start


def main() -> None:
    """Run once cold, then warm."""
    with tempfile.TemporaryDirectory() as cache:
        cold = seconds(cache)
        warm = min(seconds(cache) for _ in range(3))
    for what, took in (("compare, warm", warm), ("cold compile: the first run's extra", cold - warm)):
        held = "held" if took <= PROMISED_SECONDS else "MISSED"
        print(f"{what:40} {took:6.1f} s  <= {PROMISED_SECONDS}  {held}")


if __name__ == "__main__":
    main()
