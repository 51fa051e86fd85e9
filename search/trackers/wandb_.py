"""Weights & Biases: in files of the run folder, under ``wandb/``, unless ``WANDB_MODE`` says ``online``."""

from __future__ import annotations

from typing import ClassVar

from sousvit.search.trackers.tracker import Figures, Texts, Tracker, from_environment


class WandbTracker(Tracker):
    """A row a trial; ``wandb sync`` uploads an offline run."""

    name: ClassVar[str] = "wandb"
    needs: ClassVar[str] = "wandb"

    def begin(self, base: Figures) -> None:
        import wandb

        # What a program prints, its code and the machine's load are none of a report's business.
        quiet = wandb.Settings(silent=True, console="off", disable_code=True, disable_git=True, x_disable_stats=True)
        self._run = wandb.init(
            project=from_environment("WANDB_PROJECT", "sousvit"),
            name=self.folder.name,
            dir=str(self.folder),
            mode=from_environment("WANDB_MODE", "offline"),
            config={**self.settings, "base": base},
            settings=quiet,
        )

    def log(self, step: int, figures: Figures, texts: Texts) -> None:
        self._run.log({**figures, **texts}, step=step)

    def end(self, figures: Figures, texts: Texts) -> None:
        self._run.summary.update({f"answer_{name}": value for name, value in {**figures, **texts}.items()})
        self._run.finish()
