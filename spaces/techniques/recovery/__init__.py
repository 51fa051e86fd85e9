"""Recovery of what compression lost: distillation."""
