"""A small residual network on the embedded pictures: trains, evaluates and draws in minutes on a laptop's CPU.

    make quickstart
    python train.py --config experiments/quickstart.py --workdir runs/quickstart

Published: nothing at 8,000 training pictures. Measured here: see the README's table.
"""

from experiments.base import get_base


def get_config():
    config = get_base("classification")
    config.batch_size = 128
    config.duration = "20ep"
    config.eval_every = config.checkpoint_every = "4ep"
    config.log_every = "50"
    config.model.name = "cifar_resnet8"
    config.data.source = "embedded"
    config.data.image_size = config.data.resize_size = 28
    config.data.train_crop = "center"
    config.augment.update(mean=(0.2860,) * 3, std=(0.3530,) * 3, crop_padding=2)
    config.optimizer.update(name="nesterov", learning_rate=0.2, weight_decay=5e-4, decay="kernels")
    config.schedule.update(name="cosine", warmup="1ep")
    return config
