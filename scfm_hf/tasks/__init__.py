"""One file a verb: what a biologist does with a model."""
