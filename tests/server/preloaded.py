"""What every server loads before it does anything (see ``tests.server.forked``)."""

import os

# As the command sets it, before grpc is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import streamdgp_server.app
import streamdgp_server.cli  # noqa: F401
