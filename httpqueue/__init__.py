"""httpqueue makes HTTP requests in the future."""

__version__ = "0.1.0"
