"""Reproducing a run: its files, what is checked before, and what the second run is compared in."""

import json

import pytest

from morphism.commands.compare import text
from morphism.errors import UserError
from morphism.runtime.manifest import read_config, read_starts
from morphism.runtime.surroundings import chosen, code_sha256
from morphism.training import rerun
from morphism.training.loop import train
from morphism.training.reproduce import compared, differences, lock_text, prepare, read_original
from morphism.training.side_by_side import side_by_side


def test_a_run_is_reproduced_to_the_bit_and_another_seed_parts_at_the_first_report(tmp_path, config):
    first, again, other = (tmp_path / name for name in ("first", "again", "other"))
    train(config, first)
    original, notes = read_original(first, None)
    assert original.ended and original.last == 8 and notes == []
    prepare(original, again)
    train(read_config(again), again)
    equal, lines = compared(first, again)
    assert equal and lines[0].startswith("equal to the bit") and lines[0].endswith("of step 4, 8")
    same, differ = differences(original.start, read_starts(again)[-1])
    assert differ == [] and {"code_sha256", "cores", "devices", "packages.jax"} <= set(same)

    prepare(original._replace(stored=original.stored | {"seed": 1}), other)
    train(read_config(other), other)
    equal, lines = compared(first, other)
    assert not equal and lines[0].startswith("different: step 2 is the first on record")  # log_every is 2
    assert lines[1].startswith("step 2: train/") and lines[2].startswith("checkpoint 4: ") and "params." in lines[2]

    found = side_by_side([str(first), str(again), str(other)])
    assert found["config"]["seed"] == [0, 0, 1] and found["data"] == {}
    assert found["curves"]["again"][0].startswith("equal") and found["curves"]["other"][0].startswith("different")
    assert found["numbers"]["val/top1"][0]["step"] == 8
    assert "seed" in text(json.loads(json.dumps(found)))

    def refused(message, name, content):
        kept = (first / name).read_text()
        (first / name).write_text(content) if content is not None else (first / name).unlink()
        with pytest.raises(UserError, match=message):
            read_original(first, None)
        (first / name).write_text(kept)

    gone = original.stored | {"data": original.stored["data"] | {"source": f"folder:{tmp_path}/gone"}}
    refused("manifest.json: no such file; is .* the --workdir", "manifest.json", None)
    refused("manifest.json: not JSON", "manifest.json", "[{")
    refused("manifest.json: not the manifest of a run", "manifest.json", "[]")
    refused("gone.*restore the data, or say where it is now with --source", "config.json", json.dumps(gone))
    refused("the data now has other classes than classes.json", "classes.json", '["a", "b"]')
    refused("trained by 2 processes", "manifest.json", json.dumps([original.start | {"processes": 2}]))
    (first / "checkpoints").rename(first / "elsewhere")
    with pytest.raises(UserError, match="no checkpoint to compare with; first run morphism train"):
        read_original(first, None)


def test_each_difference_to_the_manifest_is_a_line():
    then = {"packages": {"jax": "0.9"}, "python": "3.11", "devices": ["cpu"] * 4, "git_revision": "a", "cores": 2}
    now = then | {"packages": {"jax": "0.10"}, "devices": ["cpu"], "git_revision": "b", "code_sha256": "c"}
    same, lines = differences(then, now)
    assert same == ["python", "cores"]
    assert lines == [
        "packages.jax: 0.9 then, 0.10 here",
        "devices: 4 x cpu then, 1 x cpu here",
        "git_revision: a then, b here",
        "not in the manifest, so not compared: code_sha256",
    ]
    assert differences(then | {"code_sha256": "c"}, now | {"packages": {"jax": "0.9"}, "devices": ["cpu"] * 4})[1] == []
    assert lock_text(then) == "# Python 3.11; revision a\njax==0.9\n"


def test_the_rerun_has_the_environment_and_devices_of_the_run():
    own = {"PATH": "p", "XLA_FLAGS": "--mine", "JAX_COMPILATION_CACHE_DIR": "cache"}
    start = {"platform": "cpu", "devices": ["cpu"] * 3, "environment": {"JAX_ENABLE_X64": "1"}}
    kept = {"PATH": "p", "JAX_COMPILATION_CACHE_DIR": "cache"}
    assert rerun.environment(start, own) == kept | {
        "JAX_ENABLE_X64": "1",
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "3",
    }
    assert chosen(own) == {"XLA_FLAGS": "--mine"}


def test_code_is_the_same_where_only_experiments_differ(tmp_path):
    for name in ("ops/__init__.py", "ops/box.py", "experiments/__init__.py", "experiments/mine.py", "tests/test_x.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    before = code_sha256(tmp_path)
    for name, counts in (("experiments/mine.py", False), ("tests/test_x.py", False), ("ops/box.py", True)):
        (tmp_path / name).write_text("x = 2\n")
        assert (code_sha256(tmp_path) != before) == counts


def test_a_revision_that_the_repository_lacks_is_named():
    with (
        pytest.raises(UserError, match="has no revision 0{40}; run git fetch|no git checkout"),
        rerun.code_of("0" * 40),
    ):
        pass
