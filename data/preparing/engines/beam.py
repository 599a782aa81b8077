"""Apache Beam: the pipeline Create(shards) | Reshuffle | write, on whatever runner --beam_options name.

Every machine must see the source and the folder under the same paths. Beam may run a shard twice, or on two machines at
once: both write the same bytes, each to a file of its own name, and the later rename replaces the earlier file by its
equal.
"""

from collections.abc import Callable, Sequence

from morphism.data.preparing.preparation import Work
from morphism.data.preparing.shards import Shard
from morphism.errors import UserError

try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
except ImportError as error:
    raise UserError("--engine beam needs Apache Beam: pip install '.[beam]'") from error


class Write(beam.DoFn):
    """Writes shards; opens the source once per process."""

    def __init__(self, work: Work):
        self._work, self._writer = work, None

    def setup(self) -> None:
        self._writer = self._work.writer()

    def process(self, shard: tuple) -> list[tuple]:
        self._writer(Shard(*shard))
        return [tuple(shard)]


def run(
    work: Work, shards: Sequence[Shard], workers: int, options: Sequence[str], done: Callable[[Shard], None]
) -> None:
    """workers: processes of Beam's own runner, where `options` name no other; 0: this one."""
    local = [] if any(each.startswith("--runner") for each in options) else _locally(workers)
    with beam.Pipeline(options=PipelineOptions([*local, *options])) as pipeline:
        listed = [tuple(shard) for shard in shards]
        _ = pipeline | beam.Create(listed) | beam.Reshuffle() | beam.ParDo(Write(work.opened_again()))
    for shard in shards:
        done(shard)


def _locally(workers: int) -> list[str]:
    several = [f"--direct_num_workers={workers}", "--direct_running_mode=multi_processing"]
    return ["--runner=DirectRunner", *(several if workers > 1 else [])]
