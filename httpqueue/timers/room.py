"""What one call of `begin` may start. Pure. worker/slots.py makes it; lua/begin.lua does what `take` does."""

from dataclasses import dataclass, field
from typing import Final

FACTOR: Final = 4
"""How many times the free slots one application may have."""


def is_below(left: int, to_host: int, pair: int, *, cap: int, total: int) -> bool:
    """Whether a call is below the thresholds of worker/slots.py. Whole numbers: the script decides alike.

    left: FACTOR times the free slots, without the calls of the application. Nothing starts when it is 0.
    """
    return to_host < cap and pair * FACTOR * FACTOR * total < (FACTOR + 1) * cap * left


@dataclass(slots=True)
class Room:
    """What one call of `begin` may start. Plain numbers by name, for the script, which does what `take` does.

    The tables hold only who has more calls than an eighth of its threshold, and all hosts with a rule:
    usually next to nothing. Who is not in them counts as an eighth.

    The first `take` decides exactly as the rule does, and so does every one for hosts and applications in the
    tables. Others may be refused some calls early. No threshold is ever passed. The next Room has the true
    numbers.
    """

    total: int
    """All slots."""
    free: int
    host_slots: int
    """The cap of hosts that `caps` does not name."""
    caps: dict[str, int]
    few: int
    """The calls of an application that is not in `applications`, also to a host that is not in `pairs`."""
    few_to_host: int
    """The calls to a host that is neither in `hosts` nor in `caps`; 0 for one in `caps`."""
    applications: dict[str, tuple[int, int]] = field(default_factory=dict)
    """{application: (its calls, its calls to a host that is neither in `pairs` nor in `caps`)}"""
    pairs: dict[str, dict[str, int]] = field(default_factory=dict)
    """{application: {host: its calls}}"""
    hosts: dict[str, int] = field(default_factory=dict)
    """{host: calls of all applications}"""

    def take(self, application: str, host: str) -> bool:
        """Whether a call may start. If so, it counts from now on."""
        calls, few = self.applications.get(application, (self.few, self.few))
        cap = self.caps.get(host)
        to_host = self.hosts.get(host, self.few_to_host if cap is None else 0)
        pair = self.pairs.get(application, {}).get(host, few if cap is None else 0)
        left = FACTOR * self.free - calls
        if not is_below(left, to_host, pair, cap=self.host_slots if cap is None else cap, total=self.total):
            return False
        self.free -= 1
        self.applications[application] = calls + 1, few
        self.hosts[host] = to_host + 1
        self.pairs.setdefault(application, {})[host] = pair + 1
        return True
