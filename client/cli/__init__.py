"""The command ``streamdgp-client``."""

from streamdgp_client.cli._main import main

__all__ = ["main"]
