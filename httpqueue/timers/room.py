"""What one call of `begin` may start. Pure. worker/slots.py makes it, and lua/begin.lua does what `take` does."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Room:
    """How many more calls may start: of an application, of it to a host, and to a host.

    Who is not in a table may start as many as the batch has, but no host more than `host_room`.
    """

    host_room: int
    """Calls to a host that is not in `hosts`."""
    hosts: dict[str, int] = field(default_factory=dict)
    """{host: calls}"""
    applications: dict[str, int] = field(default_factory=dict)
    """{application: calls}"""
    other_hosts: dict[str, int] = field(default_factory=dict)
    """{application: its calls to each host that is not in `pairs`}"""
    pairs: dict[str, dict[str, int]] = field(default_factory=dict)
    """{application: {host: its calls}}"""

    def take(self, application: str, host: str) -> bool:
        """Whether a call may start. If so, it counts from now on."""
        to_host = self.hosts.get(host, self.host_room)
        of_pair = self.pairs.get(application, {}).get(host, self.other_hosts.get(application, to_host))
        of_application = self.applications.get(application, to_host)
        if min(to_host, of_pair, of_application) < 1:
            return False
        self.hosts[host] = to_host - 1
        if application in self.applications:
            self.applications[application] = of_application - 1
        self.pairs.setdefault(application, {})[host] = of_pair - 1
        return True
