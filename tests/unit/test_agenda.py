"""When a worker looks into which partition's queue."""

from math import inf

from httpqueue.timers.commands import WakeUp
from httpqueue.timers.names import TimerName
from httpqueue.worker.agenda import Agenda, by_partition


def test_at_first_every_partition_is_looked_into() -> None:
    """Once each; then there is nothing to look at, until `note` says when the next one is due."""
    agenda = Agenda(range(3))
    assert [agenda.take(5) for _ in range(4)] == [0, 1, 2, None]
    assert agenda.idle_s(5) == inf
    for partition, at_s in enumerate([7, 6, 8]):
        agenda.note(partition, at_s)
    assert agenda.idle_s(5) == 1
    assert agenda.take(5.9) is None
    assert [agenda.take(6) for _ in range(2)] == [1, None]
    assert [agenda.take(10) for _ in range(3)] == [0, 2, None]


def test_partitions_have_turns() -> None:
    """One that always has more does not keep the others waiting; nor does one whose claims fail."""
    agenda = Agenda(range(3))
    taken = []
    for _ in range(9):
        partition = agenda.take(5)
        assert partition is not None
        taken.append(partition)
        agenda.note(partition, 5)
    assert taken == [0, 1, 2] * 3


def test_who_was_looked_into_last_is_the_last() -> None:
    """A partition that was idle meanwhile has its turn first, whatever its number."""
    agenda = Agenda(range(3))
    for partition, at_s in enumerate([5, 5, 9]):
        assert agenda.take(5) == partition
        agenda.note(partition, at_s)
    assert agenda.take(5) == 0
    agenda.note(0, 5)
    assert [agenda.take(9) for _ in range(3)] == [1, 2, 0]


def test_nobody_looks_into_what_is_away() -> None:
    """Nor is that a reason to be awake: who says that it is back says so."""
    agenda = Agenda(range(3))
    assert [agenda.take(5, {0, 2}) for _ in range(2)] == [1, None]
    agenda.note(1, 7)
    agenda.wake(2)
    assert agenda.idle_s(5, {0, 2}) == 2
    assert agenda.idle_s(5, range(3)) == inf
    assert [agenda.take(5) for _ in range(3)] == [0, 2, None]


def test_a_wake_makes_it_be_looked_into_at_once() -> None:
    """Though its next wake-up was known to be due later."""
    agenda = Agenda(range(2))
    for partition in range(2):
        assert agenda.take(5) == partition
        agenda.note(partition, 1_000)
    agenda.wake(1)
    assert agenda.idle_s(5) == 0
    assert [agenda.take(5) for _ in range(2)] == [1, None]


def test_a_wake_during_a_claim_is_not_lost() -> None:
    """The claim may have looked before the wake-up came, and found that there is time."""
    agenda = Agenda(range(2))
    assert agenda.take(5) == 0
    agenda.wake(0)
    agenda.note(0, 1_000)
    assert [agenda.take(5) for _ in range(3)] == [1, 0, None]


def test_a_wake_is_good_for_one_look() -> None:
    """What that look finds counts from then on."""
    agenda = Agenda(range(1))
    agenda.wake(0)
    assert agenda.take(5) == 0
    agenda.note(0, 8)
    assert (agenda.take(5), agenda.idle_s(5)) == (None, 3)


def test_a_partition_that_there_is_not() -> None:
    """Somebody else's message: nobody looks into it."""
    agenda = Agenda(range(1))
    agenda.wake(7)
    assert [agenda.take(5) for _ in range(2)] == [0, None]


def test_wake_ups_by_partition() -> None:
    """Each in the order in which it came."""
    wake_ups = [WakeUp(TimerName("default", str(n)), 0, partition=n % 3) for n in (4, 1, 2, 7)]
    assert by_partition(wake_ups) == {1: [wake_ups[0], wake_ups[1], wake_ups[3]], 2: [wake_ups[2]]}
    assert by_partition([]) == {}
