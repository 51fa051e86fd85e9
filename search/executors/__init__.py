"""Where trials run: local (one worker process) and simulated (for tests); contract in executor.py."""
