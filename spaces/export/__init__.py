"""From a PyTorch model to the file that a runtime opens."""
