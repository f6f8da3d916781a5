"""Measurements of the product on real and virtual scans: ``python -m benchmarks`` runs them all."""
