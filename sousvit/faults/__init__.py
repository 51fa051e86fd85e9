"""Faults of the machine: what counts as one, and limits of the system that are looked at before they are met."""

from sousvit.faults.fault import (
    FAULTS,
    ROOM,
    chain_told,
    fault_behind,
    faults_told,
    folder_fault,
    memory_fault,
    path_fault,
    told_fault,
)

__all__ = [
    "FAULTS",
    "ROOM",
    "chain_told",
    "fault_behind",
    "faults_told",
    "folder_fault",
    "memory_fault",
    "path_fault",
    "told_fault",
]
