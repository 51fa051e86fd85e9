"""Tasks: what predictions are judged by. Image classification lives in classification.py."""
