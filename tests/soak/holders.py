"""Which process is at the other end of a connection on this machine (Linux alone can tell).

The kernel is asked for one socket (sock_diag(7)): its table of all sockets takes a tenth of a second to read
where there are many.
"""

import os
import socket
import struct
import sys
from collections.abc import Iterable
from typing import Final

End = tuple[str, int]
"""Address and port."""

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 1
_HEADER: Final = struct.Struct("=IHHII")
_REQUEST: Final = struct.Struct("=BBBBI")
_ANY_COOKIE: Final = b"\xff" * 8
_ALL_STATES: Final = 0xFFFFFFFF
_INODE_AT: Final = _HEADER.size + 68
"""The last field of struct inet_diag_msg."""


def pid_of(peer: End, own: End, pids: Iterable[int]) -> int | None:
    """The one of these processes that has the peer's end. None: none of them, or nobody can tell.

    peer, own: both ends, as this process sees them.
    """
    inode = inode_of(peer, own)
    return next((pid for pid in pids if inode and _has(pid, inode)), None)


def inode_of(local: End, remote: End) -> int | None:
    """The inode of the socket of this machine with these ends. None: there is none, or nobody can tell."""
    if sys.platform != "linux":
        return None
    ends = struct.pack("!HH", local[1], remote[1]) + _padded(local[0]) + _padded(remote[0])
    request = _REQUEST.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, 0, _ALL_STATES)
    body = request + ends + struct.pack("=I", 0) + _ANY_COOKIE
    header = _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
            kernel.send(header + body)
            answer = kernel.recv(8_192)
    except OSError:
        return None
    _, kind, *_ = _HEADER.unpack_from(answer)
    if kind != _SOCK_DIAG_BY_FAMILY:
        return None
    [inode] = struct.unpack_from("=I", answer, _INODE_AT)
    return int(inode) or None


def _padded(address: str) -> bytes:
    return socket.inet_aton(address) + bytes(12)


def _has(pid: int, inode: int) -> bool:
    directory, wanted = f"/proc/{pid}/fd", f"socket:[{inode}]"
    try:
        files = os.listdir(directory)  # noqa: PTH208 - Path takes ten times as long, for each connection
    except OSError:  # it is gone
        return False
    return any(_target(f"{directory}/{file}") == wanted for file in files)


def _target(link: str) -> str | None:
    try:
        return os.readlink(link)  # noqa: PTH115 - as above
    except OSError:  # it was closed
        return None
