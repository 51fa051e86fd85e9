from __future__ import annotations

import pickle
import threading

import pytest

from sousvit.errors import (
    MOST_NAMES,
    MissingPackageError,
    TrainingDivergedError,
    TrialError,
    UnknownNameError,
    UserError,
    one_line,
    printable,
)


def test_the_message_is_rule_then_received_then_action():
    assert str(UserError("a rule.", 7, "do that.")) == "a rule; received 7; do that"
    assert str(UserError("a rule")) == "a rule"


def test_a_message_is_one_line_whatever_was_received():
    assert (
        str(UserError("a rule", "two\nlines\t and\r\n more", "act\nnow"))
        == "a rule; received two lines and more; act now"
    )


def test_what_a_terminal_obeys_is_written_out():
    words = "\x1b]0;owned\x07 \x9b31m \u202eabc"
    for error in (UserError("a rule", words), TrialError(words), TrainingDivergedError(words)):
        assert "\\x1b" in str(error) and str(error).isprintable()
    assert one_line(ValueError(words)).isprintable()
    assert printable("Grüße, 日本\tline\n") == "Grüße, 日本\tline\n"
    assert str(TrialError()) == ""


@pytest.mark.parametrize(
    "error",
    [
        UserError("a rule", 7, "act"),
        UserError("a rule"),
        UnknownNameError("technique", "pruen", ["prune", "merge"]),
        MissingPackageError("openvino", "the runtime openvino", "openvino"),
        TrialError("no memory"),
        TrainingDivergedError("the loss became nan"),
    ],
)
def test_errors_survive_pickling(error):
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert str(back) == str(error)


def test_an_unpicklable_received_value_still_travels_as_text():
    error = UserError("a rule", threading.Lock(), "act")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_an_unknown_name_gets_close_matches_or_all_names():
    assert "did you mean 'prune'?" in str(UnknownNameError("technique", "pruen", ["prune", "merge"]))
    assert "choose one of merge, prune" in str(UnknownNameError("technique", "xyz", ["prune", "merge"]))
    assert "none is registered" in str(UnknownNameError("technique", "xyz", []))


def test_very_many_names_are_cut():
    message = str(UnknownNameError("model", "?", [f"name{index:04}" for index in range(1000)]))
    assert "name0000" in message and "(1000 in all)" in message
    assert message.count("name") == MOST_NAMES + 1  # and the rule's own word


def test_user_errors_are_value_errors_and_trial_errors_are_not():
    assert issubclass(UserError, ValueError)
    assert not issubclass(TrialError, ValueError)
