"""config.budget: a time or a length that a training keeps to."""

from dataclasses import dataclass

from morphism.experiments.fields import TIME

SECONDS = {"s": 1, "min": 60, "h": 3600}


@dataclass(frozen=True)
class Budget:
    """seconds: from the start of the command to its end; None where the budget is a `length`, in steps or epochs.

    Where both are absent ("" for the length), the data decides.
    """

    seconds: float | None
    length: str

    @classmethod
    def of(cls, text: str) -> "Budget":
        """Reads config.budget."""
        time = TIME.fullmatch(text.strip())
        return cls(float(time[1]) * SECONDS[time[2]], "") if time else cls(None, text.strip())


def in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
