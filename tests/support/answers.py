"""The answers that a generator yields and the status that it returns."""


def result(generator):
    """Return what a generator yields, and what it returns."""
    found = []
    while True:
        try:
            found.append(next(generator))
        except StopIteration as stop:
            return found, stop.value
