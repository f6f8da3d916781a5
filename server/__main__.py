"""``python -m streamdgp_server`` is ``streamdgp-server``."""

from streamdgp_server.cli import main

main()
