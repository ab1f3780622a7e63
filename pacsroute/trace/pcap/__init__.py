"""Packet captures: their files, their packets, and the TCP connections in them."""
