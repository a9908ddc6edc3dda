"""Markdown whose examples are executed against a real httpqueue and receiver: what documents say is true.

A document is a story. Its fenced blocks are done in their order, and each is one of these:

    ```sh       `httpqueue …`, also after VARIABLE=value: from here on, requests go to this process.
                `NAME=$(httpqueue keys …)`: $NAME stands for its output in what follows.
                `httpqueue keys …`: must succeed.
    ```http     a request (`POST /timers`, headers, body): is sent. Content-Type is application/json unless
                given. A method with a whole URL (`POST https://example.com/…`) is a request that the receiver
                has got: its method, path, the headers that are shown, and its body.
    ```http     an answer (`HTTP/1.1 201 Created`): is what the last request was answered: its status, the
                headers that are shown, its body. A request without one must be answered with 2xx.
    ```json     an answer again: 200 or 201 with this body, when its status says nothing that matters.
    ```python   is run; `headers` and `body` are those of the last request that the receiver got.
    ```text     is only read: pictures, and what other systems say.

The nonce in an ETag or a webhook-id is drawn at random: a document writes any, and the same one for the same
timer. It stands for the one that was drawn, in If-Match, too. So does the id of a job in a Location.

An answer's JSON must be equal, with two exceptions: `…` in a string stands for anything (a string that is
nothing else, for any value), and a member "…" of an object for any further members.

https://example.com is the receiver. It answers 200, but 404 at /gone, 503 at /down, and at /flaky 503 twice
and then 200.
"""

import asyncio
import re
import shlex
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import orjson

from httpqueue import clock
from httpqueue.api.key_ring import FRESH_S
from tests.support.processes import HTTPQUEUE, started
from tests.support.receiver import Received, Receiver, Reply

SITE: Final = "https://example.com"
HOST: Final = "example.com"
ANYTHING: Final = "…"
TIMEOUT_S: Final = 60

_FENCE: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_REQUEST: Final = re.compile(r"([A-Z]+) (\S+)(?: HTTP/1\.1)?")
_OF_HOSTS: Final = re.compile(r"(GET|PUT) /destinations\b")
_STATUS: Final = re.compile(r"HTTP/1\.1 (\d{3}) .+")
_NONCE: Final = re.compile(r'^(?:"|[^":]+:[^":]+:)([\w-]{7})[.:]')
_JOB: Final = re.compile(r"/jobs/([\w-]{16})")
_WITH_NONCE: Final = frozenset({"etag", "webhook-id"})
_CAPTURE: Final = re.compile(r"([A-Z_]+)=\$\((.*)\)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block and the line of the document that it begins in."""

    line: int
    language: str
    text: str


@dataclass(frozen=True, slots=True)
class Message:
    """A request or an answer as a document shows it: first line, headers, body."""

    start: str
    headers: dict[str, str]
    body: str


def blocks_of(document: Path) -> list[Block]:
    """All fenced blocks of a document, in their order."""
    text = document.read_text(encoding="utf-8")
    return [
        Block(text.count("\n", 0, match.start()) + 1, match[1], match[2]) for match in _FENCE.finditer(text)
    ]


def message_of(text: str) -> Message:
    """An http block, read."""
    head, _, body = text.partition("\n\n")
    start, *headers = head.strip().splitlines()
    pairs = [header.split(":", 1) for header in headers]
    return Message(start, {name.strip(): value.strip() for name, value in pairs}, body.strip())


def differences(expected: Any, actual: Any, place: str = "") -> list[str]:
    """Where actual is not what the document says; empty: nowhere."""
    match expected, actual:
        case dict(), dict():
            open_end = expected.get(ANYTHING) == ANYTHING
            names = expected.keys() - {ANYTHING} if open_end else expected.keys() | actual.keys()
            return [
                difference
                for name in sorted(names)
                for difference in differences(
                    expected.get(name, "(no such member)"),
                    actual.get(name, "(no such member)"),
                    f"{place}.{name}",
                )
            ]
        case list(), list() if len(expected) == len(actual):
            pairs = enumerate(zip(expected, actual, strict=True))
            return [
                each for index, (one, other) in pairs for each in differences(one, other, f"{place}[{index}]")
            ]
    if expected == ANYTHING or (isinstance(expected, str) and _is_like(expected, actual)):
        return []
    return [] if expected == actual else [f"{place or 'it'} is {actual!r}, not {expected!r}"]


def _is_like(pattern: str, text: Any) -> bool:
    parts = map(re.escape, pattern.split(ANYTHING))
    return isinstance(text, str) and re.fullmatch(".*".join(parts), text, re.DOTALL) is not None


class Story:
    """A document on its way: the process, the receiver, and what was said last."""

    def __init__(self, receiver: Receiver, stack: AsyncExitStack, cwd: Path) -> None:
        self._receiver = receiver
        self._stack = stack
        self._cwd = cwd
        self._client: httpx.AsyncClient | None = None
        self._environment: list[str] = []
        self._answer: httpx.Response | None = None
        self._repeatable: httpx.Request | None = None
        self._repeat_until_s = 0.0
        self._got: Received | None = None
        self._variables: dict[str, str] = {}
        self._nonces: dict[str, str] = {}
        self._python: dict[str, Any] = {}

    async def tell(self, block: Block) -> None:
        """Do what a block says; AssertionError when it is not so."""
        match block.language:
            case "sh":
                for line in block.text.splitlines():
                    await self._command(line)
            case "http" if _STATUS.match(block.text):
                await self._compare_answers(message_of(block.text))
            case "http":
                await self._request(message_of(block.text))
            case "json":
                await self._compare_answers(Message("", {}, block.text))
            case "python":
                self._run(block.text)
            case language:
                assert language == "text", f"{language} is no language of these documents"

    def end(self) -> None:
        """Nothing is left open."""
        if self._answer is not None:
            assert self._answer.is_success, f"{self._answer.status_code} {self._answer.text}"
            self._answer = None

    async def _command(self, line: str) -> None:
        self.end()
        if capture := _CAPTURE.fullmatch(line):
            self._variables[capture[1]] = (await self._output(capture[2]))[0]
            return
        words = shlex.split(line)
        if "keys" in words:
            await self._output(line)
            await clock.sleep(FRESH_S + 0.5)  # an API looks for new keys so often, and tells nobody
            return
        command = words.index("httpqueue")
        self._environment = words[:command]
        process = await self._stack.enter_async_context(
            started("env", *self._environment, *HTTPQUEUE, *words[command + 1 :], cwd=self._cwd)
        )
        await process.until_ready()
        client = httpx.AsyncClient(base_url=process.url, timeout=TIMEOUT_S)
        self._client = await self._stack.enter_async_context(client)

    async def _output(self, line: str) -> list[str]:
        command, *words = shlex.split(line)
        assert command == "httpqueue", f"this is not run: {line}"
        async with started("env", *self._environment, *HTTPQUEUE, *words, cwd=self._cwd) as process:
            assert await process.wait() == 0, process.stderr
            return process.stdout

    async def _request(self, message: Message) -> None:
        self.end()
        match = _REQUEST.fullmatch(message.start)
        assert match, f"this is no request: {message.start}"
        method, target = match.groups()
        if target.startswith(SITE):
            await self._compare_got(method, target.removeprefix(SITE), message)
            return
        assert self._client is not None, "no httpqueue was started yet"
        headers = {"Content-Type": "application/json"} if message.body else {}
        headers |= {name: self._with_nonces(self._to_wire(value)) for name, value in message.headers.items()}
        request = self._client.build_request(
            method,
            self._with_nonces(self._to_wire(target)),
            headers=headers,
            content=self._to_wire(message.body) or None,
        )
        self._answer = await self._client.send(request)
        self._repeatable = request if _OF_HOSTS.match(message.start) else None
        self._repeat_until_s = clock.monotonic_s() + TIMEOUT_S / 4

    async def _compare_got(self, method: str, target: str, message: Message) -> None:
        got = await self._receiver.wait_for(1, path=target.partition("?")[0], timeout_s=TIMEOUT_S)
        self._got = got[-1]
        assert (self._got.method, self._got.target) == (method, target)
        self._compare_headers(message, {name: self._got.header(name) for name in message.headers})
        self._compare_body(message, self._to_page(self._got.body.decode()))

    async def _compare_answers(self, message: Message) -> None:
        """What workers tell of hosts comes a little later: a request that shows it is repeated."""
        while True:
            try:
                self._compare_answer(message)
            except AssertionError:
                if self._repeatable is None or clock.monotonic_s() > self._repeat_until_s:
                    raise
                assert self._client is not None
                self._answer = await self._client.send(self._repeatable)
            else:
                return

    def _compare_answer(self, message: Message) -> None:
        assert self._answer is not None, "nothing was asked"
        answer, self._answer = self._answer, None
        said = f"{answer.status_code} {answer.text}"
        match = _STATUS.fullmatch(message.start)
        assert answer.status_code in ({int(match[1])} if match else {200, 201}), said
        self._compare_headers(message, {name: answer.headers.get(name) for name in message.headers})
        self._compare_body(message, self._to_page(answer.text))

    def _compare_headers(self, message: Message, actual: dict[str, str | None]) -> None:
        for name, value in message.headers.items():
            if name.lower() in _WITH_NONCE:
                self._learn_nonce(value, actual[name])
            elif job := _JOB.fullmatch(value):
                drawn = _JOB.fullmatch(actual[name] or "")
                assert drawn, f"{actual[name]} is no job"
                self._nonces[job[1]] = drawn[1]
        expected = {name: self._with_nonces(value) for name, value in message.headers.items()}
        found = differences(expected, actual)
        assert not found, found

    def _learn_nonce(self, expected: str, actual: str | None) -> None:
        shown, drawn = _NONCE.match(expected), _NONCE.match(actual or "")
        assert shown, f"{expected} has no nonce"
        assert drawn, f"{actual} has no nonce"
        known = self._nonces.setdefault(shown[1], drawn[1])
        assert known == drawn[1], f"{expected} is another timer's than before"

    def _with_nonces(self, text: str) -> str:
        for shown, drawn in self._nonces.items():
            text = text.replace(shown, drawn)
        return text

    def _compare_body(self, message: Message, actual: str) -> None:
        if message.body.startswith(("{", "[")):
            found = differences(orjson.loads(message.body), orjson.loads(actual))
            assert not found, "\n".join([*found, actual])
        else:
            assert message.body == actual

    def _run(self, code: str) -> None:
        self.end()
        if self._got is not None:
            self._python |= {"headers": dict(self._got.headers), "body": self._got.body}
        exec(compile(code, "example", "exec"), self._python)  # noqa: S102 - the documents are ours

    def _to_wire(self, text: str) -> str:
        for name, value in self._variables.items():
            text = text.replace(f"${name}", value)
        return text.replace(SITE, self._receiver.url).replace(HOST, "127.0.0.1")

    def _to_page(self, text: str) -> str:
        return text.replace(self._receiver.url, SITE).replace("127.0.0.1", HOST)


@asynccontextmanager
async def story(cwd: Path) -> AsyncIterator[Story]:
    """The receiver, and nothing told yet; in the end all processes are ended."""
    async with Receiver() as receiver, AsyncExitStack() as stack:
        receiver.answer(Reply(404, b"no such hook"), path="/gone")
        receiver.answer(Reply(503, b"down for maintenance"), path="/down")
        receiver.answer(Reply(503), Reply(503), Reply(200), path="/flaky")
        told = Story(receiver, stack, cwd)
        yield told
        told.end()


async def tell(document: Path, cwd: Path) -> int:
    """Execute a document; AssertionError with the line that is not true. Returns how many blocks it has."""
    blocks = blocks_of(document)
    async with story(cwd) as told:
        for block in blocks:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    await told.tell(block)
            except Exception as error:
                raise AssertionError(f"{document.name}:{block.line}: {error or type(error)}") from error
    return len(blocks)
