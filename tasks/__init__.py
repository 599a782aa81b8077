"""What a task is: a module of pure functions, the same names in each.

resolve(config, source) -> config                              before training: fills in what depends on the train split
mixed(config.augment)                                          how many rows of a batch, one after the other, are mixed
augment(key, batch, config.augment, classes) -> batch          on the device: pixels of 0..255 in, the model's input out
normalise(batch, config.augment) -> images                     the same for evaluation
misfit(model, outputs, classes) -> text                        what is wrong with the shapes of outputs, or ""
inputs(model, batch) -> {name: value}                          what the model's call takes beside the images
loss(model, outputs, batch, config) -> (scalar, {name: scalar})
                                                               on the device, inside the training step
infer(apply, images, sizes, config.data, views) -> outputs     of a task that sees images in ways of its own
VIEWS, combine(outputs)                                        the views of augment/views.py that evaluation may use,
                                                               and [V,...] outputs, one a view, as one
predict(model, outputs, batch) -> {name: array [B,...]}        on the device, inside the evaluation step; has "id"
init_metrics(source), update_metrics(metrics, predictions), summarise(metrics) -> {name: number or list}
                                                               on the host, in float64, each example once
table(summary) -> {line: number}                               what eval.py prints
describe(predictions, row, classes) -> {name: value or list}   what predict.py writes of an image
lines(described, threshold, most) -> [(value, ...)]            what predict.py prints of that, a line each
HEADLINE                                                       the numbers worth a line, best-known first
HIGHER_IS_BETTER                                               those of them that may say which checkpoint is best
MIN_CLASSES                                                    with fewer there is nothing to learn
"""

from types import ModuleType

from morphism.errors import check_choice
from morphism.tasks import classification, detection, segmentation

_TASKS = {"classification": classification, "detection": detection, "segmentation": segmentation}


def get(name: str) -> ModuleType:
    check_choice("config.task", name, _TASKS)
    return _TASKS[name]
