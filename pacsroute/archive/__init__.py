"""The archive: instances in a folder, and an index of them that answers queries (PS3.4 §B, §C, §J).

`Archive` is a blueprint. What it is made of, in the order in which an instance passes through:

- `model`: the attributes that are indexed, at which level; `entry`: those of one instance
- `files`: where instances are while they are stored, and where they stay; `layout`: their names
- `database`: connections and transactions; `schema`: the tables; `intake`: what may come in
- `queries`: the answers to C-FIND, and what a retrieval sends
- `upkeep`: recovery at a start, `check` and `reindex`; `commitment`: PS3.4 Annex J
"""
