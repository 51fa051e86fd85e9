"""Calibration: statistics of a few images, and the ranges, scores and repairs that follow from them."""
