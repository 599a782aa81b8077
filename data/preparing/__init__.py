"""Preparing any source for fast reading: smaller JPEGs in a few large files that any tool of TFDS reads.

    preparation.py  the whole of it: plans, runs an engine, merges, describes, verifies
    scaling.py      how a record is stored: the rules for images and truths
    shards.py       the files of records, each written whole or not at all
    tables.py       the truths of all records, in columns that are mapped into memory
    features.py     what TFDS knows of the dataset
    engines/        what writes the shards: processes of this machine, or Apache Beam

data/sources/prepared.py reads the result.
"""
