"""What a user sees of a run: the terminal view and the HTML report."""
