"""PyTorch modules of our own, and their mathematics in pure tensor functions."""
