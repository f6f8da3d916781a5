"""The experiments of the method's paper as ours; their document is docs/experiments.md."""
