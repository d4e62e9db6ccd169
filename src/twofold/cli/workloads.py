"""`twofold workloads`: the built-in guest programs."""

from twofold.cli import options
from twofold.cli.documents import print_json


def workloads(json: options.Json = False) -> None:
    """List the built-in workloads: real programs, and generators of the same addresses.

    Example:

        twofold workloads
    """
    from twofold.report.terminal import plain_table, show
    from twofold.trace import WORKLOADS

    if json:
        print_json(1, workloads=[item.as_dict() for item in WORKLOADS.values()])
        return
    rows = (
        (item.name, item.title, "".join("w" if kind else "r" for kind in item.kinds), f"{item.cycles_per_access:g}")
        for item in WORKLOADS.values()
    )
    show([plain_table(("name", "what it does", "a step", "cycles an access, assumed"), rows)])
