import pytest
from hypothesis import given
from hypothesis import strategies as st

from httpqueue.timers.retry import RetryPolicy, backoff_ms
from httpqueue.webhooks.message import Fault, Response, SendError
from httpqueue.webhooks.outcome import Outcome, Verdict, judge, of_fault, of_status

NOW_MS = 1_700_000_000_000
POLICY = RetryPolicy(max_attempts=3, base_ms=1_000, max_ms=60_000)


def judged(
    result: Response | SendError, *, attempt: int = 1, policy: RetryPolicy = POLICY, jitter: float = 0.5
) -> Verdict:
    """The verdict on an attempt at NOW_MS."""
    return judge(result, attempt=attempt, policy=policy, jitter=jitter, now_ms=NOW_MS)


@pytest.mark.parametrize("status", range(100, 600))
def test_every_status_has_its_outcome(status: int) -> None:
    """2xx delivered; 429 and 5xx but 501 again; whatever else would come back the same: failed."""
    if status in range(200, 300):
        expected = Outcome.DELIVERED
    elif status == 429 or status in {500, *range(502, 600)}:
        expected = Outcome.RETRY
    else:
        expected = Outcome.FAILED
    assert of_status(status) is expected


@given(st.integers(600, 999))
def test_a_status_beyond_the_classes_counts_as_a_server_error(status: int) -> None:
    """RFC 9110 section 15: treat an invalid one as 5xx."""
    assert of_status(status) is Outcome.RETRY


def test_every_fault_has_its_outcome() -> None:
    """What may pass by itself is tried again."""
    assert {fault: of_fault(fault) for fault in Fault} == {
        Fault.TIMEOUT: Outcome.RETRY,
        Fault.CONNECTION: Outcome.RETRY,
        Fault.DNS: Outcome.RETRY,
        Fault.UNSIGNED: Outcome.RETRY,
        Fault.LOST_WORKER: Outcome.FAILED,
        Fault.TLS: Outcome.FAILED,
        Fault.PAST_DUE: Outcome.FAILED,
        Fault.INVALID_REQUEST: Outcome.FAILED,
        Fault.EGRESS_BLOCKED: Outcome.FAILED,
    }


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        (Response(204), Verdict(Outcome.DELIVERED, 204, None)),
        (Response(404), Verdict(Outcome.FAILED, 404, "HTTP 404")),
        (Response(301), Verdict(Outcome.FAILED, 301, "HTTP 301")),
        (Response(503), Verdict(Outcome.RETRY, 503, "HTTP 503", 500)),
        (Response(503, retry_after="7"), Verdict(Outcome.RETRY, 503, "HTTP 503", 7_000)),
        (Response(429, retry_after="99999"), Verdict(Outcome.RETRY, 429, "HTTP 429", 60_000)),
        (Response(429, retry_after="soon"), Verdict(Outcome.RETRY, 429, "HTTP 429", 500)),
        (
            Response(503, retry_after="Tue, 14 Nov 2023 22:13:40 GMT"),
            Verdict(Outcome.RETRY, 503, "HTTP 503", 20_000),
        ),
        (Response(404, retry_after="7"), Verdict(Outcome.FAILED, 404, "HTTP 404")),
        (SendError(Fault.DNS, "no such host"), Verdict(Outcome.RETRY, None, "no such host", 500)),
        (SendError(Fault.TLS, "expired"), Verdict(Outcome.FAILED, None, "expired")),
    ],
)
def test_a_verdict_says_what_the_store_and_the_client_need(
    result: Response | SendError, verdict: Verdict
) -> None:
    """Outcome, status, error and, for a retry, how long to wait."""
    assert judged(result) == verdict


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (Response(503, retry_after="7"), "HTTP 503; gave up after 3 attempts"),
        (SendError(Fault.TIMEOUT, "too slow"), "too slow; gave up after 3 attempts"),
    ],
)
def test_the_last_attempt_does_not_retry(result: Response | SendError, error: str) -> None:
    """Its error says that it was the last."""
    assert judged(result, attempt=2).outcome is Outcome.RETRY
    last = judged(result, attempt=3)
    assert (last.outcome, last.error, last.delay_ms) == (Outcome.FAILED, error, 0)


def test_a_delivery_in_the_last_attempt_is_a_delivery() -> None:
    """Giving up is for retries alone."""
    assert judged(Response(200), attempt=3) == Verdict(Outcome.DELIVERED, 200, None)


@given(
    st.builds(Response, status=st.integers(100, 999), retry_after=st.none() | st.text(max_size=40))
    | st.builds(SendError, st.sampled_from(Fault), st.text()),
    st.integers(1, 20),
    st.floats(0, 1, exclude_max=True),
)
def test_a_verdict_is_always_whole(result: Response | SendError, attempt: int, jitter: float) -> None:
    """Nothing a receiver sends breaks judging: retries wait within bounds, the rest waits for nothing."""
    policy = RetryPolicy(max_attempts=10)
    verdict = judged(result, attempt=attempt, policy=policy, jitter=jitter)
    assert (verdict.error is None) == (verdict.outcome is Outcome.DELIVERED)
    if verdict.outcome is Outcome.RETRY:
        assert attempt < 10
        assert backoff_ms(policy, attempt, jitter) <= verdict.delay_ms <= policy.max_ms
    else:
        assert verdict.delay_ms == 0
