"""What a rule gets and returns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from morphism.data.proportions import Proportions
from morphism.lengths import to_steps
from morphism.training.budget import Budget


class Choice(NamedTuple):
    value: Any
    reason: str


@dataclass(frozen=True)
class Timing:
    """What was measured: seconds of a step and of one evaluation; those that are left when the training starts."""

    step: float
    evaluation: float
    left: float


@dataclass(frozen=True)
class Case:
    """What rules see.

    config: with the values derived so far.
    affordable: height, width -> how many images of that size can be trained on in the budget; None without a time.
    whole: whether the weights hold the heads, too.
    options: of the model, that its public weights were trained with.
    timing: None before a step was measured.
    """

    config: ConfigDict
    images: Proportions
    budget: Budget
    on_cpu: bool
    devices: int
    affordable: Callable[[int, int], float] | None = None
    whole: bool = False
    options: Mapping[str, float] = field(default_factory=dict)
    timing: Timing | None = None

    @property
    def weights(self) -> bool:
        return bool(self.config.init_from)

    @property
    def epoch(self) -> float:
        """In steps."""
        return self.images.records / self.config.batch_size

    @property
    def steps(self) -> int:
        return to_steps(self.config.duration, self.epoch, "duration")
