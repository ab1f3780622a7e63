"""Sockets, threads and deadlines: the only place that has them."""
