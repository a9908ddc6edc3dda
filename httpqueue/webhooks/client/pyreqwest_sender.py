"""Calls webhooks with pyreqwest (Rust's reqwest and rustls): the default, for its small cost of CPU a call.

A crash loses the attempts in flight and nothing else: nothing is kept here.
"""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import certifi
import pyreqwest.response
from pyreqwest.client import ClientBuilder
from pyreqwest.exceptions import BuilderError, DetailedPyreqwestError, PyreqwestError, RequestTimeoutError

from httpqueue.webhooks.client.sender import MAX_RESPONSE_BYTES, Call, OnDone
from httpqueue.webhooks.client.task_call import TaskCall
from httpqueue.webhooks.message import Fault, Request, Response, SendError

_IDLE = timedelta(seconds=4)  # common servers drop an idle connection after 5 s: be first
_MAX_MESSAGE = 200
_EXPECT_A_BODY = frozenset({"POST", "PUT", "PATCH"})


class PyreqwestSender:
    """A Sender without a limit of calls in flight.

    A cancelled call returns at once, but pyreqwest lets the exchange run on until its deadline: the
    receiver may still get it.
    """

    def __init__(self) -> None:
        try:
            self._client = _builder().build()
        except BuilderError:  # a system without certificates of its own, as a minimal Debian is
            certificates = Path(certifi.where()).read_bytes()
            self._client = _builder().add_root_certificate_pem(certificates).build()

    def start(self, request: Request, *, timeout_s: float, on_done: OnDone) -> Call:
        """See Sender."""
        return TaskCall(self.send(request, timeout_s=timeout_s), on_done)

    async def send(self, request: Request, *, timeout_s: float) -> Response:
        """See Sender."""
        try:
            call = self._client.request(request.method, request.url).headers(request.headers)
            if request.body:
                call.body_bytes(request.body)
            elif request.method in _EXPECT_A_BODY:  # RFC 9110 section 8.6; reqwest leaves it out
                call.header("content-length", "0")
            # reqwest's total timeout: from the first byte of the connect to the last byte of the body
            async with call.timeout(timedelta(seconds=timeout_s)).build_streamed() as answer:
                excerpt = await answer.body_reader.read(MAX_RESPONSE_BYTES)
                return Response(
                    answer.status, _retry_after(answer), b"" if excerpt is None else bytes(excerpt)
                )
        except RequestTimeoutError:
            raise SendError(Fault.TIMEOUT, f"no whole answer within {timeout_s:g} s") from None
        except ValueError:  # pyreqwest's text repeats the header
            raise SendError(Fault.INVALID_REQUEST, "the URL, method or headers cannot be sent") from None
        except PyreqwestError as error:  # its text repeats the URL with its query
            raise _translate(error) from None

    async def close(self) -> None:
        """See Sender."""
        await self._client.close()


def _builder() -> ClientBuilder:
    return (
        ClientBuilder()
        .no_proxy()
        .follow_redirects(False)
        .gzip(False)
        .brotli(False)
        .zstd(False)
        .deflate(False)
        .pool_idle_timeout(_IDLE)
    )


def _retry_after(answer: pyreqwest.response.Response) -> str | None:
    try:
        return answer.get_header("retry-after")
    except ValueError:  # bytes that are no text: garbage, and no reason to lose the answer
        return None


def _translate(error: PyreqwestError) -> SendError:
    details = error.details if isinstance(error, DetailedPyreqwestError) else {"causes": None}
    causes = [cause["message"] for cause in details["causes"] or ()]
    # the first cause names the URL, the last one is the root; a certificate's can be long
    message = causes[-1] if len(causes) > 1 else error.message
    return SendError(fault_of_causes(causes), message[:_MAX_MESSAGE])


def fault_of_causes(causes: Sequence[str]) -> Fault:
    """Cause texts, outermost first -> fault.

    reqwest has one error for all that can go wrong with a connection: only the texts of hyper
    ("dns error") and rustls ("invalid peer certificate: ...") tell them apart. Whatever they do not
    tell is CONNECTION, which is tried again.
    """
    if "dns error" in causes:
        return Fault.DNS
    if any(cause.startswith("invalid peer certificate") for cause in causes):
        return Fault.TLS
    return Fault.CONNECTION
