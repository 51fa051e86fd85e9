"""Structured pruning, sparsity and low-rank factorisation."""
