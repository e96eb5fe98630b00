"""The one place that knows the library's version; checkpoints carry it."""

__version__ = "0.1.0"
