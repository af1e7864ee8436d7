"""CellPLM: cells as tokens, sets of cells as sequences."""
