"""The embedded benchmark: people rendered from a parametric body."""
