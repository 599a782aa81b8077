from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from morphism import models, tasks
from morphism.data import sources
from morphism.data.pipeline import train_batches
from morphism.errors import UserError
from morphism.runtime import mesh as meshes
from morphism.runtime.mesh import AXIS, FSDP, check_batch, make_mesh, shardings, spec_of, to_devices
from morphism.training.hyper import ema_values, hyper_parameters, on_devices
from morphism.training.parameters import split
from morphism.training.state import TrainState, init_state
from morphism.training.step import make_train_step, optimizer_of, update_ema

GOLDENS = np.load(Path(__file__).parent.parent / "goldens" / "optimizers.npz")
TASK = tasks.get("classification")


def initial(model, optimizer, config):
    options = {"image_size": config.data.image_size, "seed": config.seed, "ema": config.ema.decay > 0}
    return jax.jit(lambda: init_state(model, optimizer, **options))()


def run(config, mesh, steps=4):
    source = sources.load(config.data, "train")
    model = models.create(config.model, 10, AXIS)
    hyper = on_devices(hyper_parameters(config, len(source) / config.batch_size), mesh)
    step = make_train_step(model=model, task=TASK, config=config, classes=10, mesh=mesh)
    optimizer = optimizer_of(config, hyper)
    state = initial(model, optimizer, config)
    state = jax.device_put(state, shardings(state, mesh))
    history = [] if steps else [(None, jax.device_get(state))]
    for _, batch in to_devices(train_batches(source, config, start_step=0, stop_step=steps), mesh):
        state, scalars = step(state, batch, hyper)
        history.append(jax.device_get((scalars, state)))
    return history


def assert_same(a, b, **tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


def test_synchronised_norm_makes_the_number_of_devices_invisible(config, mesh_of):
    config.model.sync_bn = True
    assert_invisible(config, [mesh_of(devices) for devices in (1, 2, 4)])


def test_and_it_does_with_every_augmentation(config, blockless, mesh_of):
    config.model.sync_bn = True
    config.augment.update(mixup_alpha=0.2, cutmix_alpha=1.0, auto="trivialaugment", brightness=0.4, contrast=0.4)
    config.augment.update(saturation=0.4, hue=0.1, lighting=0.1, erase_probability=0.5)
    assert_invisible(config, [mesh_of(devices) for devices in (1, 4)])


def assert_invisible(config, meshes):
    """Trains alike on each of `meshes`."""
    one, *others = (run(config, mesh) for mesh in meshes)
    for several in others:
        assert_same([s for s, _ in one], [s for s, _ in several], rtol=1e-4, atol=1e-6)
        assert_same(one[-1][1].params, several[-1][1].params, rtol=1e-3, atol=1e-5)
        assert_same(one[-1][1].batch_stats, several[-1][1].batch_stats, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rule", ["lars", "adamw"])
def test_a_state_that_devices_share_trains_as_whole_copies_do(config, mesh_of, monkeypatch, rule):
    """Up to rounding: gradients, their global norm, LARS's norms of parameters, moving averages, frozen layers."""
    monkeypatch.setattr(meshes, "SMALL", 64)
    config.optimizer.update(name=rule, clip_norm=0.5, weight_decay=1e-3, freeze=("layer1.0.conv1.*",))
    config.ema.decay = 0.9
    config.accumulate = 2 if rule == "adamw" else 1
    whole, shared = run(config, mesh_of(4), steps=2), run(config, mesh_of(4, fsdp=2), steps=2)
    assert whole[0][0]["grad_norm"] > 0.5  # so that clipping has an effect
    assert_same([s for s, _ in whole], [s for s, _ in shared], rtol=1e-5)
    assert_same(whole[-1][1], shared[-1][1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "fsdp", "expected"),
    [
        ((3, 3, 256, 512), 8, P(None, None, None, FSDP)),
        ((3, 3, 512, 256), 8, P(None, None, FSDP)),
        ((3, 3, 256, 256), 8, P(None, None, None, FSDP)),
        ((1000, 2001), 8, P(FSDP)),
        ((3, 3, 256, 512), 1, P()),
        ((3, 3, 32, 32), 8, P()),  # small
        ((333, 333), 8, P()),  # no axis splits
    ],
)
def test_a_large_array_is_split_along_its_longest_axis_that_splits(shape, fsdp, expected):
    assert spec_of(shape, fsdp) == expected


def test_a_share_that_does_not_divide_the_devices_is_refused_with_one_that_does():
    with pytest.raises(UserError, match="config.mesh.fsdp=3 does not divide the 4 devices; try 2"):
        make_mesh(fsdp=3)
    with pytest.raises(UserError, match="does not divide the 4 devices; try 4"):
        make_mesh(fsdp=10**20)
    assert make_mesh(fsdp=0).shape == {"data": 1, "fsdp": 4}


def test_without_it_each_device_normalises_its_own_rows(config, mesh_of):
    one, several = run(config, mesh_of(1), steps=1), run(config, mesh_of(4), steps=1)
    assert abs(one[0][0]["loss"] - several[0][0]["loss"]) > 1e-4


def test_accumulation_is_the_step_of_devices_that_see_the_micro_batches(config, mesh_of):
    """Two micro-batches on one device normalise and average as one micro-batch on each of two devices."""
    two_devices = run(config, mesh_of(2), steps=3)
    config.accumulate = 2
    accumulated = run(config, mesh_of(1), steps=3)
    assert_same([s for s, _ in two_devices], [s for s, _ in accumulated], rtol=1e-4)
    assert_same(two_devices[-1][1].params, accumulated[-1][1].params, rtol=1e-3, atol=1e-5)


def test_the_same_run_twice_gives_the_same_bits(config, mesh_of):
    a, b = run(config, mesh_of(2), steps=2), run(config, mesh_of(2), steps=2)
    assert all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize(("every", "warmup"), [(1, 0), (2, 0), (1, 4), (3, 4)])
def test_moving_averages_of_parameters_and_statistics_are_torchs(every, warmup):
    values = jnp.array(GOLDENS["ema/values"], jnp.float32)
    start = {"params": jnp.ones(()), "batch_stats": jnp.zeros(())}  # as torch's batch norm begins
    state = TrainState(step=jnp.int32(0), opt_state=None, ema=start, **start)
    for (parameter, statistic), expected in zip(values, GOLDENS[f"ema/{every}/{warmup}"], strict=True):
        state = state.replace(step=state.step + 1, params=parameter, batch_stats=statistic)
        state = update_ema(state, ema_values(0.8, every=every, warmup=warmup))
        np.testing.assert_allclose((state.ema["params"], state.ema["batch_stats"]), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("every", [1, 3])
def test_a_ramped_average_is_yoloxs(every):
    """yolox/utils/ema.py, ModelEMA: no copies, also in the warm-up, and a decay that grows with every update."""
    values, average = np.random.default_rng(0).standard_normal(12), 1.0
    start = {"params": jnp.float32(average), "batch_stats": {}}
    state = TrainState(step=jnp.int32(0), opt_state=None, ema=start, **start)
    for step, value in enumerate(values, start=1):
        if step % every == 0:
            decay = 0.9998 * (1 - np.exp(-step / 7))
            average = decay * average + (1 - decay) * value
        state = state.replace(step=state.step + 1, params=jnp.float32(value))
        state = update_ema(state, ema_values(0.9998, every=every, warmup=5, ramp=7))
        np.testing.assert_allclose(state.ema["params"], average, rtol=1e-5)


def test_the_step_keeps_the_averages(config, mesh_of):
    config.ema.decay = 0.8
    config.schedule.warmup = "0"  # through which the averages would be copies
    (_, first), (_, second) = run(config, mesh_of(1), steps=2)
    assert_same(first.ema, {"params": first.params, "batch_stats": first.batch_stats}, rtol=0)
    expected = jax.tree.map(
        lambda e, x: 0.8 * e + 0.2 * x, first.ema, {"params": second.params, "batch_stats": second.batch_stats}
    )
    assert_same(second.ema, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("frozen_bn", [False, True])
def test_frozen_parameters_keep_their_bits_and_change_no_loss_and_no_other_update(config, mesh_of, frozen_bn):
    config.model.frozen_bn = frozen_bn
    config.optimizer.update(weight_decay=0.1, decay="all")
    (_, before), *_ = run(config, mesh_of(2), steps=0)
    free_scalars, free = run(config, mesh_of(2), steps=1)[0]
    config.optimizer.freeze = ("conv1.*", "layer1.*", "layer2.0.conv?.kernel")
    scalars, after = run(config, mesh_of(2), steps=1)[0]
    assert scalars["loss"] == pytest.approx(float(free_scalars["loss"]), rel=1e-6)
    assert scalars["grad_norm"] < free_scalars["grad_norm"]
    frozen = split(after.params, config.optimizer.freeze)[1]
    assert_same(frozen, split(before.params, config.optimizer.freeze)[1], rtol=0)
    assert len(jax.tree.leaves(frozen)) == (5 if frozen_bn else 9)
    trained, expected = (split(state.params, config.optimizer.freeze)[0] for state in (after, free))
    assert_same(trained, expected, rtol=1e-4, atol=1e-6)
    assert len(jax.tree.leaves(after.opt_state)) < len(jax.tree.leaves(free.opt_state))


def test_no_gradient_of_frozen_layers_is_computed(config, mesh_of):
    def operations():
        model = models.create(config.model, 10, AXIS)
        hyper = hyper_parameters(config, 100)
        step = make_train_step(model=model, task=TASK, config=config, classes=10, mesh=mesh_of(1))
        state = jax.eval_shape(lambda: init_state(model, optimizer_of(config, hyper), image_size=8, seed=0, ema=False))
        batch = next(iter(train_batches(sources.load(config.data, "train"), config, start_step=0, stop_step=1)))
        batch.pop("odd")
        return step.lower(state, batch, hyper).as_text().count("stablehlo.convolution")

    whole = operations()
    config.optimizer.freeze = ("conv1.*", "bn1.*", "layer1.*", "layer2.*")
    assert operations() < 0.75 * whole


def test_gradients_are_those_of_the_mean_loss_over_the_global_batch(config, mesh_of):
    """Plain SGD on two devices moves the parameters by the rate times a gradient taken without any mesh."""
    config.model.sync_bn = False
    config.optimizer.update(name="sgd", learning_rate=0.5, weight_decay=0.0)
    config.schedule.update(name="constant", warmup="0")
    source = sources.load(config.data, "train")
    model = models.create(config.model, 10, AXIS)
    before = initial(model, optimizer_of(config, hyper_parameters(config, 100)), config)
    batch = next(iter(train_batches(source, config, start_step=0, stop_step=1)))

    from morphism.augment import augment

    key = jax.random.split(jax.random.key(config.seed))[0]
    augmented = jax.jit(lambda arrays: augment(key, arrays, config.augment, 10))(
        {name: batch[name] for name in batch if name != "odd"}
    )

    def loss(params):
        halves = []
        for rows in (slice(0, 8), slice(8, 16)):
            variables = {"params": params, "batch_stats": before.batch_stats}
            logits, _ = model.apply(variables, augmented["image"][rows], train=True, mutable=["batch_stats"])
            log_p = jax.nn.log_softmax(logits)
            halves.append(-jnp.mean(log_p[jnp.arange(8), batch["label"][rows]]))
        return sum(halves) / 2

    value, gradient = jax.jit(jax.value_and_grad(loss))(before.params)
    scalars, after = run(config, mesh_of(2), steps=1)[0]
    assert scalars["loss"] == pytest.approx(float(value), rel=1e-5)
    expected = jax.tree.map(lambda p, g: p - 0.5 * g, before.params, gradient)
    assert_same(after.params, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("batch", "accumulate", "mixed", "devices", "message"),
    [
        (10, 1, 1, 4, "config.batch_size=10 does not split over 4 devices.*try 8"),
        (12, 2, 1, 4, "4 devices x 2 micro-batches; try 16"),
        (4, 1, 2, 4, "groups of 2 to mix; try 8"),
    ],
)
def test_a_batch_that_does_not_split_is_refused_with_one_that_does(batch, accumulate, mixed, devices, message):
    with pytest.raises(UserError, match=message):
        check_batch(batch, accumulate, mixed, devices)
