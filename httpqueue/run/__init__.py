"""Composition: the only package that knows all parts, and the one that starts and stops them."""

from httpqueue.run.process import run

__all__ = ["run"]
