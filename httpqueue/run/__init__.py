"""Wires, starts and stops the parts of a process. It is the only package that knows all parts."""

from httpqueue.run.process import run

__all__ = ["run"]
