"""Bit layouts of page-table entries, the shape of tables, and the words that both twins share."""
