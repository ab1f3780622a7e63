"""Tests without a network: a client of an app in memory, and replay of recordings."""

from pacsroute.testing.comparing import Difference
from pacsroute.testing.memory import MemoryAssociation, TestClient
from pacsroute.testing.replaying import replay

__all__ = ["Difference", "MemoryAssociation", "TestClient", "replay"]
