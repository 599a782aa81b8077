"""The rules by which fields of a configuration are derived from data, budget and device: config.derive names them.

A rule is a pure function: case -> value and reason. RULES has them in the order in which they are applied: a rule sees
the values of those before it, derived or written by hand. Those of TIMED follow, which depend on the batch and on what
a step takes.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from morphism.training.rules import batch, kept, lengths, sizes
from morphism.training.rules.case import Case, Choice

Rules = Mapping[str, Callable[[Case], Choice]]

RULES: Rules = {
    "data.threads": batch.threads,
    "data.max_boxes": sizes.max_boxes,
    "model.options.detections": sizes.detections,
    "model.options.bn_epsilon": kept.bn_epsilon,
    **{f"model.options.{option}": kept.narrow(option) for option in kept.NARROW},
    **{f"model.options.{option}": kept.fewer(option) for option in kept.FEWER},
    "model.frozen_bn": kept.frozen_bn,
    "optimizer.freeze": kept.freeze,
    "optimizer.lr_multipliers": kept.lr_multipliers,
    "data.image_size": sizes.image_size,
    "data.canvases": sizes.canvases,
    "data.resize_size": sizes.resize_size,
    "data.crop": sizes.crop,
    "model.options.anchor_size": sizes.anchor_size,
    "batch_size": batch.batch_size,
}
TIMED: Rules = {
    "optimizer.learning_rate": lengths.learning_rate,
    "optimizer.reference_batch": lengths.reference_batch,
    "duration": lengths.duration,
    "eval_every": lengths.eval_every,
    "checkpoint_every": lengths.checkpoint_every,
    "log_every": lengths.log_every,
    "schedule.warmup": lengths.warmup,
    "schedule.hold": lengths.hold,
    "augment.closing": lengths.closing,
    "ema.decay": lengths.ema_decay,
    "ema.ramp": lengths.ema_ramp,
}


def apply(rules: Rules, case: Case) -> tuple[Case, dict[str, str]]:
    """The case with the values of those fields of config.derive that have one of `rules`, and the reason of each."""
    config, reasons = case.config.copy_and_resolve_references(), {}
    for name, rule in rules.items():
        if name in config.derive:
            value, reasons[name] = rule(replace(case, config=config))
            config.update_from_flattened_dict({name: value})
    return replace(case, config=config), reasons
