"""What models are for. Contract: task.py; then classification.py, detection.py."""
