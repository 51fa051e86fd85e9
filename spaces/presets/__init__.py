"""Search spaces as YAML: which techniques, and which of their values, a search may combine."""
