"""One trial, judged: gates, recovery, export, measurement."""
