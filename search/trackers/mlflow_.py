"""MLflow: on the server that ``MLFLOW_TRACKING_URI`` names, else in ``mlflow.db`` of the run folder."""

from __future__ import annotations

import logging
from typing import ClassVar

from sousvit.search.trackers.tracker import Figures, Texts, Tracker, from_environment


class MlflowTracker(Tracker):
    """A metric a figure, by trial; the base's as parameters."""

    name: ClassVar[str] = "mlflow"
    needs: ClassVar[str] = "mlflow"

    def begin(self, base: Figures) -> None:
        from mlflow import MlflowClient

        logging.getLogger("mlflow.store").setLevel(logging.WARNING)  # it tells of every table that it makes
        place = (self.folder / "mlflow.db").absolute()
        self._client = MlflowClient(from_environment("MLFLOW_TRACKING_URI", f"sqlite:///{place}"))
        name = from_environment("MLFLOW_EXPERIMENT_NAME", "sousvit")
        known = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if known is None else known.experiment_id
        self._run = self._client.create_run(experiment, run_name=self.folder.name).info.run_id
        for key, value in (self.settings | {f"base_{name}": f"{value:.6g}" for name, value in base.items()}).items():
            self._client.log_param(self._run, key, value[:500])

    def log(self, step: int, figures: Figures, texts: Texts) -> None:
        for name, value in figures.items():
            self._client.log_metric(self._run, name.replace("@", "/"), value, step=step)

    def end(self, figures: Figures, texts: Texts) -> None:
        for name, value in figures.items():
            self._client.log_metric(self._run, f"answer_{name}".replace("@", "/"), value)
        for name, text in texts.items():
            self._client.set_tag(self._run, f"answer_{name}", text)
        self._client.set_terminated(self._run)
