"""Checks of a split before the first step, from counts and sizes alone.

No image is decoded, so a split of a million records is checked in about a second.
"""

import numpy as np
from ml_collections import ConfigDict

from morphism.data import targets
from morphism.data.canvases import canvases
from morphism.data.derived import carried
from morphism.data.records import Source, first_target, name_of
from morphism.errors import UserError


def check_split(source: Source, config: ConfigDict, split: str, *, training: bool) -> None:
    """Raises UserError where `source`, opened at `split`, cannot be trained on, or with `training` False evaluated.

    Refused are data without config.data.targets, images that fit no canvas, and what the `check` of each target refuses
    (data/targets). A task of parts, which learns from each record what that has, may be evaluated on data without some
    of the targets; any other task needs the truth of every record.
    """
    where, wanted = f"{config.data.source} {split}", config.data.targets
    mains = wanted if "parts" in config else wanted[:1]  # each part of a task has the classes of its own target
    if first_target(source) not in mains:
        raise UserError(
            f"{where} is data for {first_target(source)}, config.task is {config.task}, which learns from "
            f"{' and '.join(wanted)}; give another config.data.source, or an experiment for that data"
        )
    wanted = wanted if training or "parts" not in config else [name for name in wanted if name in source.targets]
    for name in wanted:
        if name not in source.targets:
            raise UserError(
                f"{where} has no {name}, which config.data.targets asks for, but {' and '.join(source.targets)}; give "
                "another config.data.source"
            )
    if "parts" not in config:
        _check_complete(source, config, where)
    try:
        canvases(source, config.data, training)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    for name in wanted:
        targets.get(name).check(source, config.data, where, training)


def _check_complete(source: Source, config: ConfigDict, where: str) -> None:
    """Raises UserError for records without the main target, which a single task would take for empty ones."""
    main = config.data.targets[0]
    bare = np.flatnonzero(~carried(source, main))
    if len(bare):
        raise UserError(
            f"{where}: {len(bare):,} of its {len(source):,} images have no {main}, such as "
            f"{name_of(source, int(bare[0]))}, which {config.task} needs of each; leave their source out, or take the "
            "task multitask"
        )
