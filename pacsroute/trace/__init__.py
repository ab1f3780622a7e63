"""The bytes of an association: recorded, read back, and shown to a person.

It observes the bytes of both directions, from any source: a live association (`tap`), a
recording (`recording`) or a capture of a network (`capture`, `tcp`).
"""
