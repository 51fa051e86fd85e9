"""YAML of strangers: bounded in depth and size, aliases counted as what they stand for, and no value read as another.

YAML 1.1 takes ``no`` for false, ``017`` for 15, ``1:30`` for 90 and ``1_000`` for 1000. Whoever writes one of these may
mean a class, an hour or a name: they are refused, with what to write instead. Dates are text, as in YAML 1.2.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

import yaml
from yaml.constructor import BaseConstructor, ConstructorError

from sousvit.errors import UserError

#: Levels of lists and mappings inside each other. Budgets have 6.
MOST_DEPTH = 32
#: Values and keys, those that an alias stands for included: 50,000 take a second.
MOST_VALUES = 50_000
#: Characters of text, likewise: whoever writes the values out again writes each of them.
MOST_CHARACTERS = 8 << 20
#: Characters of one value, as of the longest path.
MOST_IN_VALUE = 4096
#: Whole numbers that other programs can hold.
LARGEST = 2**63 - 1

_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_TEXT = f"{_TAG}str"
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,18})")
_LONG = re.compile(r"[-+]?[1-9][0-9]*")
_OTHER_SWITCHES = {"yes": "true", "on": "true", "no": "false", "off": "false"}
#: Of a number that is no decimal one: what YAML reads it as is told up to this length.
_SHORT = 20
#: What may not stand in text: a path ends at NUL, terminals obey others, and half of a surrogate pair is no character.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class BoundedLoader(yaml.SafeLoader):
    """PyYAML's safe loader within bounds. Its errors are yaml.YAMLError, or UserError with a word of advice.

    Not the C loader: deep nesting overflows its stack and kills the process.

    Args:
        text: of one document.
        where: the file that it stands in.
    """

    def __init__(self, text: str, where: str) -> None:
        super().__init__(text)
        self.name = where
        self._depth = 0
        self._values = self._characters = 0
        #: By anchor the values and characters of what it names.
        self._sizes: dict[str, tuple[int, int]] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            self._count_alias(event)
            return super().compose_node(parent, index)
        values, characters, self._depth = self._values, self._characters, self._depth + 1
        if self._depth > MOST_DEPTH:
            self._refuse(f"YAML is nested at most {MOST_DEPTH} deep", "more", "flatten it", event)
        self._count(1, self._length(event), event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if event.anchor is not None:
            self._sizes[event.anchor] = self._values - values, self._characters - characters
        return node

    def _length(self, event: Any) -> int:
        """Characters of a scalar."""
        length = len(event.value) if isinstance(event, yaml.ScalarEvent) else 0
        if length > MOST_IN_VALUE:
            self._refuse(f"a value in YAML has at most {MOST_IN_VALUE} characters", length, "shorten it", event)
        return length

    def _count_alias(self, event: Any) -> None:
        size = self._sizes.get(event.anchor)
        if size is not None:
            self._count(*size, event)
        elif event.anchor in self.anchors:  # its node has begun and not ended
            self._refuse("a value in YAML does not hold itself", f"*{event.anchor}", "write it out", event)

    def _count(self, values: int, characters: int, event: Any) -> None:
        self._values += values
        self._characters += characters
        if self._values > MOST_VALUES or self._characters > MOST_CHARACTERS:
            rule = f"a YAML file holds at most {MOST_VALUES} values and {MOST_CHARACTERS >> 20} MB of text"
            self._refuse(rule, "more, with what its aliases stand for", "shorten it", event)

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:  # before "<<" is merged in: a merged key may be overridden, a written one not
            if key.tag == _MERGE:
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise ConstructorError(None, None, "a key is a word", key.start_mark)
            if key.value in seen:
                raise ConstructorError(None, None, f"key {_cut(key.value)!r} is given twice", key.start_mark)
            if key.tag != _TEXT:
                self._refuse("a key in YAML is a word", _cut(key.value), "write it in quotes", key)
            seen.add(key.value)
        return node

    def flatten_mapping(self, node: Any) -> None:
        """What ``<<`` names is merged in: what is written wins, then what is named first.

        PyYAML's own (6.0.4) takes keys of one letter from the wrong mapping, and grows with the square of a chain.
        """
        written = {key.value: (key, value) for key, value in node.value if key.tag != _MERGE}
        merged: dict[str, Any] = {}
        for key, value in node.value:
            for source in self._sources(value) if key.tag == _MERGE else ():
                self.flatten_mapping(source)
                for pair in source.value:
                    merged.setdefault(pair[0].value, pair)
        node.value = list({**merged, **written}.values())

    def _sources(self, node: Any) -> list[Any]:
        """The mappings that a merge key names."""
        found = node.value if isinstance(node, yaml.SequenceNode) else [node]
        other = next((one for one in found if not isinstance(one, yaml.MappingNode)), None)
        if other is not None:
            raise ConstructorError(None, None, "<< names mappings", other.start_mark)
        return list(found)

    def construct_scalar(self, node: Any) -> Any:
        return BaseConstructor.construct_scalar(self, node)  # a mapping with the key "=" is no text

    def _refuse(self, rule: str, received: object, action: str, at: Any) -> NoReturn:
        raise UserError(rule, f"{received} in {self.name} line {at.start_mark.line + 1}", action)

    def _text(self, node: Any) -> str:
        text = str(self.construct_scalar(node))
        if _CONTROL.search(text):
            self._refuse("text holds no control characters", ascii(_cut(text)), "remove them", node)
        return text

    def _switch(self, node: Any) -> bool:
        text = str(self.construct_scalar(node))
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        meant = _OTHER_SWITCHES.get(text.lower())
        if meant is None:
            raise ConstructorError(None, None, f"{_cut(text)!r} is no switch", node.start_mark)
        rule = "yes, no, on and off are switches to some and words to others"
        self._refuse(rule, text, f"write {meant}, or '{text}' in quotes for the word", node)

    def _whole(self, node: Any) -> int:
        text = str(self.construct_scalar(node))
        if _DECIMAL.fullmatch(text) and abs(int(text)) <= LARGEST:
            return int(text)
        if _LONG.fullmatch(text):
            rule = "a whole number has at most 18 digits"
            self._refuse(rule, _cut(text), "write a smaller one, or quotes around a word", node)
        return self._refuse_number(text, super().construct_yaml_int, node)

    def _real(self, node: Any) -> float:
        text = str(self.construct_scalar(node))
        if not any(sign in text for sign in "_:"):
            return float(super().construct_yaml_float(node))
        return self._refuse_number(text, super().construct_yaml_float, node)

    def _refuse_number(self, text: str, read: Any, node: Any) -> NoReturn:
        """Refuse a number that YAML 1.1 reads otherwise than it looks."""
        as_read = ""
        if len(text) <= _SHORT:
            as_read = f"{read(node):.15g}"
        known = f"{_cut(text)}{f', which YAML reads as {as_read}' if as_read else ''}"
        action = f"write {as_read or 'a number'}, or '{_cut(text)}' in quotes for the word or the time"
        self._refuse("a number is written in decimal digits alone", known, action, node)


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}..."


_SAFE = yaml.SafeLoader.yaml_constructors
#: Values of these kinds and no others: a date, a set or binary data is not what any of our files holds.
BoundedLoader.yaml_constructors = {
    **{tag: _SAFE[tag] for tag in (None, f"{_TAG}null", f"{_TAG}seq", f"{_TAG}map")},
    _TEXT: BoundedLoader._text,
    f"{_TAG}bool": BoundedLoader._switch,
    f"{_TAG}int": BoundedLoader._whole,
    f"{_TAG}float": BoundedLoader._real,
}
BoundedLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag in BoundedLoader.yaml_constructors or tag == _MERGE]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
