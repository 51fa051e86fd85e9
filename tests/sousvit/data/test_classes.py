"""The data's classes against the checkpoint's: remapped by name, told with a word, or refused in one line."""

from __future__ import annotations

import pytest

from sousvit.data.classes import Match, match
from sousvit.errors import UserError


def refused(*args, **options):
    with pytest.raises(UserError) as caught:
        match(*args, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    return message


@pytest.mark.parametrize(
    ("data", "learned", "labels"),
    [
        (["cat", "dog", "emu"], ("emu", "cat", "dog"), (1, 2, 0)),
        (["emu"], ("cat", "dog", "emu"), (2,)),
        (["1", "10", "2"], ("1", "2", "10"), (0, 2, 1)),
        (["Great_White-Shark", "TENCH"], ("tench", "great white shark"), (1, 0)),
        (["goldfish", "tench"], ("tench, Tinca tinca", "goldfish, Carassius auratus"), (1, 0)),
        (["crane", "Tinca tinca"], ("tench, Tinca tinca", "crane, the bird", "excavator"), (1, 0)),
        # ImageNet has two classes called crane: the full names tell them apart.
        (["crane, bird", "crane, machine"], ("crane, machine", "crane, bird"), (1, 0)),
        (["日本", "ångström"], ("Ångström", "日本"), (1, 0)),
        (["0", "1", "10", "2"], tuple(map(str, range(11))), (0, 1, 10, 2)),
    ],
)
def test_names_known_on_both_sides_decide(data, learned, labels):
    found = match(data, learned, len(learned))
    assert found.labels == labels and found.names == learned
    assert len(found.notes) == 1 and found.notes[0].startswith("labels were changed to those of the checkpoint's")


@pytest.mark.parametrize(
    ("data", "learned"),
    [
        (["cat", "dog"], ("cat", "dog")),
        (["cat", "dog"], ("Cat", "Dog", "Emu")),
        (["tench"], ("tench, Tinca tinca",)),
    ],
)
def test_classes_in_the_checkpoints_order_stay_as_they_are(data, learned):
    assert match(data, learned, len(learned)) == Match()


@pytest.mark.parametrize(
    ("data", "learned", "words"),
    [
        (["plane", "car"], ("airplane", "automobile"), '2 of 2 that it did not (plane, car); it learned ["airplane"'),
        (["cat", "dog", "emu"], ("cat", "dog"), '1 of 3 that it did not (emu); it learned ["cat", "dog"]; name the'),
        (["cat", "dog", "emu"], ("cat", "dog"), 'or leave them out: data.classes: ["cat", "dog"]'),
        (["crane"], ("crane, bird", "crane, machine"), "names that mean several of"),
        (["Cat", "cat"], ("CAT", "dog"), "names that mean several of"),
    ],
)
def test_other_names_are_one_line_that_says_what_to_do(data, learned, words):
    assert words in refused(data, learned, len(learned))


def test_the_users_own_order_stands_where_names_differ():
    [note] = match(["plane", "car"], ("airplane", "automobile"), 2, ordered=True).notes
    assert "data.classes was taken in the order" in note and "plane stands for airplane" in note
    assert "2 of 2" in refused(["a", "b"], ("x",), 1, ordered=True)


@pytest.mark.parametrize("learned", [(), ("LABEL_0", "LABEL_1", "LABEL_2"), ("0", "1", "2")])
def test_a_checkpoint_without_names_and_folders_of_two_orders_is_a_word(learned):
    [note] = match(["1", "10", "2"], learned if learned != ("0", "1", "2") else (), 3).notes
    assert "sorted as text, so 10 is class 1" in note and "data.classes: natural" in note
    assert match(["cat", "dog", "emu"], learned, 3) == Match()
    assert match(["1", "10", "2"], (), 3, ordered=True) == Match(), "the user said so"


def test_fewer_classes_than_a_checkpoint_without_names_has_are_a_word():
    [note] = match(["cat", "dog"], (), 10).notes
    assert "does not name its 10 classes: the data's 2 (cat, dog, ...) were taken for its first ones" in note
    assert match(["cat", "dog"], (), 10, ordered=True) == Match()


def test_more_classes_than_the_model_has_are_refused():
    assert "2 classes for 3 of the data" in refused(["a", "b", "c"], (), 2)
