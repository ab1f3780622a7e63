r"""Matching of C-FIND keys in Python and in SQL, with the same results (PS3.4 §C.2.2.2).

`matches` tests one row, and `matcher` many rows, with one identifier. `where` turns the identifier
into the condition of an SQL query, with every value of the peer as a bound parameter. `stored`
gives the value that a matched column must hold:

>>> import sqlite3
>>> from pydicom import Dataset
>>> from pacsroute import matching
>>> db = sqlite3.connect(":memory:")
>>> _ = db.execute("CREATE TABLE study (name, name_key, date)")
>>> name, date = "Müller^Jürgen", "20240115"
>>> row = (name, matching.stored("PatientName", name), matching.stored("StudyDate", date))
>>> _ = db.execute("INSERT INTO study VALUES (?, ?, ?)", row)

>>> key = Dataset()
>>> key.PatientName, key.StudyDate = "MÜLLER*", "20240101-"
>>> sql, parameters = matching.where(key, {"PatientName": "name_key", "StudyDate": "date"})
>>> db.execute(f"SELECT name FROM study WHERE {sql}", parameters).fetchall()
[('Müller^Jürgen',)]
>>> matching.matches(key, {"PatientName": name, "StudyDate": date})
True
>>> db.close()

A database that keeps the original values can be matched, too, with a function call for each row:
``connection.create_function("stored", 2, matching.stored, deterministic=True)``, and
``"stored('PatientName', name)"`` for the column; SQLite can even index that.

`where` has ``dialect="postgresql"``, too, for psycopg (``%s`` marks its parameters).

Decisions where the standard leaves a choice:

- A key that is empty or only ``*`` matches everything. ``A\B`` matches either, whatever the VR.
- A value that is invalid for its VR, such as a date with letters or a name of more than 1024
  characters, counts as empty. An invalid *key* is an `IdentifierError`.
- Names are compared by Unicode case folding, on composed characters; accents count. Spaces around
  a component and trailing ``^`` and ``=`` do not, and ``DOE^*`` finds ``Doe`` too. A key is
  tried on the whole name and on its leading component groups; an empty group in a key, as in
  ``=山田*``, stands for any.
- Times and date-times in keys include everything that they leave out: ``10`` is the hour from 10:00
  to 10:59:59.999999, and ``-11`` ends with 11:59:59.999999. In values they mean the first moment.
- Date-times are compared in UTC. One without an offset is taken as UTC: that is right if neither
  side has an offset, and wrong by that offset if one side has. ``20240101-0500`` has an offset,
  because -0000 to -1459 are offsets; ``2023-2024`` is a range.
- IS, DS and binary numbers are compared as numbers. Tags and bulk data are never conditions.
- Date and time are two keys, not combined, and ``""`` is no key for empty values: both take
  extended negotiation. But ranges of the start of a scheduled step are one range, from the first
  date and time to the last (PS3.4 Table K.6-1): the night of a worklist is ``20240705-20240706``
  and ``1800-0600``.

The keys of an identifier are bounded, so that no row takes long: 10,000 values; 2,500 ranges
and patterns, which have 10,000 characters in all; 16 items of sequences. More is an
`IdentifierError`. The patterns of a key are compiled once, kept nowhere else, and look at each
character of a value once.
"""

from pacsroute.matching.rows import matcher, matches
from pacsroute.matching.sql import Columns, Where, where
from pacsroute.matching.values import stored

__all__ = ["Columns", "Where", "matcher", "matches", "stored", "where"]
