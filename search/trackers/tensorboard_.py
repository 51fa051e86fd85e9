"""TensorBoard: event files in the run folder, under ``tensorboard/``."""

from __future__ import annotations

from typing import ClassVar

from sousvit.search.trackers.tracker import Figures, Texts, Tracker


class TensorBoardTracker(Tracker):
    """A scalar a figure, by trial; recipes as text."""

    name: ClassVar[str] = "tensorboard"
    needs: ClassVar[str] = "tensorboard"

    def begin(self, base: Figures) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self.folder / "tensorboard"))
        for name, text in self.settings.items():
            self._writer.add_text(f"settings/{name}", text)
        for name, value in base.items():
            self._writer.add_scalar(f"base/{name}", value)

    def log(self, step: int, figures: Figures, texts: Texts) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(f"trial/{name}", value, step)
        self._writer.add_text("trial", ", ".join(texts.values()), step)
        self._writer.flush()

    def end(self, figures: Figures, texts: Texts) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(f"answer/{name}", value)
        self._writer.add_text("answer", ", ".join(texts.values()))
        self._writer.close()
