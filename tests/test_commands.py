"""The commands as a person runs them: one process each, most of them forked (see forked.py)."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import corpus
import forked
import pytest

ROOT = Path(__file__).parent.parent
MORPHISM = ("-m", "morphism")  # a command other than train.py and eval.py, as an argument of Python
SMALL = (  # a convolution, its norm and the classifier; a test to which blocks matter sets the depth to 8
    "--config.model.options.depth=2",
    "--config.duration=4",
    "--config.batch_size=16",
    "--config.eval_every=0",
    "--config.checkpoint_every=2",
    "--config.log_every=1",
    "--config.schedule.warmup=1",
    "--config.data.image_size=8",
    "--config.data.resize_size=8",
    "--config.data.val_split=val[:72]",
    "--config.plots=False",
)


def run(*arguments, devices=1, timeout=240):
    return forked.run(arguments, devices, timeout)


def run_anew(*arguments, devices=1, timeout=240):
    """As `run`, by an interpreter that has imported nothing."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout
    )


def run_in_two(*arguments):
    """What each of two processes prints that run a command together. Both must succeed."""
    both = in_two(arguments)
    assert [done.returncode for done in both] == [0, 0], both
    return [ours(done.stdout) for done in both]


# What XLA's Gloo prints for each connection, in pieces: those of two threads may lie between one another.
GLOO = r"(\[Gloo\] Rank |[0-9]+| is connected to | peer ranks\. |Expected number of connected peer ranks is : |\s)+"


def ours(text):
    """What a process of several has printed, without the lines that are Gloo's alone, and without empty lines."""
    return "".join(line for line in text.splitlines(True) if not re.fullmatch(GLOO, line))


def photos(folder):
    """Class folders with four photographs."""
    for split in ("train", "val"):
        for name in "ab":
            (folder / split / name).mkdir(parents=True)
            (folder / split / name / "1.png").write_bytes(corpus.encode(corpus.photo(), "PNG"))


def in_two(arguments, own=((), ())):
    """A command in two processes of one device, joined over loopback, each with flags of its `own`."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    joined = (*arguments, "--distributed", f"--coordinator=localhost:{port}", "--num_processes=2")
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda index: run(*joined, f"--process_id={index}", *own[index]), range(2)))


def test_processes_with_other_flags_all_end_with_the_first_that_differs(tmp_path):
    whole = ("train.py", "--config=experiments/quickstart.py", f"--workdir={tmp_path / 'run'}", *SMALL)
    for done in in_two(whole, own=((), ("--config.seed=5", "--config.data.threads=1"))):
        assert done.returncode == 2
        assert done.stderr.endswith(
            "error: config.seed is 0 in process 0, and 5 in process 1; start the same command on all hosts\n"
        )
    assert not list((tmp_path / "run").glob("checkpoints/*"))
    assert train(tmp_path / "run").returncode == 0
    for done in in_two(("eval.py", f"--workdir={tmp_path / 'run'}"), own=((), ("--views=flip",))):
        assert done.returncode == 2
        assert "error: --views is 'center' in process 0, and 'flip' in process 1" in done.stderr
    photos(tmp_path / "in")
    predict = (*MORPHISM, "predict", f"--workdir={tmp_path / 'run'}")
    for done in in_two(predict, own=((f"{tmp_path}/in/train",), (f"{tmp_path}/in/val", f"{tmp_path}/in/train"))):
        assert done.returncode == 2
        assert "error: input 3 is None in process 0, and 'a/1.png' in process 1; start the same" in done.stderr


def test_a_worker_of_prepare_that_cannot_read_an_image_ends_it_in_one_line(tmp_path):
    photos(tmp_path / "in")
    bad = tmp_path / "in" / "val" / "b" / "2.png"
    bad.touch()
    done = run_anew(*MORPHISM, "prepare", str(tmp_path / "in"), "--to", str(tmp_path / "to"), "--workers=2")
    assert done.returncode == 2
    assert done.stderr == f"morphism prepare: error: {bad}: empty file, not an image; replace or remove it\n"


def test_ctrl_c_while_workers_of_prepare_start_is_one_line(tmp_path):
    photos(tmp_path / "in")
    command = (sys.executable, *MORPHISM, "prepare", str(tmp_path / "in"), "--to", str(tmp_path / "to"), "--workers=2")
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    workers = f"/proc/{process.pid}/task/{process.pid}/children"
    while process.poll() is None and len(Path(workers).read_text().split()) < 3:  # two, and the tracker of resources
        time.sleep(0.01)
    time.sleep(0.1)  # they import NumPy now
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60)[1] == "morphism prepare: error: interrupted\n"
    assert process.returncode == 130


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def train(workdir, *more, devices=1, run=run):
    return run(
        "train.py", "--config", "experiments/quickstart.py", "--workdir", str(workdir), *SMALL, *more, devices=devices
    )


def test_train_evaluate_predict_and_digest(tmp_path):
    done = train(tmp_path / "run", "--config.plots=True", "--config.data.val_split=val")
    assert done.returncode == 0, done.stderr
    assert "step 4/4  val: top1 0." in done.stdout

    done = run("eval.py", "--workdir", str(tmp_path / "run"), "--draw")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "eval_val.json").read_text())
    assert len((tmp_path / "run" / "eval_val_images.jsonl").read_text().splitlines()) == result["examples"]
    assert result["examples"] == 2000
    assert f"top1                {result['top1']:.4f}" in done.stdout
    plots = tmp_path / "run" / "plots"
    assert {path.name for path in plots.iterdir()} == {"first_batch.png", "curves.png", "val"}
    drawn = {"examples", "confusion", "per_class", "precision_recall", "f1_threshold", "reliability"}
    assert {path.name for path in (plots / "val").iterdir()} == {"plots.json", *(f"{name}.png" for name in drawn)}
    assert json.loads((plots / "val" / "plots.json").read_text())["confusion"]["counts"] == result["confusion"]

    done = run("eval.py", "--workdir", str(tmp_path / "run"), "--views=flip", "--config.data.threads=1")
    assert done.returncode == 0, done.stderr
    flipped = json.loads((tmp_path / "run" / "eval_val_flip.json").read_text())
    assert flipped["examples"] == 2000 and flipped["loss"] != result["loss"]

    from PIL import Image

    from morphism.data.sources.embedded import CLASSES, Embedded

    Image.fromarray(Embedded("val")[0]["image"]).save(tmp_path / "one.png")
    for name in CLASSES[3:5]:
        (tmp_path / "later" / name).mkdir(parents=True)
        shutil.copy(tmp_path / "one.png", tmp_path / "later" / name)
    done = run("eval.py", "--workdir", str(tmp_path / "run"), f"--config.data.source=folder:{tmp_path / 'later'}")
    assert done.returncode == 2 and "config.data.source: the run has its own; give --data" in done.stderr
    later = ("--data", f"folder:{tmp_path / 'later'}", "--split", "train")
    done = run("eval.py", "--workdir", str(tmp_path / "run"), *later)
    assert done.returncode == 0, done.stderr
    assert [sum(row) for row in json.loads((tmp_path / "run" / "eval_train.json").read_text())["confusion"]] == [
        *(int(name in CLASSES[3:5]) for name in CLASSES)
    ]

    done = run(*MORPHISM, "predict", "--workdir", str(tmp_path / "run"), str(tmp_path / "one.png"))
    assert done.returncode == 0, done.stderr
    name, predicted, confidence = done.stdout.strip().split("\t")
    assert name == str(tmp_path / "one.png") and predicted in CLASSES and 0 < float(confidence) <= 1

    digests = [run(*MORPHISM, "digest", str(tmp_path / "run"), f"--step={step}").stdout for step in ("2", "4")]
    assert digests[0] != digests[1]
    assert all(len(line.split()[0]) == 64 for line in digests)


def test_a_segmentation_is_trained_evaluated_drawn_and_written_as_masks(tmp_path):
    import numpy as np
    from PIL import Image

    from morphism.data.sources import scene_masks

    workdir = str(tmp_path / "run")
    small = ("--config.model.options.width=2", "--config.model.options.stages=1", "--config.eval_batch_size=4")
    small += ("--config.data.source=scene_masks:20x32", "--config.data.crop=(32, 32)")
    small += ("--config.data.view_scales=(0.5, 1.0)",)  # six would be compiled, twice each
    done = run(
        *("train.py", "--config", "experiments/quickstart.py:segmentation", "--workdir", workdir, *small),
        *("--config.duration=2", "--config.batch_size=8", "--config.schedule.warmup=1", "--config.data.image_size=32"),
    )
    assert done.returncode == 0, done.stderr
    assert "step 2/2  val: miou 0." in done.stdout

    medical = ("--config.metrics.medical=True", "--config.data.spacing=(0.5, 0.5)")
    evaluate = ("eval.py", "--workdir", workdir, "--draw", "--views=scales_flip", *medical)
    done = run(*evaluate, devices=2)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "eval_val_scales_flip.json").read_text())
    surfaces = result["surfaces"]
    assert re.search(rf"hd95 in mm, all classes +{surfaces['hd95']:.4f}$", done.stdout, re.MULTILINE)
    assert re.search(rf"images counted, all classes +{surfaces['images']}$", done.stdout, re.MULTILINE)
    assert surfaces["images"] + surfaces["absent"] == 5 * len(scene_masks.CLASSES)
    assert result["examples"] == 5 and np.sum(result["confusion"]) == result["pixels"] == 5 * 32 * 32
    assert re.search(rf"miou +{result['miou']:.4f}$", done.stdout, re.MULTILINE)
    drawn = {path.name for path in (tmp_path / "run" / "plots" / "val_scales_flip").iterdir()}
    assert drawn == {"examples.png", "confusion.png", "per_class.png", "plots.json"}
    alone = contents(tmp_path / "run")
    first, second = run_in_two(*evaluate)
    assert first == ours(done.stdout) and second == ""
    assert contents(tmp_path / "run") == alone  # the second batch has one image

    for name, size in (("wide", (33, 47)), ("tall", (40, 32))):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / f"{name}.png")
    pictures = [str(tmp_path / f"{name}.png") for name in ("wide", "tall")]
    done = run(*MORPHISM, "predict", "--workdir", workdir, *pictures)
    assert done.returncode == 0, done.stderr
    shares = [line.split("\t") for line in done.stdout.splitlines()]
    done = run(*MORPHISM, "predict", "--workdir", workdir, "--output", str(tmp_path / "out"), *pictures)
    assert done.returncode == 0 and done.stdout == "" and "annotated copies, predictions.jsonl, masks/" in done.stderr
    run_in_two(*MORPHISM, "predict", "--workdir", workdir, "--output", str(tmp_path / "two"), *pictures)
    assert contents(tmp_path / "two") == contents(tmp_path / "out")
    assert len((tmp_path / "out" / "predictions.jsonl").read_text().splitlines()) == 2
    assert {name for name, _, _ in shares} == set(pictures)
    for name, size in (("wide", (33, 47)), ("tall", (40, 32))):
        mask = np.asarray(Image.open(tmp_path / "out" / "masks" / f"{name}.png"))
        assert mask.shape == size and mask.max() < 6
        for _, kind, share in (each for each in shares if each[0].endswith(f"{name}.png")):
            assert float(share) == round(float((mask == scene_masks.CLASSES.index(kind)).mean()), 4)


def test_the_same_command_uses_all_devices(tmp_path):
    done = train(tmp_path / "run", devices=4, run=run_anew)
    assert done.returncode == 0, done.stderr
    assert "4 cpu device(s)" in done.stdout


def test_help_names_the_flags_without_waiting_for_jax():
    done = run_anew("train.py", "--help")
    assert done.returncode == 0
    assert "--config" in done.stdout and "--workdir" in done.stdout and "--distributed" in done.stdout
    done = subprocess.run(
        f"{sys.executable} train.py --help | head -1", shell=True, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert len(done.stdout.splitlines()) == 1 and done.stderr == ""
    for command in ("train", "eval", "predict"):
        loaded = run_anew("-c", f"import sys, morphism.commands.{command}; print(*sys.modules)").stdout.split()
        assert f"morphism.commands.{command}" in loaded and "jax" not in loaded and "tensorflow_datasets" not in loaded


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config.optimiser.name=adam",), "config.optimiser: no such field; did you mean config.optimizer?"),
        (("--config.optimizer.learning=1",), "config.optimizer.learning: no such field"),
        (("--config.batch_size=many",), "config.batch_size is 'many'; it must be a whole number of at least 1"),
        (("--config.batch_size.x=1",), "config.batch_size: a single value, it has no field x"),
        (("--config.model.name=resnet19",), "config.model.name is 'resnet19'"),
        (("--config.optimizer.name=adamm",), "config.optimizer.name is 'adamm'"),
        (("--config.data.image_size=32",), "config.data.image_size is 32, larger than config.data.resize_size=28"),
        (("--config.data.crop_scale=1,0.1",), "config.data.crop_scale is (1, 0.1); it must be two numbers above 0"),
        (("--config.data.val_split=",), "embedded has no split ''"),
        (("--config.data.source=folder:/nowhere",), "/nowhere: no such folder"),
        (("--config.batch_size=10", "--config.accumulate=4"), "does not split over 1 devices x 4 micro-batches"),
        (("--wokrdir=x",), "Unknown command line flag 'wokrdir'"),
        (("--coordinator=localhost:1",), "go with --distributed"),
        (("stray",), "unexpected argument 'stray'"),
    ],
)
def test_bad_input_is_one_line_and_exits_with_2(tmp_path, arguments, message):
    done = run("train.py", "--config", "experiments/quickstart.py", "--workdir", str(tmp_path / "run"), *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("train.py: error: ") and message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.fixture
def pictures(tmp_path):
    """Every usable sort of picture, in the same three classes of train and val."""
    for split in ("train", "val"):
        for index, (name, (encoded, _)) in enumerate(corpus.usable().items()):
            folder = tmp_path / "pictures" / split / ("dog", "犬", "كلب")[index % 3]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(encoded)
    return tmp_path / "pictures"


@pytest.mark.parametrize("workers", [0, 1])
def test_odd_pictures_are_told_once_and_a_broken_one_ends_each_command_in_one_line(tmp_path, pictures, workers):
    source = (f"--config.data.source=folder:{pictures}", "--config.data.val_split=val", "--config.eval_every=2")
    source += (f"--config.data.workers={workers}",)
    done = train(tmp_path / "run", *source)
    assert (done.returncode, done.stderr) == (0, "")
    ranged, *told = [line for line in done.stdout.splitlines() if line.startswith("data: ")]
    assert ranged.startswith("data: images of more than 8 bits (")
    assert len(told) == 2  # training and validation
    for line, split in zip(told, ("train", "val"), strict=True):
        assert re.match(rf"data: odd images: 7 truncated \(.*\), first {pictures}/{split}/", line)
        assert "; 3 EXIF-rotated (turned upright), first " in line

    spoilt = pictures / "spoilt.png"  # its header is whole
    spoilt.write_bytes(corpus.png_of(b"no pixels"))
    (pictures / "val" / "gone").symlink_to("/nowhere")
    entries = tmp_path / "entries.json"
    done = run(
        *MORPHISM,
        "predict",
        "--workdir",
        str(tmp_path / "run"),
        str(pictures / "val"),
        str(spoilt),
        f"--output={entries}",
    )
    assert done.returncode == 2 and done.stdout == ""
    odd, written, lost, error = done.stderr.splitlines()
    assert lost == f"morphism predict: error: {pictures / 'val' / 'gone'}: a link to nowhere; mend or remove it"
    assert odd.startswith("data: odd images: 7 truncated ")
    *found, last = json.loads(entries.read_text())
    assert written == f"predictions of {len(found)} images in {entries}"
    assert error.startswith(f"morphism predict: error: {spoilt}: cannot be decoded")
    frames = [each for each in found if each.keys() == {"file", "frame", "time", "class", "confidence"}]
    assert {Path(each["file"]).name for each in frames} == {"animated.gif"} and len(frames) > 1
    assert len(found) - len(frames) == len(corpus.usable()) - 1
    assert all(each.keys() == {"file", "class", "confidence"} for each in found if each not in frames)
    assert last["file"] == str(spoilt) and error.endswith(last["error"])

    (pictures / "val" / "gone").unlink()
    broken = pictures / "val" / "dog" / "broken.jpg"
    broken.write_text("no picture")
    line = f"error: {broken}: cannot be decoded (cannot identify image file); replace or remove it\n"
    commands = {"eval.py": ("eval.py",), "morphism predict": (*MORPHISM, "predict", str(broken))}
    for program, command in list(commands.items())[workers:]:
        done = run(*command, "--workdir", str(tmp_path / "run"))
        assert (done.returncode, done.stderr) == (2, f"{program}: {line}")
    broken.rename(pictures / "train" / "dog" / "broken.jpg")
    done = train(tmp_path / "other", *source)
    assert (done.returncode, done.stderr) == (2, f"train.py: {line}".replace("/val/", "/train/"))

    if workers:
        return
    done = train(tmp_path / "strict", *source, "--config.data.strict=True")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert done.stderr.endswith("; mend or remove it, or set config.data.strict=False\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train.py", "--workdir=x"), "--config is missing"),
        (("train.py", "--config=experiments/none.py", "--workdir=x"), "experiments/none.py"),
        (("train.py", "--config=experiments/quickstart.py"), "--workdir is missing"),
        (
            ("train.py", "--config=experiments/cifar10_resnet.py", "--workdir=x", "--config.data.data_dir=/nowhere"),
            "/nowhere/cifar10/3.0.2: tfds:cifar10 is not prepared there; run: morphism prepare tfds:cifar10",
        ),
        (("eval.py",), "--workdir is missing"),
        (("eval.py", "--workdir=/nowhere"), "/nowhere/config.json: no such file"),
        ((*MORPHISM, "predict", "--workdir=/nowhere"), "name images"),
        ((*MORPHISM, "digest"), "give one workdir"),
        ((*MORPHISM, "prepare", "fashion_mnist"), "give one dataset, such as tfds:fashion_mnist"),
    ],
)
def test_what_a_command_lacks_is_named(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_ctrl_c_where_nothing_can_be_raised_ends_a_command():
    code = (
        "from morphism.commands import cli\n"
        "class Collected:\n"
        "    def __del__(self): raise KeyboardInterrupt\n"
        "cli._quieten('morphism train')\n"
        "Collected()\n"
        "print('went on')\n"
    )
    done = run_anew("-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "morphism train: error: interrupted\n")
