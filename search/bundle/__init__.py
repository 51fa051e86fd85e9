"""Bundles: the folder that a deploy engineer gets; :mod:`.bundle` says what lies in it."""
