"""A design of one's own: 2M extents or nothing larger, beside those that come with Twofold.

A package makes its design known by name through the entry point group `twofold.designs`; then `twofold compare
--designs small,middle` finds it. An object does as well, as here.
"""

import twofold as tf

FRAMES_2M, ORDER_2M, ORDER_4K = 512, 9, 0


class Middle:
    """Ask for 2M extents between the aligned ends of a range and leave every 1G block whole for others."""

    name = "middle"

    def populate(self, populate, gfns, layout):  # noqa: ANN001, ANN201, ARG002
        """Populate all of `gfns`; an extent that the machine refuses falls back to 4K."""
        first = min(-(-gfns.start // FRAMES_2M) * FRAMES_2M, gfns.stop)
        last = max(gfns.stop // FRAMES_2M * FRAMES_2M, first)
        populate(range(gfns.start, first), ORDER_4K)
        populate(range(first, last, FRAMES_2M), ORDER_2M, tf.Mem.FALLBACK)
        populate(range(last, gfns.stop), ORDER_4K)


def main() -> None:
    """Build the same guest by three designs on equal copies of a fragmented host."""
    free = tf.FreeMap.shipped("fragmented")
    for design in ("small", Middle(), "toolstack"):
        with tf.Machine(free=free) as machine:
            built = tf.build(machine.create_domain("2GiB"), design)
            name = getattr(design, "name", design)
            print(f"{name:10} leaves by order {built.leaves}, {built.large_share:.1%} large, {built.tables} tables")


if __name__ == "__main__":
    main()
