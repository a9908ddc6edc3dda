"""Logs, and what a repr or traceback could bring into them (issue 11, "Secrets")."""

import logging
from collections.abc import Iterator

import httpx
import pytest
import structlog

from httpqueue.runtime import logs
from httpqueue.timers.commands import Begun, Change, NewTimer, WakeUp
from httpqueue.timers.names import TimerName, without_query
from httpqueue.timers.policies import ApplicationPolicy
from httpqueue.timers.schedule import Delay
from httpqueue.timers.spec import Callback, Spec
from httpqueue.timers.timer import State, Timer
from httpqueue.webhooks.message import Request

SECRET = "top-secret"
URL = f"https://example.com/hook?token={SECRET}"
NAME = TimerName("shop", "a")
SPEC = Spec(
    URL,
    Delay(0),
    headers={"Authorization": SECRET},
    body={"password": SECRET},
    callback=Callback(URL, {"Authorization": SECRET}),
)


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """A test sets the logs up for itself alone."""
    before = structlog.get_config()
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.configure(**before)
    logging.basicConfig(handlers=handlers, level=level, force=True)


@pytest.mark.parametrize("log_format", [logs.LogFormat.JSON, logs.LogFormat.TEXT])
async def test_libraries_log_no_urls(capsys: pytest.CaptureFixture[str], log_format: logs.LogFormat) -> None:
    """Httpx tells each call with its query at `info`; warnings and errors of libraries are logged."""
    logs.configure(log_format, "debug")
    transport = httpx.MockTransport(lambda _: httpx.Response(200))
    async with httpx.AsyncClient(transport=transport) as client:
        await client.get(URL)
    logging.getLogger("some.library").warning("it is late")
    logged = capsys.readouterr().err
    assert "it is late" in logged
    assert "example.com" not in logged


@pytest.mark.parametrize("log_format", [logs.LogFormat.JSON, logs.LogFormat.TEXT])
def test_tracebacks_show_no_variables(capsys: pytest.CaptureFixture[str], log_format: logs.LogFormat) -> None:
    """Not even where a package is installed that would."""
    logs.configure(log_format, "info")

    def fail(authorization: str) -> None:
        raise ValueError(len(authorization))

    try:
        fail(SECRET)
    except ValueError as error:
        structlog.get_logger().error("a.bug", exc_info=error)
    logged = capsys.readouterr().err
    assert "ValueError: 10" in logged
    assert SECRET not in logged


@pytest.mark.parametrize(
    "value",
    [
        SPEC,
        NewTimer(NAME, SPEC),
        Change(NAME, frozenset({State.SCHEDULED}), spec=SPEC),
        Timer(NAME, "nonce", State.SCHEDULED, generation=0, attempts=0, due_ms=0, spec=SPEC),
        Begun(
            wake_up=WakeUp(NAME, 0),
            nonce="nonce",
            holder="holder",
            lease_ms=1,
            attempt=1,
            lost=0,
            due_ms=0,
            started_ms=0,
            spec=SPEC,
            host="example.com",
            policy=ApplicationPolicy(secrets=(SECRET,)),
        ),
        Request("POST", URL, (("authorization", SECRET),), SECRET.encode()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_repr_has_a_secret(value: object) -> None:
    """Whoever logs such a value, or fails with it."""
    assert SECRET not in repr(value) + str(value)
    assert "example.com/hook" in repr(value)


@pytest.mark.parametrize("rest", ["", "?a=b", "#a", "?a#b", "?", "#a?b"])
def test_a_url_without_its_query(rest: str) -> None:
    """Nor its fragment."""
    assert without_query(f"https://example.com/a{rest}") == "https://example.com/a"
