"""A base trained once together with its parts."""
