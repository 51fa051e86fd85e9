"""JUnit XML of a verification: one test case a limit, and one for parity, as GitLab, GitHub and Jenkins read it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from sousvit.files import write_atomic

if TYPE_CHECKING:
    from sousvit.search.judging.verification import Verification


LIMITS, PARITY = "sousvit.limits", "sousvit.parity"


def junit(found: Verification, strict: bool = False) -> str:
    """The file's text. A broken limit is a failure; one that was not shown to hold is skipped, or a failure too.

    Args:
        strict: what was not shown to hold fails.
    """
    suite = ElementTree.Element("testsuite", name=f"sousvit verify {found.subject.name}")
    suite.set("timestamp", time.strftime("%Y-%m-%dT%H:%M:%S"))
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in {"status": found.status, "target": found.target, "subject": str(found.subject)}.items():
        ElementTree.SubElement(properties, "property", name=name, value=value)
    for limit in found.limits:
        case = ElementTree.SubElement(suite, "testcase", classname=LIMITS, name=f"{limit.name} {limit.bound}", time="0")
        if limit.verdict == "broken" or (strict and not limit.holds):
            failure = ElementTree.SubElement(case, "failure", message=str(limit), type=limit.verdict)
            failure.text = "\n".join([str(limit), *found.notes])
        elif not limit.holds:
            ElementTree.SubElement(case, "skipped", message=str(limit))
        else:
            ElementTree.SubElement(case, "system-out").text = str(limit)
    case = ElementTree.SubElement(suite, "testcase", classname=PARITY, name="artifact computes what the model does")
    case.set("time", f"{found.seconds:.3f}")
    if found.parity is None:
        ElementTree.SubElement(case, "skipped", message="an artifact alone has no PyTorch model to compare with")
    else:
        ElementTree.SubElement(case, "system-out").text = f"relative error of the logits: {found.parity:.3g}"
    counts = {"tests": "testcase", "failures": "testcase/failure", "skipped": "testcase/skipped", "errors": "error"}
    whole = ElementTree.Element("testsuites", name="sousvit verify")
    for element in (suite, whole):
        for name, path in counts.items():
            element.set(name, str(len(suite.findall(path))))
        element.set("time", f"{found.seconds:.3f}")
    whole.append(suite)
    ElementTree.indent(whole)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(whole, encoding="unicode") + "\n"


def write_junit(found: Verification, path: Path, strict: bool = False) -> None:
    """Write :func:`junit` to a file; its folder is made."""
    write_atomic(path, junit(found, strict))
