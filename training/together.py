"""Runs several trainings side by side; on accelerators, each step of those of equal shapes in one program.

Each stays an ordinary training, with a workdir, checkpoints and evaluations of its own, and may go on alone later. They
need not be at the same step, and one that ends or fails does not disturb the others. Its values are those that it
would have alone: on CPU to the bit, on accelerators up to rounding.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any

import jax
from ml_collections import ConfigDict

from morphism.data.pipeline import Batch, train_batches
from morphism.data.records import Source
from morphism.ops.platform import on_cpu
from morphism.training.loop import Answer, Call, Progress, Training

Begin = Callable[[Callable[..., Iterator[Batch]]], Training]  # with the feed of the training


def together(begins: Sequence[Begin]) -> list[Progress | Exception]:
    """Runs the trainings that `begins` make, each to its end; returns what each returned, or the exception it raised.

    Those with equal data, seed and length, from the same step on, load each batch once.
    """
    results: list[Any] = [None] * len(begins)
    calls: dict[int, Call] = {}

    def resume(index: int, proceed: Callable[[], Call]) -> None:
        calls.pop(index, None)
        try:
            calls[index] = proceed()
        except StopIteration as end:
            results[index] = end.value
        except Exception as error:
            results[index] = error

    feed = SharedFeed()
    with ExitStack() as stack:
        trainings = [stack.enter_context(closing(begin(feed))) for begin in begins]
        for index, each in enumerate(trainings):
            resume(index, each.__next__)
        feed.close()
        while calls:
            for group in groups(calls):
                try:
                    answers = answers_of([calls[index] for index in group])
                except Exception as error:
                    for index in group:
                        resume(index, lambda each=trainings[index], error=error: each.throw(error))
                else:
                    for index, answer in zip(group, answers, strict=True):
                        resume(index, lambda each=trainings[index], answer=answer: each.send(answer))
    return results


def groups(calls: Mapping[int, Call]) -> list[list[int]]:
    """The indices of the calls that one program can answer, together."""
    found: dict[Any, list[int]] = {}
    for index, call in calls.items():
        leaves, structure = jax.tree.flatten((call.state, call.batch, call.hyper))
        found.setdefault((id(call.programs), structure, tuple((x.shape, x.dtype) for x in leaves)), []).append(index)
    return list(found.values())


def answers_of(calls: Sequence[Call]) -> list[Answer]:
    """The results of calls of equal programs and shapes.

    On CPU each runs by itself: its convolutions use all cores already, and XLA runs a grouped one three times slower.
    """
    if len(calls) == 1 or on_cpu():
        return [each.answer() for each in calls]
    states, batches, hypers = ([each[field] for each in calls] for field in (1, 2, 3))
    return calls[0].programs.stacked_step(states, batches, hypers)


class SharedFeed:
    """train_batches, of which those with equal arguments are loaded once."""

    def __init__(self):
        self._open: dict[str, Iterator[Batch]] = {}

    def __call__(self, source: Source, config: ConfigDict, **steps: int) -> Iterator[Batch]:
        key = repr((config.data.to_dict(), config.batch_size, config.seed, steps))
        self._open[key], own = itertools.tee(self._open.get(key) or train_batches(source, config, **steps))
        return own

    def close(self) -> None:
        """Opens no more: what the trainings have read is not kept for others."""
        self._open.clear()
