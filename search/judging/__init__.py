"""The judging of one trial: gates, recovery, export, measurement."""
