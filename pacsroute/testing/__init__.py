"""Tests without a network: a client that speaks to an app in memory, and recordings replayed."""

from pacsroute.testing.comparing import Difference
from pacsroute.testing.memory import MemoryAssociation, TestClient
from pacsroute.testing.replaying import replay

__all__ = ["Difference", "MemoryAssociation", "TestClient", "replay"]
