"""What the notebooks need: measurements, the store, tables, verdicts, and the report."""
