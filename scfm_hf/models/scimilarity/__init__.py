"""SCimilarity: cells as points on a sphere, close where they are alike; search and annotation by neighbours."""
