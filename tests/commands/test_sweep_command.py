"""`morphism sweep`: bad input is one line, before anything is trained."""

import importlib.util

import pytest

from morphism.errors import UserError
from morphism.sweeps import local
from morphism.sweeps.folder import read_plan


def sweep(*arguments):
    """Runs the command in this process, with flags of its own."""
    spec = importlib.util.find_spec("morphism.commands.sweep")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rest = module.COMMAND.parse(["sweep", *arguments])
    module.COMMAND.find_data()
    module.main(rest)


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """Where a sweep would be; none starts a worker."""

    def refuse(*_):
        raise AssertionError("a worker was started")

    monkeypatch.setattr(local.Pool, "_start", refuse)
    return tmp_path / "sweep"


QUICKSTART = ("--config=experiments/quickstart.py",)
GRID = (*QUICKSTART, "--grid=optimizer.learning_rate=0.1,0.2")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--config is missing"),
        (QUICKSTART, "--trials is missing"),
        ((*QUICKSTART, "--trials=4", "--metric=accuracy"), "--metric is 'accuracy', which is none of"),
        ((*QUICKSTART, "--trials=4", "--sampler=grid"), "learning_rate is continuous"),
        ((*QUICKSTART, "--trials=4", "--sampler=bayes"), "--sampler is 'bayes'"),
        ((*QUICKSTART, "--trials=4", "--pruner=hyperband"), "--pruner is 'hyperband'"),
        ((*QUICKSTART, "--trials=4", "--pruner=asha", "--rungs=1ep,20ep"), "20ep is not before the end"),
        ((*QUICKSTART, "--trials=4", "--pruner=asha", "--rungs=50k"), "50k is not before the end"),
        ((*QUICKSTART, "--trials=4", "--rungs=1ep"), "--pruner none has no use for it"),
        ((*QUICKSTART, "--trials=4", "--disk=much"), "--disk is 'much'"),
        ((*QUICKSTART, "--trials=4", "--storage=sqlite:////no/such/folder/x.db"), "cannot be reached"),
        ((*QUICKSTART, "--trials=4", "--space=experiments/quickstart.py:spaces"), "did you mean space"),
        ((*GRID, "--trials=3"), "the grid has 2 points"),
        ((*GRID, "--space=x.py:space"), "--space and --grid are both given"),
        ((*QUICKSTART, "--grid=optimizer.lr=0.1"), "config.optimizer.lr: no such field; did you mean"),
        ((*QUICKSTART, "--grid=optimizer.learning_rate="), "no values"),
        ((*QUICKSTART, "--grid=optimizer.learning_rate"), "no values"),
        ((*QUICKSTART, "--grid=optimizer.learning_rate=0.1,-1"), "config.optimizer.learning_rate is -1"),
        ((*QUICKSTART, "--grid=optimizer.name=adamm"), "did you mean adam"),
        ((*QUICKSTART, "--grid=optimizer.learning_rate=0.1,0.1"), "0.1 is there twice"),
        ((*GRID, "--grid=optimizer.learning_rate=0.3"), "given twice"),
        ((*GRID, "--grid=batch_size=32,-1", "--grid=data.image_size=28,24", "--stack=2"), "config.batch_size is -1"),
        (
            (*QUICKSTART, "--grid=batch_size=16,32,64", "--stack=2"),
            "no two of 3 points share a program.* on batch_size;",
        ),
        ((*GRID, "--pruner=asha", "--seeds=3"), "leave one out, or repeat only the best with --repeat_best 3"),
        ((*GRID, "--repeat_best=3", "--seeds=5"), "--repeat_best is 3, of 2 trials"),
        ((*QUICKSTART, "--grid=seed=1,2", "--seeds=2"), "--grid sets config.seed.* leave one out"),
        ((*QUICKSTART, "--grid=seed=1,2", "--repeat_best=1"), "--grid sets config.seed.* leave one out"),
        ((*GRID, "--vary_split", "--seeds=5"), "a split that is cut, such as with --config.data.val_fraction=0.2"),
        ((*GRID, "--launcher=slrum"), "--launcher is 'slrum'.* did you mean slurm"),
    ],
)
def test_bad_input_is_one_line(workdir, arguments, words):
    with pytest.raises(UserError, match=words) as error:
        sweep(*arguments, f"--workdir={workdir}")
    assert "\n" not in str(error.value) and not workdir.exists()


def test_what_is_left_out_is_as_the_sweep_began(workdir, monkeypatch):
    monkeypatch.setattr(local.Pool, "__enter__", lambda self: self)
    monkeypatch.setattr(local.Pool, "__exit__", lambda *_: None)
    monkeypatch.setattr(local.Pool, "watch", lambda *_: None)
    with pytest.raises(UserError, match="no trial is complete"):
        sweep(*GRID, "--grid=data.crop_ratio=(0.5,2),(1,1)", "--pruner=asha", f"--workdir={workdir}", "--disk=2GB")
    first = read_plan(workdir)
    assert first.sampler == "grid" and first.trials == 4 and first.rungs == ("2.22222ep", "6.66667ep")
    assert first.grid["data.crop_ratio"] == ((0.5, 2), (1, 1)) and first.disk == 2_000_000_000
    with pytest.raises(UserError, match="no trial is complete"):
        sweep(f"--workdir={workdir}", "--trials=3")
    assert vars(read_plan(workdir)) | {"config": 0} == vars(first) | {"trials": 3, "config": 0}
    with pytest.raises(UserError, match=r"holds a sweep with data.crop_ratio from .*now it is from nothing"):
        sweep(*QUICKSTART, "--grid=optimizer.name=adam,sgd", f"--workdir={workdir}")
    (workdir / "sweep.db").unlink()
    with pytest.raises(UserError, match="no trial is complete"):  # it has none that could be lost
        sweep(f"--workdir={workdir}")
    (workdir / "sweep.db").unlink()
    (workdir / "trials" / "0").mkdir(parents=True)
    with pytest.raises(UserError, match=r"its storage .*sweep.db is missing; restore the file"):
        sweep(f"--workdir={workdir}")
    assert not (workdir / "sweep.db").exists()
