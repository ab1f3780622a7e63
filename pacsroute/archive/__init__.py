"""The archive: instances in a folder or bucket, and an index for queries (PS3.4 §B, §C, §J).

`Archive`, in `blueprint`, is a blueprint of default routes. Its parts, in the order in which an
instance passes through:

- `model`: the attributes that are indexed, at which level; `entry`: those of one instance
- `keeper`: what keeps instances; `files`: a folder, with names by `layout`; `bucket`: a storage,
  with `ownership` for whose index may remove objects, and `ahead` for retrievals
- `storing`: file first, then row, and what does not fit aside; `intake`: the rules of the index;
  `same`: whether two instances are equal
- `database`: what is needed of one; `sqlite` and `postgresql`: the two there are; `schema`: its
  tables
- `queries`: the answers to C-FIND, and what a retrieval sends
- `decisions`: what people have decided, which no instance tells, and its `journal`; `deletion` and
  `corrections`
- `upkeep`: recovery at a start, `check` and `reindex`; `commitment`: PS3.4 Annex J
- `settings`: the settings of an archive; `room`: the free space that has to stay
- `audited`: what audit events say of patients and studies
"""
