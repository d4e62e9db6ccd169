"""The version of Twofold, which the package's build reads from here too."""

__version__ = "0.1.0"
