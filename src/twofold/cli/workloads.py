"""`twofold workloads`: the built-in workloads, and the generators of addresses without a program."""


def workloads() -> None:
    """List the built-in workloads: real programs, and generators of the same addresses; some are generators only.

    Example:

        twofold workloads
    """
    from twofold.report.terminal import plain_table, show
    from twofold.trace import GENERATORS, WORKLOADS

    rows = (
        (
            item.name,
            item.title,
            "yes" if item.name in WORKLOADS else "no",
            "" if item.skew is None else f"{item.skew.default:g}",
            "".join("w" if kind else "r" for kind in item.kinds),
            f"{item.cycles_per_access:g}",
        )
        for item in GENERATORS.values()
    )
    show([plain_table(("name", "what it does", "program", "skew", "a step", "cycles an access, assumed"), rows)])
