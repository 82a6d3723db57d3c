"""The version of this package, on floor 0 so that every part can record it."""

__version__ = "0.1.0"
