"""How long a newcomer waits after typing `httpqueue`."""

import asyncio
import tempfile
from typing import Final

from httpqueue.clock import monotonic_s, sleep
from tests.benchmarks.figures import Figure, LostError, Row, at_most
from tests.benchmarks.lab import PATIENCE_S, Lab, free_port
from tests.support.processes import HTTPQUEUE, started

POLL_S: Final = 0.005


async def _is_ready(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.write(b"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
    try:
        return (await reader.readline()).startswith(b"HTTP/1.1 200")
    except OSError:
        return False
    finally:
        writer.close()


async def start(_lab: Lab) -> list[Figure]:
    """`httpqueue` with its embedded Valkey on an empty directory: from exec to the first 200 of /readyz."""
    port = free_port()
    # killed at the end, so that its Valkey may write to the directory until that has heard of it
    with tempfile.TemporaryDirectory(prefix="httpqueue-bench-", ignore_cleanup_errors=True) as data_dir:
        started_s = monotonic_s()
        async with started(*HTTPQUEUE, port=port, data_dir=data_dir) as process:
            while not await _is_ready(port):
                if monotonic_s() - started_s > PATIENCE_S:
                    raise LostError(f"not ready after {PATIENCE_S} s: {process.stderr[-1:]}")
                await sleep(POLL_S)
            seconds = monotonic_s() - started_s
    return [Figure("httpqueue", seconds, "s", at_most(1.5))]


ROWS: Final = (Row("start", "From `httpqueue` typed to ready", start),)
