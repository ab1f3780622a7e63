"""The upper layer: PDUs, negotiation and the state machine, without I/O (PS3.8)."""
