"""Data: example cells that ship, and corpora."""
