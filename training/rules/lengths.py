"""The learning rate and all lengths, once the batch is known, and where there is a time what a step takes."""

from morphism.training.budget import in_words
from morphism.training.rules.case import Case, Choice, Timing

EVALUATIONS = 10  # of a training
EVALUATING = 0.2  # of the time, at most
DEFAULT_EPOCHS, LEAST_STEPS, MOST_STEPS = 20, 500, 20_000  # of a training without a budget
WARMUP_SHARE, WARMUP_MOST = 0.1, 500
SCRATCH = {"momentum": 10.0, "adamw": 5.0}  # factors of the learning rate without weights


def learning_rate(case: Case) -> Choice:
    config = case.config.optimizer
    ratio = case.config.batch_size / config.reference_batch if config.reference_batch else 1.0
    adaptive = config.name in ("adam", "adamw")
    scratch = 1.0 if case.weights else SCRATCH.get(config.name, 1.0)
    factor = (ratio**0.5 if adaptive else ratio) * scratch
    rule = "the root of the batch" if adaptive else "the batch"
    start = "" if scratch == 1.0 else f", times {scratch:g} from random weights"
    reason = f"{config.learning_rate:g} for batches of {config.reference_batch}, in proportion to {rule}{start}"
    return Choice(float(f"{config.learning_rate * factor:.3g}"), reason)


def reference_batch(case: Case) -> Choice:
    return Choice(0, "learning_rate is for this batch_size")


def duration(case: Case) -> Choice:
    if case.timing is not None:
        evaluations, each = _evaluations(case.timing), case.timing
        steps = max(int((each.left - evaluations * each.evaluation) / each.step), 1)
        measured = f"a step takes {in_words(each.step)}"
        looks = f"{evaluations} evaluation{'s' * (evaluations > 1)} of {in_words(each.evaluation)}"
        seen = f"{steps * case.config.batch_size / case.images.records:.2g} times all images"
        return Choice(str(steps), f"{measured}, and {in_words(each.left)} are left for steps and {looks}: {seen}")
    if case.budget.length:
        return Choice(case.budget.length, "the budget")
    steps = round(min(max(DEFAULT_EPOCHS * case.epoch, LEAST_STEPS), MOST_STEPS))
    return Choice(
        str(steps), f"no --budget: {DEFAULT_EPOCHS} epochs, at least {LEAST_STEPS} steps and at most {MOST_STEPS:,}"
    )


def _evaluations(timing: Timing) -> int:
    return max(min(int(EVALUATING * timing.left / timing.evaluation), EVALUATIONS), 1)


def eval_every(case: Case) -> Choice:
    count = EVALUATIONS if case.timing is None else _evaluations(case.timing)
    every = -(-case.steps // count)
    if case.timing is None and every < case.epoch:
        return Choice("1ep", "after every epoch")
    cost = "" if case.timing is None else f": at most {EVALUATING:.0%} of the time"
    return Choice(str(every), f"{count} time{'s' * (count > 1)} in all{cost}")


def checkpoint_every(case: Case) -> Choice:
    return Choice(case.config.eval_every, "with each evaluation")


def log_every(case: Case) -> Choice:
    return Choice(str(min(max(case.steps // 50, 1), 50)), "some 50 lines, or every 50 steps")


def warmup(case: Case) -> Choice:
    steps = min(round(WARMUP_SHARE * case.steps), WARMUP_MOST)
    return Choice(str(max(steps, 1)), f"{WARMUP_SHARE:.0%} of the steps, at most {WARMUP_MOST}")


def hold(case: Case) -> Choice:
    return Choice(str(max(case.steps // 8, 1)), "the last eighth of the steps")


def closing(case: Case) -> Choice:
    why = "about the last fifth of the steps, whole epochs and never the first, is without mosaics"
    return Choice(str(max(case.steps // 5, 1)), why)


def ema_decay(case: Case) -> Choice:
    return Choice(float(f"{min(max(1 - 10 / case.steps, 0.5), 0.9998):.4g}"), "an average over a tenth of the steps")


def ema_ramp(case: Case) -> Choice:
    return Choice(str(max(case.steps // 20, 1)), "a twentieth of the steps")
