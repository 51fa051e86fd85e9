"""Students: compact architectures trained from the base."""
