"""The rules of tests: their receivers are on the loopback."""

from typing import Final

from httpqueue.webhooks.egress import Egress, EgressMode

PRIVATE: Final = Egress(EgressMode.PRIVATE)
PUBLIC: Final = Egress(EgressMode.PUBLIC)
