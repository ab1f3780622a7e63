"""Fuzz one target in this process, which libFuzzer ends: python -m tests.fuzz.one NAME [FILE]…

The arguments behind the name are libFuzzer's; a file shows again what was found in it.
"""

import logging
import sys

import atheris

with atheris.instrument_imports(include=["pacsroute"], enable_loader_override=False):
    from tests.fuzz import targets

if __name__ == "__main__":
    logger = logging.getLogger("pacsroute")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(targets.LOGGED)
    atheris.Setup([sys.argv[0], *sys.argv[2:]], targets.TARGETS[sys.argv[1]])
    atheris.Fuzz()
