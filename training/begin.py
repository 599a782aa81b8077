"""Starts a training: claims its workdir; its first state is a checkpoint, trained weights or random."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from ml_collections import ConfigDict

from morphism.data import sources
from morphism.errors import UserError
from morphism.models import cost
from morphism.runtime.checkpoint import Checkpoints
from morphism.runtime.manifest import claim_classes, claim_config, claim_data, has_steps, write_manifest
from morphism.runtime.paths import AnyPath, is_local
from morphism.runtime.processes import check_same
from morphism.runtime.resume import of_all_hosts
from morphism.runtime.surroundings import repeatable
from morphism.training.build import Parts
from morphism.training.state import TrainState
from morphism.weights.convert import from_torch
from morphism.weights.opening import Weights, fitting, read_weights


@dataclass(frozen=True)
class Beginning:
    """Where a training starts.

    step: the step of the checkpoint from which it continues, or 0.
    owed: whether `step` has yet to be evaluated.
    notes: lines for the user.
    """

    step: int
    state: TrainState
    owed: bool
    notes: Sequence[str]


def begin(
    parts: Parts,
    workdir: AnyPath,
    checkpoints: Checkpoints,
    weights: Weights | None,
    command: Sequence[str],
    reasons: Mapping[str, str],
) -> Beginning:
    """Claims the workdir (in the main process), and restores the newest checkpoint or makes the first state.

    `reasons` are those of derived fields, for the manifest.
    """
    step = checkpoints.latest() or 0
    notes = claim(parts, workdir, step, weights, command, reasons) if jax.process_index() == 0 else []
    owed = step > 0 and parts.lengths.evaluates(step) and checkpoints.metrics(step) is None
    if step:
        state = checkpoints.restore(step, parts.shapes, parts.mesh)
        return Beginning(step, state, owed, notes)
    state = parts.init()
    if parts.config.init_from:
        weights = weights or read_weights(parts.config.init_from, print)
        state, left_out = start_from(weights, state, parts.config, partial(parts.programs.restart, hyper=parts.hyper))
        notes = [*notes, *left_out]
    return Beginning(step, state, owed, notes)


def opened(config: ConfigDict, variables: dict[str, Any], workdir: AnyPath) -> Weights | None:
    """The weights that config.init_from names; None if there are none, or if the run in `workdir` continues.

    Raises UserError if they cannot be read, or do not fit a model of `variables` (shapes), before a workdir is made.
    """
    if not config.init_from or has_steps(workdir):
        return None
    try:
        weights = read_weights(config.init_from, print)
        fitting(weights, variables, config)
        return weights
    except UserError as error:
        raise UserError(
            f"{error}; or start from other weights with --config.init_from=FILE, or from random ones with "
            "--config.init_from="
        ) from error


def check_processes(parts: Parts) -> None:
    """Raises UserError if processes of the run have other configurations or other data."""
    if jax.process_count() > 1:
        data = {f"the data of {split}": each for split, each in parts.fingerprints.items()}
        check_same(of_all_hosts(parts.config) | data)


def claim(
    parts: Parts,
    workdir: AnyPath,
    step: int,
    weights: Weights | None,
    command: Sequence[str],
    reasons: Mapping[str, str],
) -> list[str]:
    """Makes the workdir this run's own; returns lines for the user. Raises UserError if it holds another run."""
    config, data = parts.config, parts.data
    notes = claim_config(workdir, config, data.train)
    claim_classes(workdir, parts.programs.task.class_names(data.train))
    notes += claim_data(workdir, parts.fingerprints, config.data.train_split)
    if sources.in_one_split(config.data):
        notes.append(
            "data: trains and evaluates on the same records, so that the metrics say nothing about other images; of a "
            "split that is called train, config.data.val_fraction=0.1 holds out a tenth"
        )
    unjudged = parts.programs.task.unjudged(data.val)
    if unjudged:
        notes.append(f"data: {config.data.val_split} has no truths for {', '.join(unjudged)}, not evaluated there")
    origin = {"init_from": weights.origin, "init_sha256": weights.sha256} if weights and not step else {}
    facts = _cost(parts) | origin | ({"derived": dict(reasons)} if reasons else {})
    if not repeatable(write_manifest(workdir, config, command, facts)) and step:
        notes.append(
            "resumed on a GPU: its last bits may differ from those of an undisturbed run, since XLA chooses algorithms "
            "by timing them; --config.deterministic=True prevents that from here on"
        )
    if is_local(workdir):
        return notes
    return [*notes, f"{workdir} cannot be locked: make sure that no other run writes there"]


def start_from(
    weights: Weights, state: TrainState, config: ConfigDict, restart: Callable[[TrainState, dict[str, Any]], TrainState]
) -> tuple[TrainState, list[str]]:
    """The fresh `state` with the values of `weights` that fit, and a line for each group that was left out."""
    variables = state.variables
    tensors, notes = fitting(weights, variables, config)
    state = restart(state, from_torch(tensors, variables))
    return state, [f"starts from {len(tensors)} arrays of {weights.origin}", *notes]


def _cost(parts: Parts) -> dict[str, int]:
    variables, size = parts.shapes.variables, parts.config.data.image_size
    return {
        "parameters": cost.parameters(parts.shapes.params),
        "multiply_accumulates": cost.multiply_accumulates(parts.programs.model, variables, (size, size, 3)),
    }
