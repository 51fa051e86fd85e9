from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys

import pytest
import torch

from sousvit import machine as device
from sousvit.machine import available_cores, reserved_stdout, silent_stderr, silent_stdout, training_device


@pytest.fixture
def machine(monkeypatch):
    def make(cuda=False, mps=False, bf16=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(device, "cpu_has_bf16", lambda: bf16)

    return make


@pytest.mark.parametrize(
    ("has", "precision", "expected"),
    [
        ({"cuda": True, "bf16": True}, "auto", "cuda bfloat16"),
        ({"cuda": True, "bf16": False}, "auto", "cuda fp32"),
        ({"cuda": True, "mps": True, "bf16": True}, "fp32", "cuda fp32"),
        ({"mps": True, "bf16": True}, "auto", "mps fp32"),
        ({"bf16": True}, "auto", "cpu bfloat16"),
        ({"bf16": False}, "auto", "cpu fp32"),
        ({"bf16": True}, "fp32", "cpu fp32"),
        ({"bf16": False}, "bf16", "cpu bfloat16"),
    ],
)
def test_the_best_device_and_the_precision_that_it_computes_or_that_was_asked_for(machine, has, precision, expected):
    machine(**has)
    assert str(training_device(precision)) == expected


def test_autocast_changes_the_type_of_a_product_only_when_asked():
    a = torch.ones(4, 4)
    with training_device("bf16").autocast():
        assert (a @ a).dtype is torch.bfloat16
    with training_device("fp32").autocast():
        assert (a @ a).dtype is torch.float32


def test_a_torch_that_cannot_tell_means_no_bf16(monkeypatch):
    def gone():
        raise AttributeError

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", gone)
    assert device.cpu_has_bf16() is False


def test_there_is_a_core():
    assert available_cores() >= 1


TALKATIVE = """
import os, subprocess, sys
from sousvit.machine import reserved_stdout
print("before")
with reserved_stdout() as out:
    print("a library")
    os.write(1, b"compiled code\\n")
    subprocess.run([sys.executable, "-c", "print('a child')"])
    print("the result", file=out)
print("after")
"""


def test_reserved_standard_output_is_for_one_stream_alone():
    found = subprocess.run([sys.executable, "-c", TALKATIVE], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["before", "the result", "after"]
    assert set(found.stderr.splitlines()) == {"a library", "compiled code", "a child"}


def test_reserved_standard_output_leaves_a_replaced_one_to_whoever_reads_it(capfd):
    with contextlib.redirect_stdout(io.StringIO()) as read:
        with reserved_stdout() as out:
            print("a library")
            print("the result", file=out)
        print("after")
    assert read.getvalue() == "the result\nafter\n"
    assert capfd.readouterr() == ("", "a library\n")


def test_discarded_streams_are_silent_for_compiled_code_too(capfd):
    with silent_stdout():
        print("said")
        os.write(1, b"written")
        with silent_stderr():
            os.write(2, b"written")
    os.write(1, b"heard")
    assert capfd.readouterr() == ("heard", "")
