"""Data sets: rows and Datasets to bytes and back, instances, conversion."""
