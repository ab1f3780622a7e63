"""DIMSE: command sets and messages, without I/O (PS3.7)."""
