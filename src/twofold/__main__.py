"""The command line, as `twofold` and as `python -m twofold`: first what must be right before the rest is loaded."""

from twofold.start import ignore_interrupts
from twofold.streams import open_streams


def main() -> None:
    """Run the command line."""
    open_streams()
    from twofold.cli import main as run  # noqa: PLC0415  takes a while, and needs streams

    try:
        run()
    finally:
        ignore_interrupts()


if __name__ == "__main__":
    main()
