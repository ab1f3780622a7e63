"""Packet captures: files, packets and TCP connections."""
