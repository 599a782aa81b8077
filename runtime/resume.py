"""The fields of a configuration that may change when a run continues."""

import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from morphism.data.canvases import canvases
from morphism.data.records import Source
from morphism.errors import UserError
from morphism.lengths import exact_steps

# No value in training depends on these; those of stop decide only where it ends.
FREE = (
    *("stop.metric", "stop.patience", "stop.min_delta"),
    *("log_every", "checkpoint_every", "keep", "eval_batch_size", "plots", "writers"),
    *("data.workers", "data.threads", "data.prefetch", "data.timeout", "data.data_dir", "data.strict", "data.broken"),
    "data.on_device",
    *("data.eval_loss", "data.spacing", "metrics.medical", "metrics.score", "metrics.tolerance"),
)
# In these, evaluation and prediction may differ from a run's training: how large images are seen, and which detections
# count.
OF_EVALUATION = (
    *FREE,
    *("data.image_size", "data.eval_size", "data.resize_size", "data.max_size"),
    *("data.canvases", "data.max_boxes", "data.exact"),
    *("model.options.score_threshold", "model.options.nms_threshold", "model.options.detections"),
    *("model.options.topk_candidates", "model.options.proposals", "model.options.candidates"),
    *("fusion.score", "fusion.overlap", "fusion.stuff_area"),
)
# What each host of a run may have of its own: how it reads its data, and from where.
PER_HOST = ("data.source", "data.data_dir", "data.workers", "data.threads", "data.prefetch")


def among(names: Collection[str], field: str) -> bool:
    """Whether a dotted `field` is one of `names`, in the configuration itself, or in one of its parts or heads."""
    return re.sub(r"^(parts|model\.heads)\.\w+\.", lambda found: "model." * (found[1] != "parts"), field) in names


def set_fields(config: ConfigDict, values: Mapping[str, Any]) -> None:
    """Sets dotted fields; an architecture's option need not be in `config` yet."""
    with config.unlocked():
        for field, value in values.items():
            *parents, name = field.split(".")
            node = config
            for each in parents:
                node = node[each]
            node[name] = value


def refused(field: str, remedy: str, allowed: Collection[str]) -> str:
    """Why `field` may not differ from the run's. FREE fields, which change no result, are not listed."""
    listed = ", ".join(each for each in allowed if each not in FREE)
    return f"config.{field}: the run has its own; {remedy}; what may differ: {listed}"


def changes(before: ConfigDict, now: ConfigDict, source: Source) -> list[str]:
    """A line for each field of `now` that differs from `before`; `source` is the split that the run trains on.

    Raises UserError naming the first field with which the run cannot continue, and its former value.
    """
    old, new = flat(before), flat(now)
    lines = []
    for field in sorted(old.keys() | new.keys()):
        if old.get(field) == new.get(field):
            continue
        differs = f"config.{field}={old.get(field)!r}, now it is {new.get(field)!r}"
        allowed, rule = _RULES.get(field, (lambda *_: False, "give the same config to resume"))
        if not among(FREE, field) and not (field in old and field in new and allowed(before, now, source)):
            raise UserError(f"holds a run with {differs}; choose another --workdir, or {rule}")
        lines.append(f"the run began with {differs}{_EFFECTS.get(field, '')}")
    return lines


def _longer(before: ConfigDict, now: ConfigDict, source: Source) -> bool:
    epoch = len(source) / now.batch_size
    return exact_steps(now.duration, epoch, "duration") >= exact_steps(before.duration, epoch, "duration")


def _more_boxes(before: ConfigDict, now: ConfigDict, source: Source) -> bool:
    """A mosaic drops the boxes for which max_boxes has no slot; without mosaics more slots stay empty."""
    return now.data.max_boxes > before.data.max_boxes and now.augment.mosaic == 0


def _same_training_canvases(before: ConfigDict, now: ConfigDict, source: Source) -> bool:
    """Training forms its batches per canvas, so canvases must not change; those of evaluation may."""

    def of_records(config: ConfigDict) -> np.ndarray:
        shapes, groups = canvases(source, config.data, training=True)
        return np.array(shapes)[groups]

    return np.array_equal(of_records(before), of_records(now))


# Field -> whether it may change, and what to do if it may not.
_RULES: dict[str, tuple[Callable[[ConfigDict, ConfigDict, Source], bool], str]] = {
    "budget": (lambda *_: False, "leave out --budget, and lengthen the run with --config.duration"),
    "deterministic": (lambda before, now, _: now.deterministic, "give config.deterministic=True again"),
    "duration": (_longer, "give a duration that is no shorter"),
    "mesh.fsdp": (lambda *_: True, ""),
    "data.max_boxes": (_more_boxes, "give the same to resume, or a larger one in a run without mosaics"),
    "data.canvases": (_same_training_canvases, "give canvases on which each training image stays on its own"),
}
_EFFECTS = {
    "deterministic": ": on a GPU the steps from here on can be repeated to the bit",
    "duration": ": the learning rate follows the longer schedule from here on",
    "mesh.fsdp": ": sums over devices are rounded differently from here on",
}


def flat(config: ConfigDict) -> dict[str, Any]:
    """Dotted field -> value, as JSON represents it."""
    found = {}

    def walk(node: dict, prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")
            else:
                found[prefix + key] = value

    walk(json.loads(json.dumps(config.to_dict(), allow_nan=False)), "")
    return found


def of_all_hosts(config: ConfigDict) -> dict[str, Any]:
    """The fields of `config`, "config." before their names, that all processes of a run must have alike."""
    return {f"config.{field}": value for field, value in flat(config).items() if field not in PER_HOST}
