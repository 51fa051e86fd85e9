"""The worker: what it is asked, and what becomes of an error on the way."""

from __future__ import annotations

import errno
import os

import pytest

from sousvit.errors import SharedInputError, TrialError, UserError
from sousvit.objectives.objective import Measurement
from sousvit.search.executors.executor import Job, JobResult, MakeTable, Request, Start, Verify
from sousvit.search.judging.worker import answered
from sousvit.search.results import FinalTable
from sousvit.search.trial import BaseRecord

JOB = Job("a", {}, 1.0, 0, 60.0)
TABLE = MakeTable({}, 1.0, single=None, retrain_base=False)


class Recorder:
    """A judge that answers with what it was asked, or fails as it is told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.asked = error, []

    def _note(self, request):
        self.asked.append(request)
        if self.error is not None:
            raise self.error

    def start(self, known):
        self._note(known)
        return BaseRecord({}, {}, {})

    def judge(self, job):
        self._note(job)
        return JobResult(job.attempt, "complete")

    def verify(self, request):
        self._note(request)
        return {"size": Measurement(1.0)}

    def make_table(self, request):
        self._note(request)
        return FinalTable(())


def test_every_request_is_answered_by_its_own_method():
    judge, known = Recorder(), BaseRecord({}, {}, {"cpu": "old"})
    answers = [answered(judge, request) for request in (Start(known), JOB, Verify({}, 1.0), TABLE)]
    assert [type(answer) for answer in answers] == [BaseRecord, JobResult, dict, FinalTable]
    assert judge.asked == [known, JOB, Verify({}, 1.0), TABLE]


def test_a_request_that_no_judge_knows_is_an_error():
    class Sing(Request[str]):
        doing = "singing"

    with pytest.raises(TypeError, match="knows no Sing"):
        answered(Recorder(), Sing())


@pytest.mark.parametrize(
    "error", [TrialError("no such layer"), UserError("a", "b", "c"), MemoryError(), ZeroDivisionError("by zero")]
)
def test_what_goes_wrong_in_a_job_is_its_own_failure(error):
    result = answered(Recorder(error), JOB)
    assert result.status == "failed" and result.attempt == "a" and result.message
    for other in (Verify({}, 1.0), TABLE):
        with pytest.raises(type(error)):
            answered(Recorder(error), other)


def test_what_every_job_needs_stops_the_search():
    with pytest.raises(SharedInputError):
        answered(Recorder(SharedInputError("the disk", "full", "make room")), JOB)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_fault_of_the_machine_is_no_result_of_a_job(number):
    error = OSError(number, os.strerror(number))
    for raised in (error, TrialError(f"int8_dynamic failed: {error}"), UserError("a file must open", error)):
        with pytest.raises(SharedInputError):
            answered(Recorder(raised), JOB)
