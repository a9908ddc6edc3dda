"""The embedded server is killed while httpqueue runs on it. Defect 14."""

import os
import signal
from pathlib import Path

import httpx

from tests.support.processes import HTTPQUEUE, started
from tests.support.receiver import Receiver

TIMERS = 50
DEATHS = 3


async def test_no_timer_is_lost_when_the_embedded_server_dies(tmp_path: Path) -> None:
    """It is started again each time; what was acknowledged fires once."""
    data = tmp_path / "data"
    async with Receiver() as receiver, started(*HTTPQUEUE, cwd=tmp_path, data_dir=data) as process:
        await process.until_ready()
        async with httpx.AsyncClient(base_url=process.url, timeout=30) as client:
            for death in range(DEATHS):
                for number in range(TIMERS):
                    timer = {
                        "id": f"{death}-{number}",
                        "url": f"{receiver.url}/{death}/{number}",
                        "seconds": 2,
                    }
                    assert (await client.post("/timers", json=timer)).status_code == 201
                os.kill(int((data / "valkey.pid").read_text()), signal.SIGKILL)
                while (await client.get("/readyz")).status_code != 200:
                    pass
            requests = await receiver.wait_for(DEATHS * TIMERS)
        assert len({request.path for request in requests}) == len(receiver.requests) == DEATHS * TIMERS
        assert [event["event"] for event in process.events()].count("embedded.died") == DEATHS
        assert await process.end() == 0
