"""Training: the loop, its plan, optimiser and teacher."""
