"""The limit of open files bounds the calls in flight."""

import resource

import pytest
import structlog

from httpqueue.run.limits import SPARE_FILES, affordable_calls


@pytest.mark.parametrize(
    ("limit", "wanted", "calls"),
    [
        (10_000 + SPARE_FILES, 10_000, 10_000),
        (10_000 + SPARE_FILES - 1, 10_000, 9_999),
        (resource.RLIM_INFINITY, 10_000, 10_000),
        (100, 10, 1),
    ],
)
def test_a_worker_makes_fewer_calls_rather_than_fail_to_open_sockets(
    monkeypatch: pytest.MonkeyPatch, limit: int, wanted: int, calls: int
) -> None:
    """And says so."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    with structlog.testing.capture_logs() as logs:
        assert affordable_calls(wanted) == calls
    assert [entry["event"] for entry in logs] == ([] if calls == wanted else ["run.few_open_files"])
