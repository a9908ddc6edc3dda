"""A place in the code where tests listen."""

from httpqueue.runtime.signal import Signal


def test_everybody_who_listens_is_told_in_their_order() -> None:
    """Each value, from when they listen on."""
    signal: Signal[int] = Signal()
    heard: list[tuple[str, int]] = []
    signal.emit(1)
    signal.listen(lambda value: heard.append(("first", value)))
    signal.emit(2)
    signal.listen(lambda value: heard.append(("second", value)))
    signal.emit(3)
    assert heard == [("first", 2), ("first", 3), ("second", 3)]
