"""Makes the Python stubs of the wire contract: ``generate.py TARGET`` writes TARGET/streamdgp/v1/*_pb2*.

Runs in the generator's own environment (protos/requirements.txt); ``make proto`` calls it for the
checkout, a test for a temporary folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROTO_ROOT = Path(__file__).resolve().parent


def generate(target: Path) -> None:
    """Write messages, services and type stubs of every proto file below ``target``."""
    protos = sorted(str(path.relative_to(PROTO_ROOT)) for path in PROTO_ROOT.rglob("*.proto"))
    plugins = Path(sys.executable).parent  # protoc looks for protoc-gen-mypy on PATH
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTO_ROOT}"),
            *(f"--python_out={target}", f"--grpc_python_out={target}"),
            *(f"--mypy_out=quiet:{target}", f"--mypy_grpc_out=quiet:{target}"),
            *protos,
        ],
        check=True,
        env={**os.environ, "PATH": f"{plugins}{os.pathsep}{os.environ.get('PATH', '')}"},
    )


if __name__ == "__main__":
    generate(Path(sys.argv[1]).resolve())
