"""Sockets, threads and deadlines: no other package uses them."""
