"""Poisson-disk sampling: anchors on the evidence, samples of the parameter domain."""
