"""The package as `pip install .` leaves it: one import name, usable from any folder, also without the command line."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
APART = ("tests", "benchmarks", "docs", "build", "runs")  # folders of the tree that are not installed
TRAINED = (
    *("--config", "experiments/quickstart.py", "--workdir", "run", "--config.duration=1", "--config.batch_size=4"),
    *("--config.schedule.warmup=0", "--config.eval_every=0", "--config.data.val_split=val[:8]"),
    *("--config.data.image_size=8", "--config.data.resize_size=8"),
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with what the wheel installs, made of a copy of the tree, so that nothing is built inside it."""
    folder = tmp_path_factory.mktemp("install")
    left_out = shutil.ignore_patterns(".*", "runs", "build", "tests", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, folder / "tree", ignore=left_out)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    done = subprocess.run([*build, str(folder / "tree")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def python(installed: Path, folder: Path, *arguments: str) -> str:
    """Standard output of Python in `folder`, with nothing of the tree on its path."""
    environment = os.environ | {"PYTHONPATH": str(installed), "JAX_NUM_CPU_DEVICES": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_wheel_has_one_import_name_and_one_command(installed):
    top = {path.name for path in installed.iterdir()}
    assert {name.partition("-")[0] for name in top} == {"morphism"} and "morphism" in top
    [metadata] = installed.glob("*.dist-info")
    assert "morphism = morphism.commands:main" in (metadata / "entry_points.txt").read_text()
    packages = [path for path in ROOT.iterdir() if path.name not in APART and list(path.glob("*.py"))]
    files = [file.relative_to(ROOT) for package in packages for file in package.rglob("*.py")]
    for file in (file for file in files if file != Path("data/embedded/draw.py")):  # a script that made the data
        assert (installed / "morphism" / file).exists(), f"setup.cfg does not list {file.parent}"
        assert (ROOT / file.parent / "__init__.py").exists(), f"{file.parent} has no __init__.py"
    assert (installed / "morphism" / "py.typed").exists()


def test_an_installed_run_is_trained_and_opened_from_an_empty_folder(installed, tmp_path):
    python(installed, tmp_path, "-m", "morphism", "train", *TRAINED)
    digest = python(installed, tmp_path, "-m", "morphism", "digest", "run")
    where = python(installed, tmp_path, "-c", "import morphism; print(morphism.__file__)")
    assert Path(where.strip()).parent == installed / "morphism"
    assert len(digest.split()[0]) == 64
