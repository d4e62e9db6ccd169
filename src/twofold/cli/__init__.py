"""The command `twofold`: one module a subcommand. It parses, calls one function, and prints what that returns."""

from twofold.cli.app import main

__all__ = ["main"]
