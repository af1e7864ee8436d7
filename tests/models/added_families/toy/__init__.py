"""A family that is added by a folder alone: the mean of gene vectors from a table, and a linear layer."""
