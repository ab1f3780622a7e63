"""Another process of a server with several workers, which shares its database."""

import sqlite3
from contextlib import closing


def beside_another_worker(path, check, refusals):
    """Return a check during which another process wants to change a database, and hears why not."""

    def checked(*args):
        with closing(sqlite3.connect(path, timeout=0)) as another:
            try:
                another.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                refusals.append(str(error))
        return check(*args)

    return checked
