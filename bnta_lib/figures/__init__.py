"""Pictures of the suite. Plots only: every number that they show is measured elsewhere."""
