"""MLflow: `pip install 'morphism[mlflow]'`.

MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME (default: morphism) apply; without the first, MLflow chooses a database
in the current folder. A resumed run goes on in the same MLflow run.
"""

import io
import os
import time
from collections.abc import Mapping

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient
from PIL import Image

from morphism.runtime.writers.background import Opening


class MLflow:
    """MLflow keeps every point of a metric, also two of one step; nothing that was sent can be taken back."""

    OVERWRITES = False

    def __init__(self, opening: Opening):
        self._client = MlflowClient()
        self._run = opening.known("mlflow").get("run")
        if self._run:
            self._client.update_run(self._run, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "morphism")
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        self._run = self._client.create_run(number, run_name=opening.workdir.name).info.run_id
        params = [Param(field, str(value)[:6000]) for field, value in opening.config.items()]
        for start in range(0, len(params), 100):  # the most that one call takes
            self._client.log_batch(self._run, params=params[start : start + 100])
        opening.store("mlflow", run=self._run)

    def record(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(self._run, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def images(self, step: int, images: Mapping[str, bytes]) -> None:
        for name, png in images.items():
            self._client.log_image(self._run, Image.open(io.BytesIO(png)), key=name, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._run)
