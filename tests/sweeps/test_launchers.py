"""Sweeps whose workers SLURM or Ray starts; both run here without a cluster of their own."""

import os
import sys

import pytest

from morphism.errors import UserError
from morphism.runtime.stopping import StopRequest
from morphism.sweeps import launchers
from morphism.sweeps.folder import Plan, begin_sweep, open_sweep


@pytest.fixture
def sweep(config, tmp_path, monkeypatch):
    """Two trials of two steps; (folder, plan, store)."""
    config.update(duration="2", eval_every="0", checkpoint_every="0", plots=False)
    config.data.val_split = "val[:64]"
    given = dict(experiment="", config=config.lock(), space="", grid={"optimizer.learning_rate": (0.1, 0.2)})
    given |= dict(metric="top1", lower=False, sampler="grid", sampler_seed=0, pruner="none", rungs=(), eta=3)
    begin_sweep(tmp_path / "sweep", Plan(**given, trials=2, storage=""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("MORPHISM_STORAGE", "")
    return tmp_path / "sweep", *open_sweep(tmp_path / "sweep")


def ended(launch, folder, plan, store, workers):
    """The trials that `launch` leaves, and the numbers of workers that it showed."""
    shown = []
    with launch(folder, plan, store, workers) as launched:
        launched.watch(StopRequest(), lambda trials, number: shown.append(number))
    return store.records(), shown


def test_jobs_of_slurms_client_run_the_trials(sweep, monkeypatch):
    """submitit's local executor writes and starts the files that SLURM would; an error of a job is one line."""
    pytest.importorskip("submitit")
    folder, plan, store = sweep
    launch = launchers.of("slurm", "cluster=local,timeout_min=5")
    trials, shown = ended(launch, folder, plan, store, workers=1)
    assert [each.state for each in trials] == ["complete"] * 2 and shown[0] == 1 and shown[-1] == 0
    assert list((folder / "workers").glob("slurm-*.log")) and list(
        (folder / "workers" / "slurm").glob("*_submitted.pkl")
    )
    (folder / "sweep.json").rename(folder / "moved.json")
    plan = Plan(**vars(plan) | {"trials": 3})
    with pytest.raises(UserError, match="holds no sweep"):
        ended(launch, folder, plan, store, workers=1)
    with pytest.raises(UserError, match="--launcher slurm: .*nonsense"):
        ended(launchers.of("slurm", "cluster=local,nonsense=5"), folder, plan, store, workers=1)


def test_a_ray_cluster_of_two_nodes_runs_the_trials(sweep, monkeypatch):
    monkeypatch.setenv("RAY_worker_niceness", "0")  # it is 15: on a busy machine, Ray's workers would wait for minutes
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        trials, shown = ended(launchers.of("ray", "num_cpus=1"), *sweep, workers=2)
        assert [each.state for each in trials] == ["complete"] * 2 and max(shown) == 2
        nodes = {path.name.split("-")[1] for path in (sweep[0] / "workers").glob("ray-*.log")}
        assert len(nodes) == 2
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_options_are_numbers_or_texts_and_a_missing_engine_is_one_line(monkeypatch):
    assert launchers.parsed("timeout_min=240,mem_gb=1.5,slurm_partition=gpu") == {
        "timeout_min": 240,
        "mem_gb": 1.5,
        "slurm_partition": "gpu",
    }
    for name, options, words in (
        ("local", "num_cpus=1", "leave them out"),
        ("slrum", "", "did you mean slurm"),
        ("slurm", "timeout", "no name=value"),
    ):
        with pytest.raises(UserError, match=words):
            launchers.of(name, options)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "morphism.sweeps.launchers.ray", raising=False)
    with pytest.raises(UserError, match=r"pip install 'morphism\[ray\]'"):
        launchers.of("ray")
