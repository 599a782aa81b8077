"""Compiles steps for an accelerator that is not here, and reads the programs: nothing is run.

    pip install libtpu                                       for TPUs
    pip install jax-cuda12-plugin jax-cuda12-pjrt nvidia-cuda-nvcc-cu12    for GPUs; all as jax's extras name them
    python benchmarks/compile_only.py [--device h100] [--work resnet architectures] [--names unet yolox_s]
                                      [--dtype float32] [--precision highest] [--deterministic]

These packages contain XLA's whole compiler for their devices, and need none of these. On GPUs, algorithms are then not
chosen by timing them, so that convolutions and products may run by other ones there.

resnet: the step of `imagenet_resnet:50` at 224, batch 256, as it is, with batch norm in two passes, and with XLA's own
gradient of max pooling: memory, and what its kernels read and write.
architectures: a step and an evaluation of every architecture at a small size: that they compile, seconds, and how many
kernels of the step scatter (on GPUs these add in an order that varies) or gather.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import turns
from on_accelerator import architectures, hlo
from served import Answers, Row, Served, serve

# NVIDIA's and XLA's facts of the device, in XLA's GpuTargetConfigProto.
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  device_memory_size: 84942979072 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
DEVICES = {"h100": "gpu", "v5e": "tpu"}
OPTIONS = {"gpu": {"xla_gpu_autotune_level": 0}, "tpu": {}}
RESNET = ("resnet50", "resnet50, batch norm in two passes", "resnet50, XLA's gradient of max pooling")
SECONDS = 1800  # for one program


def mesh_of(device: str) -> Any:
    """A mesh of one device that is not here."""
    from jax.experimental import topologies
    from jax.sharding import AxisType, Mesh

    from morphism.runtime.mesh import AXIS

    if DEVICES[device] == "gpu":
        topology = topologies.get_topology_desc(device, "cuda", topology="1x1x1", target_config=H100)
    else:
        topology = topologies.get_topology_desc(f"{device}:2x2", "tpu")  # the least that there is
    return Mesh(np.array(topology.devices[:1]).reshape(1, 1), AXIS, axis_types=(AxisType.Auto,) * 2)


def compiled(config: Any, classes: Any, batch: dict[str, np.ndarray], device: str, training: bool = True) -> Any:
    """The training step of `config`, or that of its evaluation, compiled for `device`."""
    import jax
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    from morphism import models, tasks
    from morphism.evaluation.step import make_eval_step
    from morphism.ops.platform import compiling_for
    from morphism.runtime.mesh import AXIS, replicated
    from morphism.training.hyper import hyper_parameters
    from morphism.training.state import init_state
    from morphism.training.step import make_train_step, optimizer_of

    mesh, kind = mesh_of(device), DEVICES[device]
    model, task, hyper = models.create(config.model, classes, AXIS), tasks.of(config), hyper_parameters(config, 1000)

    def shapes(tree: Any, where: NamedSharding) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree)

    def first() -> Any:
        size = config.data.image_size
        return init_state(model, optimizer_of(config, hyper), image_size=size, seed=0, ema=False)

    with compiling_for(kind):
        state, rows = shapes(jax.eval_shape(first), replicated(mesh)), shapes(batch, NamedSharding(mesh, P(AXIS)))
        if training:
            step = make_train_step(model=model, task=task, config=config, classes=classes, mesh=mesh)
            lowered = step.lower(state, rows, hyper)
        else:
            lowered = make_eval_step(model, task, config, mesh).lower(state.variables, rows)
        return lowered.compile(OPTIONS[kind])


def resnet(variant: str, args: argparse.Namespace) -> Row:
    from morphism.experiments import imagenet_resnet
    from morphism.models import layers
    from morphism.ops import moments

    config = arithmetic(imagenet_resnet.get_config("50"), args)
    batch = turns.images(256, 224, 224) | {"label": np.zeros(256, np.int32)}
    with contextlib.ExitStack() as changed:
        if "two passes" in variant:
            changed.enter_context(mock.patch.object(moments, "_in_one_pass", moments._in_two_passes))
        if "max pooling" in variant:
            changed.enter_context(mock.patch.object(layers, "on_gpu", lambda: False))
        program = compiled(config, 1000, batch, args.serve)
    return memory(program) | hlo.facts(program.as_text())


def architecture(name: str, args: argparse.Namespace) -> Row:
    config = arithmetic(architectures.configured(name).copy_and_resolve_references().unlock(), args)
    classes = architectures.classes_of(config)
    compiled(config, classes, architectures.batch_of(config, False), args.serve, training=False)
    program = compiled(config, classes, architectures.batch_of(config, True), args.serve)
    kinds = hlo.traffic(program.as_text())["kinds"]
    counts = {f"{kind}s": kinds.get(kind, {"kernels": 0})["kernels"] for kind in ("scatter", "gather", "sort")}
    return memory(program) | counts


def arithmetic(config: Any, args: argparse.Namespace) -> Any:
    """`config` with the flags that say how it computes."""
    config.update(precision=args.precision, deterministic=args.deterministic)
    config.model.dtype = args.dtype
    return config


def memory(program: Any) -> Row:
    found = program.memory_analysis()
    return {
        "gb_arguments": found.argument_size_in_bytes / 1e9,
        "gb_temporaries": found.temp_size_in_bytes / 1e9,
    }


def contend(args: argparse.Namespace) -> Answers:
    """Answers the name of an architecture, or one of RESNET, with a row."""

    def answer(name: str) -> list[Row]:
        began = time.perf_counter()
        row = resnet(name, args) if name in RESNET else architecture(name.removeprefix("small "), args)
        return [row | {"seconds": time.perf_counter() - began}]

    return answer


def rows(device: str, names: list[str], flags: list[str]) -> Iterator[Row]:
    """A row per name; the process that compiles, with `flags`, goes on to the next one unless it fails."""
    with tempfile.TemporaryDirectory() as folder:
        worker = None
        for name in names:
            if worker is None or not worker.alive:
                command = [sys.executable, __file__, "--serve", device, *flags]
                environment = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
                worker = Served(command, Path(folder) / "log", os.environ | environment)
                worker.ready(SECONDS)
            answer = worker.ask(name, SECONDS)
            found = answer["rows"][0] if "rows" in answer else {"error": answer["error"]}
            yield {"device": device, "what": name, **found}
        if worker:
            worker.stop()


def line(row: Row) -> str:
    facts = (
        f"{key} {value:,.2f}" if isinstance(value, float) else f"{key} {value}"
        for key, value in row.items()
        if key not in ("device", "what", "hlo")
    )
    return f"{row['device']:6}{row['what']:42}{', '.join(facts)}"


def main() -> None:
    from morphism import models

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", nargs="+", choices=sorted(DEVICES), default=["h100"])
    parser.add_argument("--work", nargs="+", choices=("resnet", "architectures"), default=["resnet", "architectures"])
    parser.add_argument("--names", nargs="+", choices=sorted(models.models()), help="all unless given")
    parser.add_argument("--dtype", choices=sorted(models.DTYPES), default="bfloat16")
    parser.add_argument("--precision", choices=("default", "high", "highest"), default="default")
    parser.add_argument("--deterministic", action="store_true", help="as config.deterministic")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "compile_only.json")
    parser.add_argument("--serve", choices=sorted(DEVICES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(lambda: contend(args))

    first = [name for name in architectures.FIRST if name in models.models()]
    named = args.names or [*first, *sorted(set(models.models()) - set(first))]
    small = [f"small {name}" if name in RESNET else name for name in named]
    names = (list(RESNET) if "resnet" in args.work else []) + (small if "architectures" in args.work else [])
    flags = ["--dtype", args.dtype, "--precision", args.precision, *["--deterministic"] * args.deterministic]
    found: list[Row] = []
    for device in args.device:
        for row in rows(device, names, flags):
            found.append(row)
            print(line(row), flush=True)
            turns.save(args.output, {"flags": flags, "results": found})
    return None


if __name__ == "__main__":
    main()
