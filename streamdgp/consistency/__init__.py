"""Consistency: overlaps from shared evidence and the sweeps that make charts agree there."""
