"""What a soak does, and when: drawn from its seed alone, before it starts. Pure.

Times are in ms since the start of the run.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random
from typing import Final

PARTS: Final = ("api-1", "api-2", "relay-1", "relay-2", "worker-1", "worker-2")
APIS: Final = PARTS[:2]
SERVERS: Final = ("store", "queue")
TENANTS: Final = ("alpha", "beta")

ATTEMPT_TIMEOUT_MS: Final = 10_000
"""Long, so that receivers may be slow while the machine is busy."""
LANES: Final = 60
"""Ordering keys of each tenant."""
LONG_MS: Final = 25_000
"""Longer than a lease."""
FAULTS_A_MINUTE: Final = 8
CALM_START_MS: Final = 4_000
CALM_END_MS: Final = 4_000
"""No fault begins earlier, or ends later before the last timer is posted."""


class Kind(StrEnum):
    """A kind of fault."""

    # of a process
    KILL = "kill -9"
    TERM = "SIGTERM"
    FREEZE = "SIGSTOP"
    # of the way from a process to a server
    CUT = "cut"
    DELAY = "delay"
    HALF_OPEN = "half-open"
    LOST_REPLY = "dropped reply"
    # of a server
    SERVER_KILL = "server: kill -9"
    SERVER_FREEZE = "server: SIGSTOP"
    CLIENT_KILL = "server: CLIENT KILL"
    SCRIPT_FLUSH = "server: SCRIPT FLUSH"
    FLUSHALL = "queue: FLUSHALL"
    MAXMEMORY = "server: maxmemory"
    # of a receiver
    HANG = "receiver hangs"
    RESET = "receiver resets"
    STATUS_500 = "receiver: 500"
    STATUS_503 = "receiver: 503"


WAYS: Final = tuple(
    f"{part}>{server}"
    for part in PARTS
    for server in SERVERS
    if (part, server) not in {("api-1", "queue"), ("api-2", "queue")}
)
"""The connections between processes and servers; an API knows the store alone."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """Whom a kind of fault strikes, and for how long."""

    targets: tuple[str, ...]
    ms: tuple[int, int]
    """Shortest and longest."""
    long_share: float = 0.0
    """How many of them last LONG_MS instead."""


_SHAPES: Final = {
    Kind.KILL: _Shape(PARTS, (100, 3_000)),
    Kind.TERM: _Shape(PARTS, (0, 500)),
    Kind.FREEZE: _Shape(PARTS, (500, 6_000), 0.2),
    Kind.CUT: _Shape(WAYS, (300, 5_000), 0.2),
    Kind.DELAY: _Shape(WAYS, (1_000, 5_000)),
    Kind.HALF_OPEN: _Shape(WAYS, (1_000, 5_000)),
    Kind.LOST_REPLY: _Shape(WAYS, (0, 0)),
    Kind.SERVER_KILL: _Shape(SERVERS, (100, 4_000), 0.15),
    Kind.SERVER_FREEZE: _Shape(SERVERS, (500, 7_000), 0.15),
    Kind.CLIENT_KILL: _Shape(SERVERS, (0, 0)),
    Kind.SCRIPT_FLUSH: _Shape(SERVERS, (0, 0)),
    Kind.FLUSHALL: _Shape(("queue",), (0, 0)),
    Kind.MAXMEMORY: _Shape(SERVERS, (1_000, 6_000)),
    Kind.HANG: _Shape(TENANTS, (2_000, 8_000)),
    Kind.RESET: _Shape(TENANTS, (1_000, 4_000)),
    Kind.STATUS_500: _Shape(TENANTS, (1_000, 4_000)),
    Kind.STATUS_503: _Shape(TENANTS, (1_000, 4_000)),
}
_MOST_WANTED: Final = (Kind.KILL, Kind.FREEZE, Kind.SERVER_KILL)
"""These come twice as often as the others."""
DELAYS_MS: Final = (50, 700)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault that will be made."""

    at_ms: int
    kind: Kind
    target: str
    """A part, a server, a way (part>server) or a tenant, whose receiver it strikes."""
    for_ms: int
    """How long it lasts; a process or server that was killed stays away for so long."""
    delay_ms: int = 0
    """Of DELAY: how long each piece of data takes."""


@dataclass(frozen=True, slots=True)
class Order:
    """One timer that will be posted, and what its client does with it later."""

    at_ms: int
    id: str
    application: str
    due_ms: int
    takes_ms: int
    """How long its receiver takes to answer."""
    lane: str = ""
    """Its ordering key."""
    is_recurring: bool = False
    """Every minute; due_ms is not used."""
    batch: int = -1
    """Orders of one batch (not -1) are posted together, at the time of the first."""
    update_at_ms: int | None = None
    update_due_ms: int = 0
    cancel_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """All of a run."""

    seed: int
    minutes: float
    rate: int
    orders: tuple[Order, ...]
    """In the order of at_ms."""
    faults: tuple[Fault, ...]
    """In the order of at_ms. Those that strike the same target do not overlap."""

    @property
    def end_ms(self) -> int:
        """When the last timer has been posted."""
        return round(self.minutes * 60_000)


def draw(seed: int, *, minutes: float, rate: int) -> Plan:
    """The plan of a seed. rate: timers posted a second."""
    end_ms = round(minutes * 60_000)
    # Two dice: another rate leaves the faults as they are.
    return Plan(
        seed,
        minutes,
        rate,
        _draw_orders(Random(f"{seed} load"), end_ms, rate),
        _draw_faults(Random(f"{seed} faults"), end_ms),
    )


def _draw_orders(dice: Random, end_ms: int, rate: int) -> tuple[Order, ...]:
    count = end_ms * rate // 1000
    orders: list[Order] = []
    batch_left, batch = 0, -1
    lane_due_ms: dict[str, int] = {}
    for number in range(count):
        if not batch_left and dice.random() < 0.004:
            batch, batch_left = batch + 1, dice.randint(5, 60)
        at_ms = number * 1000 // rate
        application = dice.choice(TENANTS)
        order = Order(
            at_ms,
            f"t{number}",
            application,
            min(at_ms + _delay_ms(dice), end_ms + 2_000),
            dice.choice((0, 0, 5, 20, 50, 50, 150)) if dice.random() > 0.005 else 1_500,
        )
        if batch_left:
            batch_left -= 1
            orders.append(replace(order, batch=batch))
            continue
        orders.append(_vary(dice, order, end_ms, lane_due_ms))
    return tuple(orders)


def _delay_ms(dice: Random) -> int:
    kind = dice.random()
    if kind < 0.15:
        return 0
    if kind < 0.9:
        return dice.randint(500, 12_000)
    return dice.randint(12_000, 60_000)


def _vary(dice: Random, order: Order, end_ms: int, lane_due_ms: dict[str, int]) -> Order:
    """Make some of them ordered, updated, cancelled or recurring."""
    kind = dice.random()
    if kind < 0.12:
        lane = f"lane-{dice.randrange(LANES)}"
        place = f"{order.application} {lane}"
        # Timers of a lane are posted in the order of their due times, so that they all wait for each other.
        due_ms = max(order.at_ms + dice.randint(500, 6_000), lane_due_ms.get(place, 0) + dice.randint(1, 500))
        due_ms = lane_due_ms[place] = min(due_ms, end_ms + 3_000)
        cancel_at_ms = dice.randint(order.at_ms, due_ms + 100) if dice.random() < 0.1 else None
        return replace(order, lane=lane, due_ms=due_ms, cancel_at_ms=cancel_at_ms)
    latest_ms = order.due_ms + 200
    if kind < 0.22:
        at_ms = dice.randint(order.at_ms, latest_ms)
        due_ms = min(at_ms + _delay_ms(dice), end_ms + 3_000)
        return replace(order, update_at_ms=at_ms, update_due_ms=due_ms)
    if kind < 0.32:
        return replace(order, cancel_at_ms=dice.randint(order.at_ms, latest_ms))
    if kind < 0.324:
        cancel_at_ms = dice.randint(order.at_ms, end_ms) if dice.random() < 0.3 else end_ms
        return replace(order, is_recurring=True, cancel_at_ms=cancel_at_ms)
    return order


def _draw_faults(dice: Random, end_ms: int) -> tuple[Fault, ...]:
    count = end_ms * FAULTS_A_MINUTE // 60_000
    first_ms, last_ms = CALM_START_MS, end_ms - CALM_END_MS
    faults: list[Fault] = []
    free_ms: dict[str, int] = {}
    bag: list[Kind] = []
    for number in range(count):
        slot_ms = (last_ms - first_ms) // count
        at_ms = first_ms + number * slot_ms + dice.randint(0, slot_ms // 2)
        if not bag:
            bag = [*Kind, *_MOST_WANTED]
            dice.shuffle(bag)
        kind = bag.pop()
        shape = _SHAPES[kind]
        targets = [target for target in shape.targets if free_ms.get(target, 0) <= at_ms]
        if not targets:  # all of them are struck already: the kind's turn comes later
            bag.insert(0, kind)
            continue
        target = dice.choice(targets)
        is_long = dice.random() < shape.long_share and at_ms + LONG_MS < last_ms
        for_ms = LONG_MS if is_long else min(dice.randint(*shape.ms), max(last_ms - at_ms, 0))
        delay_ms = dice.randint(*DELAYS_MS) if kind is Kind.DELAY else 0
        # A process or server that was killed needs a moment to come back.
        free_ms[target] = at_ms + for_ms + 6_000
        faults.append(Fault(at_ms, kind, target, for_ms, delay_ms))
    return tuple(faults)
