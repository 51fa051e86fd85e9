"""Statistics of a few images, and what is set or repaired by them."""
