"""Evaluations on the validation split during training, and what they decide: the best checkpoint, early stopping."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from morphism.data.oddities import Oddities
from morphism.errors import NonFinite
from morphism.evaluation.drawings import Evaluated, keeping, shown
from morphism.evaluation.loop import BatchCache, Drawn, gather, of_all_processes, predict, summarise
from morphism.runtime.processes import exchanged
from morphism.runtime.stopping import Stopped, StopRequest
from morphism.runtime.writer import Writer
from morphism.tasks.task import lower_is_better
from morphism.training.build import Parts
from morphism.training.drawer import Drawer
from morphism.training.meter import REMEDY, NonFiniteLoss
from morphism.training.patience import since_best
from morphism.training.state import TrainState, eval_variables

SHOWN = 3  # metrics of each part of a task that a line shows


class Validation:
    """Evaluates the states of a training on its validation split."""

    def __init__(
        self,
        config: ConfigDict,
        parts: Parts,
        *,
        writer: Writer,
        drawer: Drawer,
        stop: StopRequest,
        odd: Oddities,
        judged: Sequence[float],
    ):
        """`config` is the `settled` configuration of `parts`; `judged` the past values of its `judge_of`."""
        self._config, self._parts, self._writer, self._drawer, self._stop = config, parts, writer, drawer, stop
        self._odd, self._judged = odd, list(judged)
        self._cache = BatchCache() if config.data.on_device else None

    def recorded(self, step: int, state: TrainState) -> dict[str, float] | None:
        """Evaluates, and records and returns the task's headline metrics; None, and no record, if stopped before."""
        found = self._evaluated(step, state)
        if found is None:
            return None
        results = headline(found)
        self._writer.record(step, {f"val/{key}": value for key, value in results.items()})
        if judge := judge_of(self._config).removeprefix("val/"):
            self._judged.append(results[judge])
        self._say(step, found)
        self._drawer.evaluation(step, self._config.data.val_split, found)
        return results

    def unrecorded(self, step: int, state: TrainState) -> dict[str, float] | None:
        """Evaluates, and reports the task's headline metrics without a trace in the run; None if stopped before."""
        found = self._evaluated(step, state)
        if found is None:
            return None
        self._say(step, found)
        return headline(found)

    def gave_up(self, step: int) -> str:
        """Why training stops early after the evaluation of `step`; "" if it goes on."""
        config, total = self._config.stop, self._parts.lengths.total
        metric = judge_of(self._config).removeprefix("val/")
        lower = lower_is_better(self._parts.programs.task, metric)
        waited = since_best(self._judged, lower=lower, min_delta=config.min_delta)
        if not 0 < config.patience <= waited or step == total:
            return ""
        return (
            f"stopped early after step {step} of {total}: {metric} has not become better in the last {waited} "
            "evaluations (config.stop); a larger --config.stop.patience goes on"
        )

    def _evaluated(self, step: int, state: TrainState) -> Evaluated | None:
        parts, config, programs, val = self._parts, self._config, self._parts.programs, self._parts.data.val
        task, kept, drawn = programs.task, [], shown(val) if config.plots else ()
        batches = predict(
            programs.eval_step,
            eval_variables(state),
            val,
            config,
            parts.mesh,
            self._odd,
            cache=self._cache,
            drawn=Drawn(task.only_drawn, drawn),
        )
        try:
            metrics = gather(task, val, keeping(self._stop.watch(batches), drawn, kept))
            metrics, kept = of_all_processes(metrics), [each for own in exchanged(kept) for each in own]
            summary = summarise(task, metrics)
        except Stopped:
            return None
        except NonFinite as error:
            raise NonFiniteLoss(f"step {step}: {error}. {REMEDY}") from error
        return Evaluated(task, val, config.data, task.class_names(parts.data.train), metrics, summary, kept)

    def _say(self, step: int, found: Evaluated) -> None:
        table = found.task.table(found.summary)  # without metrics of classes that the split lacks
        line = in_line({key: value for key, value in headline(found).items() if key in table})
        self._writer.say(f"step {step}/{self._parts.lengths.total}  {self._config.data.val_split}: {line}")


def headline(found: Evaluated) -> dict[str, float]:
    """The metrics that are recorded."""
    return {key: found.summary[key] for key in found.task.headline}


def judge_of(config: ConfigDict) -> str:
    """What metrics.jsonl calls the metric of early stopping."""
    return f"val/{config.stop.metric or config.best}"


def in_line(results: dict[str, float]) -> str:
    """Metrics as a line; those of a part of a task, "<part>/<name>", follow its name, and only its first are shown."""
    parts: dict[str, list[str]] = {}
    for name, value in results.items():
        part, _, own = name.rpartition("/")
        parts.setdefault(part, []).append(f"{own} {value:.4f}")
    return "  ".join(f"{part} ({'  '.join(own[:SHOWN])})" if part else "  ".join(own) for part, own in parts.items())
