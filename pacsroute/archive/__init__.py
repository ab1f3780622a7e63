"""The archive: instances in a folder or bucket, and an index for queries (PS3.4 §B, §C, §J).

`Archive`, in `blueprint`, is a blueprint of default routes. Its parts, in the order an instance
passes through them:

- `model`: the indexed attributes of each level; `entry`: the attributes of one instance
- `keeper`: the interface for keeping instances; `files`: a folder, with names by `layout`;
  `bucket`: a storage, with `ownership` to check the index and `ahead` for retrievals
- `storing`: stores file, then row, or quarantines the instance; `intake`: the rules of the index;
  `same`: compares two instances
- `database`: the interface of the index's database; `sqlite` and `postgresql` implement it;
  `schema`: its tables
- `queries`: the answers to C-FIND, and the instances of a retrieval
- `decisions`: decisions by people, which no instance contains, and their `journal`; `deletion` and
  `corrections`
- `upkeep`: recovery at startup, `check` and `reindex`; `commitment`: PS3.4 Annex J
- `settings`: the settings of an archive; `room`: the free space that it must leave
- `audited`: the patients and studies of audit events
"""
