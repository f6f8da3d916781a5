"""Consistency: what overlapping charts predict for each other, and the sweeps that make them agree."""
