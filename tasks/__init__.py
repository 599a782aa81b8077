"""Tasks: what a model learns and how it is evaluated, each an object of pure functions (tasks/task.py).

classification.py, detection.py, segmentation.py    one class per image, objects in boxes, one class per pixel
instances.py                                        objects in boxes, each with a mask
composed.py, parts.py                               several of them on one network
fusion.py, panoptic.py                              objects and stuff of two of them as one result
"""

from ml_collections import ConfigDict

from morphism.errors import check_choice
from morphism.tasks.classification import Classification
from morphism.tasks.composed import Composed
from morphism.tasks.detection import Detection
from morphism.tasks.fusion import Fusion
from morphism.tasks.instances import Instances
from morphism.tasks.parts import Part
from morphism.tasks.segmentation import Segmentation
from morphism.tasks.task import Names, Task

__all__ = ["Task", "get", "of"]

_TASKS = {task.name: task for task in (Classification(), Detection(), Instances(), Segmentation())}


def get(name: str) -> Task:
    """The task of that name that is made of no others. Raises UserError if there is none."""
    check_choice("config.task", name, _TASKS)
    return _TASKS[name]


def of(config: ConfigDict, classes: Names | None = None) -> Task:
    """The task of a configuration. Raises UserError if it names none.

    classes: of a trained network, which a fusion needs to predict; in training `config`, as resolved, has them.
    The parts of a task of tasks are in the order of their first targets in config.data.targets, then of their names.
    """
    if config.task != Composed.name:
        return get(config.task).configured(config)
    parts = [
        Part(name, get(own.task).configured(config), own.weight, dict(own.targets))
        for name, own in config.parts.items()
    ]
    order = {target: place for place, target in enumerate(config.data.targets)}
    parts.sort(key=lambda part: (order.get(part.targets[0], len(order)), part.name))
    return Composed(tuple(parts), Fusion.of(config.fusion, parts, classes))
