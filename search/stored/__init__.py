"""What stays of a run on disk: checksums that show damage, and which code a run folder may bring along."""
