"""What writes shards: each engine is one file here, with run(work, shards, workers, options, done) -> None.

It calls work.writer() in each process that takes part, and what that returns with each shard, in any order and any
number of times; `done` is called with each shard that is finished, as far as the engine can tell.
"""
