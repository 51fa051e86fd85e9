"""How much recovery training a trial gets."""
