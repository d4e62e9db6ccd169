"""Reports: terminal tables, figures, one-file HTML. Computes nothing."""
