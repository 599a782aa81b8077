"""The fields of a configuration of several tasks on one network, besides those that base.py has for each task.

The parts share the fields of data and augment that their tasks have; those that mean different things to different
tasks are declared here.
"""

from morphism.experiments.fields import (
    GROUP,
    NAMES,
    SHAPES,
    SWITCH,
    TEXT,
    Field,
    at_least,
    between,
    one_of,
)

HEADS = {  # the default of each task
    "classification": "linear",
    "detection": "retinanet",
    "instances": "mask_rcnn",
    "segmentation": "semantic_fpn",
}
HEAD = dict(name=Field("", TEXT, "Head of the part: a name in HEADS of models/multitask.py; its options next to it."))
PART = dict(
    task=Field("", one_of(*HEADS), "What the part learns."),
    weight=Field(1.0, at_least(0.0), "Factor of the part's loss in the sum."),
    targets=Field({}, GROUP, "Targets of the task that have other names in the data: segmentation='lanes'."),
)
MULTITASK = dict(
    task="multitask",
    model=dict(
        name="multitask",
        heads=Field({}, GROUP, "A head for each part: its name and options."),
    ),
    data=dict(
        targets=Field(
            ("boxes", "segmentation"), NAMES, "What examples are learned from; the part that has the first one leads."
        ),
        window_rule=Field("canvas", one_of("square", "canvas", "crop"), "How windows are drawn (data/examples.py)."),
        image_size=Field(640, at_least(1), "Pixels of the shorter side, or of both sides, after resizing."),
        resize=Field(
            "shorter", one_of("shorter", "stretch", "fit", "none"), "With crop shorter or none, else not none."
        ),
        max_size=Field(1333, at_least(1), "shorter: the longer side is at most this."),
        canvases=Field((), SHAPES, "Sizes of batches; an image is put on the smallest that holds it; (): found."),
    ),
    augment=dict(
        photometric=Field(False, SWITCH, "Brightness, contrast, saturation and hue, as the leading task has them."),
        fill=Field(-1, between(-1, 255), "Grey of the canvas around an image; -1: zero after normalising."),
    ),
    fusion=dict(
        things=Field("", TEXT, 'Part whose objects are fused with the classes of pixels of another; "": none.'),
        stuff=Field("", TEXT, "Part whose classes of pixels are fused; those of things are left out."),
        score=Field(0.5, between(0.0, 1.0), "Objects with a lower score are left out."),
        overlap=Field(0.5, between(0.0, 1.0), "So are objects of which a larger share lies on better ones."),
        stuff_area=Field(4096, at_least(0), "So is stuff of fewer pixels of the decoded image."),
    ),
    parts=Field({}, GROUP, "The tasks by name, each with its own fields; get_base('multitask', parts=...) makes them."),
)
