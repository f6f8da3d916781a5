"""The command ``streamdgp``: reconstruct from files, simulate scans, evaluate meshes."""
