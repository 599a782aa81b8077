"""Tasks: what a model learns and how it is evaluated, each an object of pure functions (tasks/task.py).

classification.py, detection.py, segmentation.py    one class per image, objects in boxes, one class per pixel
instances.py                                        objects in boxes, each with a mask
composed.py                                         several of them on one network
"""

from ml_collections import ConfigDict

from morphism.errors import check_choice
from morphism.tasks.classification import Classification
from morphism.tasks.detection import Detection
from morphism.tasks.instances import Instances
from morphism.tasks.segmentation import Segmentation
from morphism.tasks.task import Task

__all__ = ["Task", "get", "of"]

_TASKS = {task.name: task for task in (Classification(), Detection(), Instances(), Segmentation())}


def get(name: str) -> Task:
    """The task of that name. Raises UserError if there is none."""
    check_choice("config.task", name, _TASKS)
    return _TASKS[name]


def of(config: ConfigDict) -> Task:
    """The task of a configuration. Raises UserError if it names none."""
    return get(config.task)
