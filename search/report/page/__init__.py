"""The report that people send around: what it shows (content.py), and the forms it is written in."""
