"""What the measuring tools can do themselves: none of the other figures may come near it."""

from typing import Final
from urllib.parse import urlsplit

from tests.benchmarks.figures import Figure, LostError, Row
from tests.benchmarks.lab import Lab
from tests.benchmarks.traffic import Shot, receiver, shoot


async def limits(lab: Lab) -> list[Figure]:
    """The load generator against the receiver, nothing between them, over 64 connections.

    Both share the machine, as they do in all other rows: it is the limit of the two together.
    """
    count = lab.count(100_000, 5_000)
    async with receiver() as webhooks:
        port = int(urlsplit(webhooks.url).port or 0)
        load = await shoot(port, Shot("#", count, path="/w/0"))
        if load.statuses != {"200": count} or len((await webhooks.arrivals()).indexes) != count:
            raise LostError(f"{count} requests were sent, the answers were {load.statuses}")
    return [Figure("generator to receiver", count / load.seconds, "requests/s")]


ROWS: Final = (Row("limits", "The benchmark's own limit", limits),)
