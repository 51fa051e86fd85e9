"""Text that a user, or a stranger, wrote: files, YAML, amounts and paths, read within bounds."""
