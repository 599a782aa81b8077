"""One fused network compared with the two that it replaces: RetinaNet and a semantic head on one ResNet-50.

    python benchmarks/fused.py [360x480] [--rounds 9]

`fused` finds objects and classes of pixels with the network of experiments/camvid_driving.py, and fuses them to one map
of segments; `objects` and `ground` are the same network with one of its heads. Each is the evaluation step of a single
image, with random weights, in a process of its own; they take turns. peak_mb: of the whole process.
"""

import argparse
import os
from pathlib import Path

from turns import Run, images, measure, save, serve, sides

CLASSES = {
    "objects": ("car", "pedestrian", "bicyclist", "sign"),
    "ground": (
        *("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence"),
        *("car", "pedestrian", "bicyclist"),
    ),
}
CONTENDERS = ("fused", *CLASSES)


def network(name: str, height: int, width: int) -> Run:
    import jax
    import numpy as np

    from morphism import models, tasks
    from morphism.evaluation.step import make_eval_step
    from morphism.experiments.camvid_driving import get_config
    from morphism.runtime.mesh import AXIS, compiler_options, make_mesh

    config = get_config()
    if name != "fused":
        with config.unlocked():
            config.fusion.things = config.fusion.stuff = ""
            for other in set(CLASSES) - {name}:
                del config.parts[other], config.model.heads[other]
    classes = {part: CLASSES[part] for part in config.parts}
    task = tasks.of(config, classes)
    model = models.create(config.model, {part: len(names) for part, names in classes.items()}, AXIS)
    init = jax.jit(lambda: models.init(model, jax.random.key(0), 64), compiler_options=compiler_options(once=True))
    step, variables = make_eval_step(model, task, config, make_mesh()), init()
    truths = {f"has_{target}": np.ones(1, bool) for target in task.targets}
    batch = images(1, height, width) | truths | {"segmentation": np.zeros((1, height, width), np.uint8)}
    return lambda: jax.block_until_ready(step(variables, batch))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", nargs="?", type=sides, default="360x480", help="height x width of the image")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--serve", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "fused.json")
    args = parser.parse_args()
    if args.serve:
        serve(lambda: network(args.serve, *args.size))
        return
    found = measure(CONTENDERS, ["x".join(map(str, args.size))], args.rounds)
    print(f"{'':10}{'ms':>8}{'CPU ms':>9}{'peak MB':>9}{'compile s':>11}")
    for name, row in found.items():
        times = f"{1000 * row['wall']:>8.0f}{1000 * row['cpu']:>9.0f}"
        print(f"{name:10}{times}{row['peak_mb']:>9.0f}{row['compile']:>11.1f}")
    both = sum(found[name]["wall"] for name in CLASSES)
    print(f"the two take {both / found['fused']['wall']:.2f} times as long as the fused one")
    save(args.output, {"cores": os.cpu_count(), "size": args.size, "results": found})


if __name__ == "__main__":
    main()
