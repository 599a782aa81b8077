"""Every architecture: one step and one evaluation in bfloat16 and float32, and float32 against the CPU's values."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, Queue
from typing import Any

import numpy as np
from served import Answers, Row, in_a_line

from on_accelerator.call import Call

FIRST = (  # one of each kind; the rest follows
    *("resnet50", "fasterrcnn_resnet50_fpn", "yolox_s", "retinanet_resnet50_fpn", "maskrcnn_resnet50_fpn"),
    *("deeplabv3_resnet50", "unet", "ssd300_vgg16", "panoptic_fpn_resnet50", "yolov3_darknet53", "cifar_resnet20"),
    *("deeplabv3plus_resnet50", "resnext50_32x4d", "alexnet", "vgg16_bn", "segnet", "pspnet_resnet50", "fcn8s_vgg16"),
    *("fcn_resnet50", "multitask", "fasterrcnn_resnet50_c4", "fasterrcnn_resnet50_fpn_v2", "yolox_nano"),
    *("retinanet_resnet50_fpn_v2", "yolox_darknet53", "wide_resnet50_2", "resnet18"),
)
DRY = ("cifar_resnet8",)
PARTS_OF = {
    "multitask": {"objects": "detection", "ground": "segmentation", "kind": "classification"},
    "panoptic_fpn_resnet50": {"instances": "instances", "segmentation": "segmentation"},
}
ROWS, CLASSES, OBJECTS, SIDE = 2, 3, 4, {"ssd300_vgg16": 300, "classification": 64, "segmentation": 64}
TOLERANCE = 1e-3  # of float32 at the highest precision, relative to the largest value


def rows(call: Call) -> Iterator[Row]:
    """Each in a process that goes on to the next one unless it fails; several processes share the card."""
    from morphism import models

    names: Queue[str] = Queue()
    for name in DRY if call.dry else (*FIRST, *sorted(set(models.models()) - set(FIRST))):
        names.put(name)
    found: Queue[Row | None] = Queue()

    def work(number: int) -> None:
        worker = None
        while call.left > 0:
            try:
                name = names.get_nowait()
            except Empty:
                break
            if worker is None or not worker.alive:
                worker = call.contender(f"architectures:{number}")
                worker.ready(min(call.left, 60))
            answer = worker.ask(name, min(call.left, 120))
            found.put(answer["rows"][0] if "rows" in answer else {"what": name, "error": answer["error"]})
        if worker:
            worker.stop()
        found.put(None)

    workers = call.at_once
    with ThreadPoolExecutor(workers) as pool:
        for number in range(workers):
            pool.submit(work, number)
        while workers:
            row = found.get()
            workers -= row is None
            if row is not None:
                yield row


def task_of(name: str) -> str:
    """The task that an architecture is for, by what it returns."""
    import jax

    from morphism import models
    from morphism.models.detection import Detector
    from morphism.models.mask_rcnn import MaskRCNN

    if name in PARTS_OF:
        return "multitask"
    model = models.build(name, CLASSES)
    if isinstance(model, Detector):
        return "instances" if isinstance(model, MaskRCNN) else "detection"
    images = np.zeros((1, 64, 64, 3), np.float32)
    outputs = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images, train=False)[0])
    return "segmentation" if isinstance(outputs, dict) else "classification"


def configured(name: str) -> Any:
    """A configuration with which `name` trains on small images, as its task resolves it."""
    from morphism import tasks
    from morphism.experiments.base import get_base

    task = task_of(name)
    config = get_base(task, PARTS_OF.get(name))
    config.model.name = name
    config.batch_size = ROWS
    config.data.pixels = "uint8"
    config.data.image_size = SIDE.get(name, SIDE.get(task, 128))
    if "max_boxes" in config.data:
        config.data.max_boxes = OBJECTS
    if "crop" in config.data:
        config.data.crop = (config.data.image_size,) * 2
    return tasks.of(config).resolve(config, _Named())


def classes_of(config: Any) -> Any:
    """As many classes as the random batches have; for a task of parts by part."""
    return dict.fromkeys(config.parts, CLASSES) if "parts" in config else CLASSES


class _Named:
    classes = tuple("abc"[:CLASSES])
    targets = dict.fromkeys(("boxes", "masks", "segmentation", "label"), classes)

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError


def batch_of(config: Any, training: bool) -> dict[str, np.ndarray]:
    """A random batch with every truth that `config` learns from."""
    from morphism.data.pipeline import blank_batch

    rng, side = np.random.default_rng(0), config.data.image_size
    shape = (side, side) if training or "segmentation" not in config.data.targets else (side, side, side, side)
    batch = {key: value for key, value in blank_batch(ROWS, shape, config, training).items() if key != "odd"}
    batch["image"] = rng.integers(0, 256, batch["image"].shape).astype(batch["image"].dtype)
    batch["id"] = np.arange(ROWS, dtype=np.int32)
    corner = rng.uniform(0, side / 2, (ROWS, OBJECTS, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(side / 8, side / 2, corner.shape)], axis=-1)
    drawn = {
        "valid": np.ones(ROWS, bool),
        "size": np.full((ROWS, 2), side, np.int32),
        "original_size": np.full((ROWS, 2), side, np.int32),
        "image_box": np.tile(np.float32([0, 0, side, side]), (ROWS, 1)),
        "label": rng.integers(0, CLASSES, ROWS).astype(np.int32),
        "boxes": boxes.astype(np.float32),
        "classes": rng.integers(0, CLASSES, (ROWS, OBJECTS)).astype(np.int32),
        "masks": np.ones(batch["masks"].shape, np.uint8) if "masks" in batch else None,
        "segmentation": rng.integers(0, CLASSES, (ROWS, side, side)).astype(np.uint8),
    }
    drawn |= {name: np.ones(ROWS, bool) for name in batch if name.startswith("has_")}
    return {name: drawn.get(name, value) for name, value in batch.items()}


def serve(dry: bool, _: str) -> Answers:
    import jax

    device, cpu = jax.devices()[0], jax.devices("cpu")[0]
    return lambda name: [architecture(name or DRY[0], device, cpu)]


def architecture(name: str, device: Any, cpu: Any) -> Row:
    """What becomes of an architecture: whether it runs in both types, and how far float32 is from the CPU's values."""
    from morphism.ops.platform import as_accelerator, as_cpu

    began = time.perf_counter()
    config = configured(name)
    row: Row = {"what": name, "who": config.task}
    found = {}
    for dtype, precision in (("bfloat16", "default"), ("float32", "highest")):
        try:
            found[dtype] = values(config, dtype, precision, device, as_accelerator)
            broken = [key for key, value in found[dtype].items() if not np.isfinite(value).all()]
            row[dtype] = f"not finite: {', '.join(broken)[:60]}" if broken else "finite"
        except Exception as error:
            row[dtype] = in_a_line(error)
    if "float32" in found:
        expected = values(config, "float32", "highest", cpu, as_cpu)
        apart = {key: distance(found["float32"][key], value) for key, value in expected.items()}
        outputs = [value for key, value in apart.items() if key not in ("loss", "grad_norm")]
        row |= {"loss": apart["loss"], "grad_norm": apart["grad_norm"], "outputs": max(outputs)}
        row["as_on_cpu"] = max(apart.values()) < TOLERANCE
    return row | {"seconds": time.perf_counter() - began}


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest expected value; at most 1e9."""
    apart = np.abs(found.astype(np.float64) - expected.astype(np.float64)).max(initial=0)
    return float(np.nan_to_num(apart / max(np.abs(expected).max(initial=0), 1e-30), nan=1e9, posinf=1e9))


def values(config: Any, dtype: str, precision: str, device: Any, form: Callable) -> dict[str, np.ndarray]:
    """Loss and gradient norm of a training step, and the network's outputs in evaluation, computed on `device`."""
    import jax
    from jax.sharding import AxisType, Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P

    from morphism import models, tasks
    from morphism.runtime.arithmetic import compiled
    from morphism.runtime.mesh import AXIS, replicated
    from morphism.training.hyper import hyper_parameters
    from morphism.training.state import init_state
    from morphism.training.step import make_train_step, optimizer_of

    config = config.copy_and_resolve_references().unlock()
    config.model.dtype, config.precision = dtype, precision
    mesh = Mesh(np.array([[device]]), AXIS, axis_types=(AxisType.Auto,) * 2)
    classes = classes_of(config)
    model, task = models.create(config.model, classes, AXIS), tasks.of(config)
    hyper = hyper_parameters(config, 100)

    def first():
        optimizer = optimizer_of(config, hyper)
        return init_state(model, optimizer, image_size=config.data.image_size, seed=0, ema=False)

    def evaluate(variables, batch):
        outputs = model.apply(
            variables, task.normalise(batch, config.augment), train=False, **models.inputs(model, batch)
        )
        return outputs, task.predict(model, outputs, batch)

    with jax.default_device(jax.devices("cpu")[0]):  # random numbers of devices differ in their last bits
        state = jax.device_get(jax.jit(first)())
    with form():
        everywhere, rows = replicated(mesh), NamedSharding(mesh, P(AXIS))
        variables = jax.device_put(state.variables, everywhere)
        outputs, _ = jax.device_get(
            compiled(evaluate, config)(variables, jax.device_put(batch_of(config, False), rows))
        )
        step = make_train_step(model=model, task=task, config=config, classes=classes, mesh=mesh)
        _, scalars = step(jax.device_put(state, everywhere), jax.device_put(batch_of(config, True), rows), hyper)
    leaves = jax.tree_util.tree_leaves_with_path(outputs)
    named = {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}
    floats = {name: x.astype(np.float32) for name, x in named.items() if "int" not in x.dtype.name and x.dtype != bool}
    return floats | {name: np.asarray(scalars[name]) for name in ("loss", "grad_norm")}
