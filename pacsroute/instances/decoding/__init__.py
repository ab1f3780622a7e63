"""Decoders behind a wall: in child processes, with limits of memory and time.

A code stream of a few hundred bytes can make a decoder loop without end, take all memory or
write where it should not. So none runs in the process that answers peers.
"""
