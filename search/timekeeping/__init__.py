"""Time of a search: what is left of its limit, what trials and the answer will take of it, and what still fits."""
