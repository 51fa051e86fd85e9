"""What a budget prefers: gains that can be added, and what else than the answer could have been chosen."""
