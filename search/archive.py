"""The archive: every finished trial of a run, its Pareto front, and answers to new budgets without a search.

``events.jsonl`` is the durable log: one JSON line an event, flushed to disk before anything else learns of
it. Lines carry numbers and checksums, and what is damaged is counted and told. The tables (``trials.parquet``,
``pareto.csv``) are written from it and can be lost without harm. One writer: only the driver opens a run for writing.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Generic, TypeVar

from sousvit.errors import UnknownNameError, UserError
from sousvit.files import NO_LOCKS, disk_errors_as_user_errors, remove_unfinished
from sousvit.objectives.objective import Measurement
from sousvit.search.goals import Goals
from sousvit.search.stored.events import problem_of, read_events
from sousvit.search.stored.lines import TORN, Lines, sealed_line
from sousvit.search.trial import BaseRecord, Trial, decode
from sousvit.search.verdict import hangs_on_images

EVENTS, ARTIFACTS = "events.jsonl", "artifacts"
#: Folders in which workers make artifacts.
_MADE_IN = (ARTIFACTS, "cache/structures", "cache/teacher")
#: Kinds of events that say what the archive itself knows.
_OWN_EVENTS = frozenset(
    ("trial", "base", "rejected", "confirmed", "tried", "test_told", "predicted", "options", "run", "session")
)
_NAME = re.compile(r"\w[\w .-]*")


class Archive:
    """Finished trials, in the order they finished.

    Args:
        folder: the run folder.
        writable: open the log for appending, and lock out a second driver; what killed processes left goes.
        techniques: the known ones, where recipes are going to be built: trials of others are left out, and told.
        only: read events of these kinds alone, for a look at a long run.

    Raises:
        UserError: the folder cannot be written, or another search is writing to it.
    """

    def __init__(
        self,
        folder: Path,
        writable: bool = False,
        techniques: Container[str] | None = None,
        only: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        #: What is damaged of the run, each in a line; what a damaged line held is not known.
        self.damaged: list[str] = []
        #: Likewise, what this session mends.
        self.mended: list[str] = []
        self._by_key: dict[str, Trial] = {}
        #: Finished trials in their order; it only grows.
        self.records: list[Trial] = []
        self.base: BaseRecord | None = None
        self.header: dict[str, Any] = {}
        #: How the run was begun, beside its budget.
        self.options: dict[str, Any] = {}
        #: What was measured of trials that broke a limit when measured again, by key: see :meth:`is_rejected`.
        self.rejected: dict[str, dict[str, Measurement]] = {}
        #: Likewise of those that held every limit; and the confidence at which either was asked.
        self.confirmed: dict[str, dict[str, Measurement]] = {}
        self.asked_confidence: dict[str, float] = {}
        #: Recipes that were kept or turned down by the images held back, those of earlier runs included.
        self.num_tried = 0
        #: Keys of this run's that they turned down.
        self.turned_down: set[str] = set()
        #: Answers that told figures of the test split, those of earlier runs that this one continues included.
        self.test_answers = 0
        #: How well costs were predicted: median relative error and number of structures, by objective.
        self.predicted: dict[str, tuple[float, int]] = {}
        #: Trials that this run paid for itself.
        self.own = 0
        self.core_seconds = 0.0
        #: The limit of time, in seconds, that a search of this run has come to the end of.
        self.ended_at: float | None = None
        self._fronts: dict[tuple[Any, ...], _KeptFront] = {}
        self._ended_seconds = 0.0
        self._open_seconds = 0.0
        self._stream: IO[bytes] | None = None
        self._stored: set[str] = set()
        #: Keys of trials that are on disk and not known here yet.
        self._kept: set[str] = set()
        #: Events that are not the archive's own, while nothing was written since they were read.
        self._others: list[dict[str, Any]] | None = [] if writable else None
        if writable:
            self._open_log()
        self._read(techniques, tuple(f'{{"event":{space}"{kind}"'.encode() for kind in only for space in ("", " ")))
        if writable:
            for place in _MADE_IN:
                remove_unfinished(folder / place)

    def _read(self, techniques: Container[str] | None, begins: tuple[bytes, ...]) -> None:
        lines, problems = Lines(self.folder / EVENTS, begins), Counter[str]()
        for event in lines:
            problem = problem_of(event, techniques)
            if problem:
                problems[problem] += 1
            else:
                self._take(event)
                if self._others is not None and event["event"] not in _OWN_EVENTS:
                    self._others.append(event)
        #: The number of the last line.
        self.last_line = lines.last
        if self._stream is not None:
            self._end_torn_line(lines.whole_bytes)
            self.mended += _told(Counter({TORN: lines.damage.pop(TORN, 0)}))
        self.damaged_lines = _told(lines.damage + problems)
        self.damaged += self.damaged_lines

    def _end_torn_line(self, whole_bytes: int) -> None:
        """After a crash in the middle of a line, start the next event on a line of its own."""
        assert self._stream is not None
        path = self.folder / EVENTS
        with disk_errors_as_user_errors(self.folder):
            if whole_bytes < path.stat().st_size:
                os.truncate(path, whole_bytes)
            elif whole_bytes and not _ends_in_newline(path):
                self._stream.write(b"\n")

    def _open_log(self) -> None:
        path = self.folder / EVENTS
        with disk_errors_as_user_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            # Unbuffered: what a full disk did not take must not be written by a later flush.
            self._stream = path.open("ab", buffering=0)
        _lock(self._stream, self.folder)

    def append(self, kind: str, **content: Any) -> None:
        """Write an event and wait until it is on disk, with all before it.

        Raises:
            UserError: the disk is full; the log stays readable.
        """
        event = self.note(kind, **content)
        assert self._stream is not None
        with disk_errors_as_user_errors(self.folder):
            os.fsync(self._stream.fileno())
        self._take(event)

    def note(self, kind: str, **content: Any) -> dict[str, Any]:
        """Write an event that belongs to no trial, without waiting for the disk: a crash keeps it, a power cut may not.

        Raises:
            UserError: the disk is full; the log stays readable.
        """
        assert self._stream is not None, "the archive was opened for reading"
        self._others = None
        event = {"event": kind, "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **content}
        with disk_errors_as_user_errors(self.folder):
            _write_whole(self._stream, sealed_line(event, self.last_line + 1))
        self.last_line += 1
        return event

    def others(self) -> list[dict[str, Any]]:
        """The events of the log that are not the archive's own, such as what was proposed; in their order."""
        kept, self._others = self._others, None  # asked for once, and then only in the way
        if kept is None:
            kept = [event for event in read_events(self.folder / EVENTS) if event["event"] not in _OWN_EVENTS]
        return kept

    def add(self, record: Trial) -> bool:
        """Record a finished trial; a second result for the same key is dropped, and False returned."""
        if record.key in self.trials:
            return False
        if record.key not in self._kept:
            self.keep([record])
        self._kept.discard(record.key)
        self._take_trial(record)
        return True

    def keep(self, records: Sequence[Trial]) -> None:
        """Write finished trials and wait until they are on disk; :meth:`add` makes them known, one by one.

        Raises:
            UserError: the disk is full; the log stays readable.
        """
        new = [record for record in records if record.key not in self._by_key and record.key not in self._kept]
        if not new:
            return
        for record in new:
            self.note("trial", trial=record.to_dict())
            self._kept.add(record.key)
        assert self._stream is not None
        with disk_errors_as_user_errors(self.folder):
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Release the log."""
        if self._stream is not None:
            with contextlib.suppress(OSError):  # a line that did not fit the disk is told of when it is written
                self._stream.close()
            self._stream = None

    def _take(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind == "trial":
            self._take_trial(Trial.from_dict(event["trial"]))
        elif kind == "base":
            self.base = BaseRecord.from_dict(event["base"])
            if "identity" in event:  # of a run whose first line is damaged
                self.header.setdefault("identity", event["identity"])
        elif kind in ("rejected", "confirmed"):
            found = self.rejected if kind == "rejected" else self.confirmed
            found[event["key"]] = decode(event.get("values", {}))
            self.asked_confidence[event["key"]] = float(event.get("confidence", 0.5))
            # What costs too much is turned down whatever the images say, so it picks no luckiest one on them.
            if all(map(_hangs_on_images, event.get("broken", ()))):
                self.num_tried += 1
                self.turned_down |= {event["key"]} if kind == "rejected" else set()
            self._fronts.clear()
        elif kind == "tried":
            self.num_tried += int(event["recipes"])
        elif kind == "test_told":
            self.test_answers += int(event.get("answers", 1))
        elif kind == "predicted":
            self.predicted = dict(event["errors"])
        elif kind == "options":
            self.options = dict(event["options"])
        elif kind == "run":
            self.header = dict(event)
        elif kind == "session":
            if event.get("ended_at") is not None:
                self.ended_at = max(self.ended_at or 0.0, float(event["ended_at"]))
            self._ended_seconds += float(event["seconds"])
            self._open_seconds = 0.0
            self.core_seconds += float(event["core_seconds"])

    def _take_trial(self, record: Trial) -> None:
        is_new = record.key not in self._by_key
        if not record.source:
            self.own += is_new
            self._open_seconds += sum(record.seconds.values())
        if is_new:
            self._by_key[record.key] = record
            self.records.append(record)
        if record.artifact:
            self._stored.add(record.artifact)

    @property
    def trials(self) -> Mapping[str, Trial]:
        """Finished trials by key, to be read only: :meth:`add` adds to them."""
        return MappingProxyType(self._by_key)

    @property
    def spent_seconds(self) -> float:
        """Wall time of the sessions so far; of a killed one, the time of its finished trials."""
        return self._ended_seconds + self._open_seconds

    @property
    def prediction_errors(self) -> str:
        """``latency within 3.4% (median of 41) structures, each predicted by the others``; "" where none is known."""
        said = [f"{name} within {share:.1%} (median of {count:.0f})" for name, (share, count) in self.predicted.items()]
        return f"{', '.join(said)} structures, each predicted by the others" if said else ""

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Trial]:
        return iter(self.records)

    def since(self, known: int) -> list[Trial]:
        """The trials after the first ``known``."""
        return self.records[known:]

    def front(self, goals: Goals) -> list[Trial]:
        """Final trials that hold every limit and that none of the others dominates."""
        return list(self._front(goals).front.items)

    def front_of_singles(self, goals: Goals) -> list[Trial]:
        """The front of single techniques alone: the best of them is part of every answer."""
        return list(self._front(goals, singles_only=True).front.items)

    def rivals(self, goals: Goals, singles_only: bool = False) -> tuple[dict[str, float], ...]:
        """What a candidate has to beat: the optimised figures of every member of the front.

        Args:
            singles_only: take the front of single techniques.
        """
        kept = self._front(goals, singles_only)
        if kept.rivals is None:
            kept.rivals = tuple(goals.figures(trial.values) for trial in kept.front.items)
        return kept.rivals

    def _front(self, goals: Goals, singles_only: bool = False) -> _KeptFront:
        """The front of the trials so far; it is kept, and only trials that came since are looked at."""
        kept = self._fronts.setdefault((singles_only, goals.limits, tuple(goals.directions)), _KeptFront())
        for trial in feasible(self.since(kept.read), goals):
            counts = (trial.is_single or not singles_only) and not self.is_rejected(trial, goals)
            point = goals.point(trial.values)
            if counts and not any(map(math.isnan, point)) and kept.front.add(point, trial):
                kept.rivals = None
        kept.read = len(self)
        return kept

    def is_rejected(self, trial: Trial, goals: Goals) -> bool:
        """Whether ``trial`` broke a limit when it was measured again: then it is no answer.

        Earlier versions did not note what they measured; what they rejected stays so.
        """
        again = self.rejected.get(trial.key)
        if again is None:
            return False
        return not again or not goals.at_least(self.asked_confidence[trial.key]).holds(trial.values | again)

    def drop_artifacts(self, goals: Goals, newest: Trial) -> None:
        """Keep the files of front members only: a search would otherwise fill the disk with what nobody will ship."""
        kept = {trial.artifact for trial in self.front(goals)}
        self._stored.add(newest.artifact)
        for name in self._stored - kept:
            shutil.rmtree(self.folder / ARTIFACTS / name, ignore_errors=True)
        self._stored &= kept


def feasible(trials: Iterable[Trial], goals: Goals) -> list[Trial]:
    """Final trials (the only ones an answer may come from) that hold every limit."""
    return [trial for trial in trials if trial.is_final and goals.holds(trial.values)]


def run_folder(root: Path, name: str) -> Path:
    """The folder of run ``name``.

    Raises:
        UserError: the name could not be a folder's.
    """
    if not _NAME.fullmatch(name):
        rule = "a run name has letters, digits, spaces, dots, dashes"
        raise UserError(rule, repr(name), "choose another --run name")
    return root / name


def new_run_name(stem: str) -> str:
    """A name for a new run: what a name can hold of ``stem`` (files may be called anything), and the time."""
    kept = re.sub(r"[^\w.-]+", "-", stem).strip("-.")
    return f"{kept or 'run'}-{time.strftime('%Y%m%d-%H%M%S')}"


def _told(damage: Counter[str]) -> list[str]:
    """What is damaged of the log, in a line where anything is."""
    found = [f"{count} line{'s' * (count > 1)} {what}" for what, count in damage.items() if count]
    return [f"{EVENTS}: {', '.join(found)}"] * bool(found)


def _hangs_on_images(name: str) -> bool:
    """As :func:`.hangs_on_images`; so does an objective whose plug-in is not loaded, as where runs are only listed."""
    try:
        return hangs_on_images(name)
    except UnknownNameError:
        return True


def _write_whole(stream: IO[bytes], line: bytes) -> None:
    """Write a line, or nothing of it; unbuffered writing may take a part at a time."""
    before, rest = os.fstat(stream.fileno()).st_size, memoryview(line)
    try:
        while rest:
            rest = rest[stream.write(rest) :]
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(stream.fileno(), before)
        raise


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as reader:
        reader.seek(-1, os.SEEK_END)
        return reader.read(1) == b"\n"


def _lock(stream: IO[bytes], folder: Path) -> None:
    """An advisory lock that dies with the process: a killed search leaves nothing stale.

    Where the file system knows no locks (some network mounts), a word says that two drivers are the user's own care.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no fcntl; there two drivers are the user's own care
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            print(f"{folder} lies on a file system without locks: start no second search in it", file=sys.stderr)
            return
        stream.close()
        raise UserError(
            "one search writes to a run at a time", f"{folder} is in use", "wait for it, or use another --run name"
        ) from error


T = TypeVar("T")


class Front(Generic[T]):
    """Non-dominated points, less is better, with what they stand for; of equal points the first stays."""

    def __init__(self) -> None:
        self._points: list[tuple[float, ...]] = []
        self.items: list[T] = []

    def add(self, point: Sequence[float], item: T) -> bool:
        """Add ``point``; returns whether it is on the front now."""
        new = tuple(point)
        if any(all(a <= b for a, b in zip(old, new, strict=True)) for old in self._points):
            return False
        keep = [not all(a <= b for a, b in zip(new, old, strict=True)) for old in self._points]
        self._points = [old for old, kept in zip(self._points, keep, strict=True) if kept]
        self.items = [old for old, kept in zip(self.items, keep, strict=True) if kept]
        self._points.append(new)
        self.items.append(item)
        return True


@dataclass
class _KeptFront:
    """A front as far as the archive was read, with its figures until it changes."""

    front: Front[Trial] = field(default_factory=Front)
    read: int = 0
    rivals: tuple[dict[str, float], ...] | None = None
