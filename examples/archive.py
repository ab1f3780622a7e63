"""A working archive: it stores, answers queries, sends, and commits to its instances.

    pacsroute run examples/archive.py --destination WORKSTATION=10.0.0.7:11112

The first start creates files and index in the folder ``archive``, or in the one that the
environment variable ARCHIVE names.
"""

import os

from pacsroute import App, Archive

app = App("ARCHIVE")
archive = Archive(os.environ.get("ARCHIVE", "archive"))
app.register_blueprint(archive)
