"""What a run may go on with, and what it may not."""

import re

import numpy as np
import pytest

from morphism.errors import UserError
from morphism.experiments import quickstart
from morphism.runtime import resume
from morphism.runtime.manifest import claim_config, read_config


class Sized:
    classes, targets = (), {}
    sizes = np.array([[40, 60], [60, 40]] * 50)

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        raise NotImplementedError


def changed(config, **fields):
    other = config.copy_and_resolve_references()
    with other.unlocked():
        other.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return other


def detection(**fields):
    return changed(quickstart.get_config("detection"), data__resize="shorter", data__image_size=40, **fields)


FREE = [
    {"log_every": "7"},
    {"checkpoint_every": "7"},
    {"keep": 9},
    {"data__workers": 3},
    {"data__threads": 7},
    {"data__prefetch": 9},
    {"data__timeout": 9},
    {"data__data_dir": "/moved"},
    {"data__strict": True},
    {"duration": "100ep"},
    {"duration": "100k"},
]


@pytest.mark.parametrize("fields", FREE, ids=str)
def test_what_changes_no_result_may_change_and_is_reported_once(tmp_path, fields):
    config = quickstart.get_config()
    assert claim_config(tmp_path, config, Sized()) == []
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    now = changed(config, **fields)
    (line,) = claim_config(tmp_path, now, Sized())
    (name,) = (name.replace("__", ".") for name in fields)
    assert f"config.{name}=" in line
    assert resume.flat(read_config(tmp_path)) == resume.flat(now)
    assert claim_config(tmp_path, read_config(tmp_path), Sized()) == []


@pytest.mark.parametrize(
    ("before", "fields", "allowed"),
    [
        (detection(data__max_boxes=8), {"data__max_boxes": 9}, True),
        (detection(data__max_boxes=8), {"data__max_boxes": 7}, False),
        (detection(data__max_boxes=8, augment__mosaic=1.0), {"data__max_boxes": 9}, False),
        (detection(data__canvases=((40, 64), (64, 40))), {"data__canvases": ((40, 64), (64, 40), (300, 300))}, True),
        (detection(data__canvases=((40, 64), (64, 40))), {"data__canvases": ((64, 64),)}, False),
        (detection(data__canvases=((40, 64), (64, 40))), {"data__canvases": ((40, 60), (64, 40))}, False),
        (quickstart.get_config("segmentation"), {"data__canvases": ((96, 96),)}, True),
        (quickstart.get_config("segmentation"), {"metrics__medical": True}, True),
        (quickstart.get_config("segmentation"), {"data__spacing": (0.5, 0.7)}, True),
        (quickstart.get_config(), {"duration": "1"}, False),
        (quickstart.get_config(), {"eval_every": "7"}, False),
        (quickstart.get_config(), {"optimizer__learning_rate": 0.3}, False),
    ],
)
def test_what_changes_a_result_is_refused_with_what_it_was(before, fields, allowed):
    now = changed(before, **fields)
    if allowed:
        assert len(resume.changes(before, now, Sized())) == 1
        return
    (name,) = (name.replace("__", ".") for name in fields)
    text = re.escape(f"config.{name}={resume.flat(before)[name]!r}, now it is {resume.flat(now)[name]!r}")
    with pytest.raises(UserError, match=f"{text}; choose another --workdir, or give"):
        resume.changes(before, now, Sized())


def test_a_part_s_own_field_may_change_where_the_configuration_s_may():
    assert resume.among(resume.FREE, "metrics.medical") and resume.among(resume.FREE, "parts.ground.metrics.medical")
    assert not resume.among(resume.FREE, "parts.ground.loss.name") and not resume.among(resume.FREE, "parts.ground")


def test_without_a_checkpoint_a_workdir_is_nobody_s(tmp_path):
    claim_config(tmp_path, quickstart.get_config(), Sized())
    (tmp_path / "checkpoints").mkdir()
    other = changed(quickstart.get_config(), seed=5)
    assert claim_config(tmp_path, other, Sized()) == []
    assert read_config(tmp_path).seed == 5


def test_determinism_may_be_switched_on_but_not_off_and_precision_stays():
    config = quickstart.get_config()
    exact = changed(config, deterministic=True)
    (line,) = resume.changes(config, exact, Sized())
    assert "config.deterministic=False, now it is True" in line
    with pytest.raises(UserError, match="config.deterministic=True, now it is False"):
        resume.changes(exact, config, Sized())
    with pytest.raises(UserError, match="config.precision='default', now it is 'highest'"):
        resume.changes(config, changed(config, precision="highest"), Sized())
