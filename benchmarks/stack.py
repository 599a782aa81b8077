"""What `morphism sweep --stack` saves: CPU-seconds per trial, of trials side by side and of the same one by one.

    python benchmarks/stack.py [--stack 4] [--steps 40] [--data photographs] [--output FILE.json]

On the embedded garments, whose batches cost little, and on JPEG photographs of 1,200 x 900 pixels, of which decoding is
most of the work: trials of equal seeds load each batch once. Both with the quickstart's network, at 28 pixels and
batches of 32. Programs are compiled before; CPU-seconds are of all threads of this process, in turns on a busy machine.
All values must be equal to the bit, on CPU.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import turns
from ml_collections import ConfigDict
from PIL import Image

from morphism.experiments import quickstart
from morphism.runtime.startup import start_jax
from morphism.training.loop import train, training
from morphism.training.together import together


def photographs(folder: Path, count: int = 128) -> None:
    """A dataset of class folders, of smooth noise that compresses as photographs do."""
    rng = np.random.default_rng(0)
    for index in range(count):
        (folder / f"class{index % 4}").mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (90, 120, 3), np.uint8))
        small.resize((1200, 900), Image.Resampling.BICUBIC).save(
            folder / f"class{index % 4}" / f"{index}.jpg", quality=90
        )


def configurations(source: str, options: argparse.Namespace) -> list[ConfigDict]:
    found = []
    for index in range(options.stack):
        config = quickstart.get_config()
        config.batch_size = 32
        config.duration = str(options.steps)
        config.eval_every = config.checkpoint_every = config.log_every = "0"
        config.plots = False
        config.schedule.warmup = "5"
        config.optimizer.learning_rate = 0.02 * (index + 1)
        if source:
            config.data.update(source=source, val_fraction=0.2, resize_size=32, train_crop="random_resized")
        else:
            config.data.val_split = "val[:64]"
        found.append(config.lock())
    return found


def measured(configs: list[ConfigDict], folder: Path, stacked: bool) -> tuple[float, list[dict]]:
    """CPU-seconds per trial, and the metrics of each."""
    began = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        if stacked:
            begins = [partial(_begun, config, folder / f"{index}") for index, config in enumerate(configs)]
            metrics = [each.metrics for each in together(begins)]
        else:
            metrics = [train(config, folder / f"{index}") for index, config in enumerate(configs)]
    return (time.process_time() - began) / len(configs), metrics


def _begun(config, workdir, feed):
    return training(config, workdir, feed=feed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stack", type=int, default=4)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--data", choices=("embedded", "photographs"), help="both unless given")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    start_jax()
    result = {"stack": options.stack, "steps": options.steps}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        photographs(root / "photos")
        for name, source in (("embedded", ""), ("photographs", f"folder:{root}/photos")):
            if options.data not in (None, name):
                continue
            configs, seconds, values = configurations(source, options), {True: [], False: []}, []
            for turn in range(options.turns + 1):  # the first one compiles
                for stacked in (False, True):
                    spent, metrics = measured(configs, root / f"{name}{turn}{stacked}", stacked)
                    values.append(metrics)
                    if turn:
                        seconds[stacked].append(spent)
            alone, together_ = (statistics.median(seconds[stacked]) for stacked in (False, True))
            equal = all(each == values[0] for each in values)
            result[name] = {
                "alone_cpu_s": alone,
                "stacked_cpu_s": together_,
                "ratio": alone / together_,
                "equal": equal,
            }
            print(
                f"{name}: {alone:.2f} CPU-seconds per trial one by one, {together_:.2f} in stacks of {options.stack}: "
                f"{alone / together_:.2f} times as many per CPU-second; {'equal' if equal else 'OTHER'} metrics",
                flush=True,
            )
    if options.output:
        turns.save(options.output, result)


if __name__ == "__main__":
    main()
