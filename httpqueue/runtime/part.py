"""The lifecycle that all long-running parts of a process share: API server, relay, worker."""

from typing import Protocol


class Part(Protocol):
    """A part runs once. Cancelling run() also ends it, but does not wait for work in flight."""

    async def run(self) -> None:
        """Work until stop(), then wind down and return. Raises the error that ended the part."""

    async def stop(self) -> None:
        """Ask the part to wind down. It is safe to call this twice, or before run()."""
