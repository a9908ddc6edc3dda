"""Input that is too large, too deep, hostile or unreadable: rows 27 to 32 of the fault plan."""

import asyncio
from pathlib import Path
from typing import Any, Final

import orjson

from httpqueue.clock import monotonic_s
from tests.support.keys import PARTITIONS, Everywhere, record_key
from tests.support.lab import SKEWED, Part, a_lab
from tests.support.receiver import Receiver

AT_ONCE_S: Final = 5
HUGE_BYTES: Final = 100_000_000
SECRET: Final = "s3cr3t-0f-a-cl13nt"
IDS: Final = [f"a{number}" for number in range(20)]
HEAD: Final = "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
LOOPBACK: Final = (
    "localhost",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "2130706433",
    "0x7f.1",
    "127.1",
    "0",
    "①②⑦.0.0.1",
    "inner.test",
)
"""Spellings of this machine. The last one is a name of the worker's name server."""
NEVER: Final = ("169.254.169.254", "[::ffff:169.254.169.254]", "2852039166", "0xa9fe.43518")
"""Spellings of a link-local address, which no mode allows."""


async def raw_request(api: Part, head: str, *body: bytes) -> bytes:
    """Send this, as far as the API reads it -> what it answers at once."""
    port = int(api.process.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(AT_ONCE_S):
        writer.write(head.encode() + b"\r\n")
        for piece in body:
            writer.write(piece)
        answer = await reader.readuntil(b"\r\n")
    writer.transport.abort()
    return answer


async def test_row_27_what_is_too_large(tmp_path: Path) -> None:
    """100 MB: 413 before they are read."""
    async with a_lab(tmp_path) as lab:
        [api] = await lab.start("api")
        for path in ("/timers", "/timers/batch"):
            head = HEAD.format(path=path)
            announced = await raw_request(api, f"{head}content-length: {HUGE_BYTES}\r\n", b"{" * 1_000)
            assert announced.startswith(b"HTTP/1.1 413")
        assert (await lab.api.get("/healthz")).status_code == 200


BAD_JSON: Final = {
    "deep list": b'{"url": "http://x/", "seconds": 0, "body": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep object": b'{"url": "http://x/", "seconds": 0, "body": '
    + b'{"a":' * 100_000
    + b"0"
    + b"}" * 100_001,
    "unclosed": b"[" * 100_000,
    "NaN": b'{"url": "http://x/", "seconds": NaN}',
    "Infinity": b'{"url": "http://x/", "seconds": Infinity}',
    "1e999": b'{"url": "http://x/", "seconds": 1e999}',
    "-1e999 in the body": b'{"url": "http://x/", "seconds": 0, "body": [-1e999]}',
    "negative delay": b'{"url": "http://x/", "seconds": -1}',
    "lone surrogate": b'{"url": "http://x/", "seconds": 0, "body": "\\ud800"}',
    "half a character": b'{"url": "http://x/", "seconds": 0, "body": "\xc3"}',
    "null in the id": b'{"url": "http://x/", "seconds": 0, "id": "a\\u0000b"}',
}


async def test_row_27_what_is_no_json(tmp_path: Path) -> None:
    """Refused at once, with the field where there is one; the API goes on."""
    async with a_lab(tmp_path) as lab:
        await lab.start("api")
        for name, body in BAD_JSON.items():
            for content in (body, b'{"timers": [' + body + b"]}"):
                path = "/timers" if content is body else "/timers/batch"
                since_s = monotonic_s()
                response = await lab.api.post(
                    path, content=content, headers={"content-type": "application/json"}
                )
                assert monotonic_s() - since_s < AT_ONCE_S
                answer = response.json()
                status = answer["results"][0]["status"] if "results" in answer else response.status_code
                assert status in {400, 422}, (name, response.text)
                assert SECRET not in response.text
        assert await lab.counts() == {}


BAD_URLS: Final = (
    f"http://user:{SECRET}@host.test/",
    f"http://:{SECRET}@host.test/",
    "http://host.test/\r\nx-injected: 1",
    "http://host.test\r\n/",
    "http://host.test:0/",
    "http://host.test:65536/",
    "http://host.test:x/",
    "file:///etc/passwd",
    "ftp://host.test/",
    "javascript:alert(1)",
    "//host.test/",
    "http:///path",
    "http://[::1",
    "http://ho st/",
    "",
)


async def test_row_28_urls(tmp_path: Path) -> None:
    """Credentials, line breaks, odd ports and schemes: 422. A host in Unicode is called by its ASCII name."""
    names = {"xn--bcher-kva.test": [["127.0.0.1"]]}
    async with a_lab(tmp_path) as lab:
        await lab.start("api", "relay")
        await lab.start("worker", command=SKEWED, environment=[f"NAMES={orjson.dumps(names).decode()}"])
        for url in BAD_URLS:
            problem = await lab.post("bad", status=422, url=url)
            assert SECRET not in str(problem)
            problem = await lab.post("bad", status=422, callback={"url": url})
            assert SECRET not in str(problem)
        await lab.post("idna", url=f"http://bücher.test:{lab.receiver.port}/idna")
        await lab.until("idna", "done")
        [request] = lab.receiver.requests
        assert request.header("host") == f"xn--bcher-kva.test:{lab.receiver.port}"
        lab.check()
        await lab.end()
        for part in lab.parts:
            assert not any(SECRET in line for line in (*part.process.stdout, *part.process.stderr))


async def test_row_29_addresses_in_disguise(tmp_path: Path) -> None:
    """Judged by what they resolve to: a worker of the mode `public` calls none of them, however written.

    Nothing here is sent beyond the loopback: link-local addresses are refused by the API already.
    """
    names = {"inner.test": [["127.0.0.1"]]}
    async with a_lab(tmp_path) as lab:
        await lab.start("api", "relay")
        await lab.start(
            "worker", command=SKEWED, environment=[f"NAMES={orjson.dumps(names).decode()}"], egress="public"
        )
        stored = []
        for number, host in enumerate(LOOPBACK):
            timer = lab.timer(f"t{number}", url=f"http://{host}:{lab.receiver.port}/t{number}")
            response = await lab.api.post("/timers", json=timer)
            assert response.status_code in {201, 422}, response.text
            if response.status_code == 201:
                stored.append(timer["id"])
        assert len(stored) >= len(LOOPBACK) // 2, "the worker has something to judge"
        for timer_id in stored:
            assert "blocked" in (await lab.until(timer_id, "failed"))["last_error"]
        [public] = await lab.start("api", egress="public")
        for host in NEVER:
            for part in (lab.parts[0], public):
                timer = lab.timer("never", url=f"http://{host}/")
                assert (await part.api.post("/timers", json=timer)).status_code == 422, host
        assert lab.receiver.connections == 0


async def test_row_30_names_that_change(tmp_path: Path) -> None:
    """The address that was judged is called, also if the name leads elsewhere by then.

    127.0.0.1 stands for what must not be called, and 127.0.0.2 for what may be.
    """
    good, bad = "127.0.0.2", "127.0.0.1"
    names = {
        "rebinds.test": [[good], [bad]],
        "mixed.test": [[good, bad]],
        "mixed-other-way.test": [[bad, good]],
        "bad.test": [[bad]],
    }
    async with a_lab(tmp_path) as lab, Receiver(address=good) as allowed:
        await lab.start("api", "relay")
        await lab.start(
            "worker",
            command=SKEWED,
            environment=[f"NAMES={orjson.dumps(names).decode()}"],
            egress_deny=f"{bad}/32",
        )
        ends = {}
        for name in names:
            await lab.post(name, url=f"http://{name}:{allowed.port}/{name}")
            ends[name] = (await lab.until(name, "done", "failed"))["status"]
        assert ends == {
            "rebinds.test": "done",
            "mixed.test": "failed",
            "mixed-other-way.test": "failed",
            "bad.test": "failed",
        }
        assert [request.path for request in allowed.requests] == ["/rebinds.test"]
        assert lab.receiver.connections == 0


GARBAGE: Final[tuple[Any, ...]] = (
    {"x": "y"},
    {"timer": "no-colon", "generation": "0", "due": "1"},
    {"timer": "default:a", "generation": "many", "due": "1"},
    {"timer": "default:a", "generation": "0", "due": "1e400"},
    {"timer": b"\xff\xfe:\xff", "generation": "0", "due": "1"},
)
MEMBERS: Final[tuple[Any, ...]] = (
    "garbage",
    b"\xff\xfe",
    "{0}default:a",
    "{0}default:a:-1",
    "{99999}default:a:0",
    "{0}nobody:knows-it:0",
)


async def test_row_31_entries_that_nobody_can_read(tmp_path: Path) -> None:
    """In the outbox, in the queue, and a record: each is set aside, and the others go on."""
    async with a_lab(tmp_path, has_own_queue=True) as lab:
        await lab.start("api")
        await lab.post_all(IDS, seconds=1)
        await lab.post("damaged", seconds=1)
        async with lab.store.client() as store, lab.queue.client() as queue:
            await store.set(record_key("damaged"), b"\xc1 this is no record")
            for partition in PARTITIONS.all:
                for fields in GARBAGE:
                    await store.xadd(PARTITIONS.store_keys[partition].outbox, fields)
                await queue.zadd(PARTITIONS.queue_keys[partition].queue, dict.fromkeys(MEMBERS, 1))
                await queue.set(f"arq:job:{{{partition}}}garbage", b"\x80\x04no pickle")
            relay, worker = await lab.start("relay", "worker")
            await lab.until_sent(IDS)
            await relay.process.until_event("relay.unreadable")
            await worker.process.until_event("worker.unreadable")
            everywhere = Everywhere(store)

            async def is_set_aside() -> bool:
                dead = await everywhere.xlen("outbox_dead")
                aside = await everywhere.zset("set_aside")
                return dead == len(GARBAGE) * PARTITIONS.count and [*aside] == ["default:damaged"]

            await lab.until_that(is_set_aside)
        del lab.due_ms["damaged"]
        await lab.post("after")
        await lab.until("after", "done")
        lab.check()


async def test_row_32_other_archive_parameters(tmp_path: Path) -> None:
    """The second API does not start on an archive that was made otherwise; the first one goes on."""
    async with a_lab(tmp_path) as lab:
        [api] = await lab.start("api")
        other = await lab.start("api", archive_error_rate="1e-3", is_ready=False)
        assert await other[0].process.wait() == 2
        assert "HTTPQUEUE_ARCHIVE_ERROR_RATE" in other[0].process.stderr[-1]
        await lab.start("relay", "worker")
        await lab.post("a")
        await lab.until("a", "done")
        assert api.process.is_running
