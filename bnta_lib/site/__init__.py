"""A place of one's own, without labels: its crops, what adaption did there, and guards against harm."""
