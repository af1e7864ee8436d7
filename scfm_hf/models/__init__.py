"""The models: base classes, the registry of families, and one folder a family."""
