"""Reports: what a user sees of a run, in the terminal and as HTML."""
