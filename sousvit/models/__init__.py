"""The base model: loading, preprocessing, detectors."""
