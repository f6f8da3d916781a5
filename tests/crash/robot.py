"""A robot: a process that scans with a spool, whatever becomes of the server. Says what is on its disk.

python -m tests.crash.robot SERVER SPOOL FIRST LAST
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from streamdgp.frames import DepthFrame
from streamdgp_client import Client, RetryPolicy
from tests.server.harness import INTRINSICS, pose_around, sphere_depth


def main(server: str, spool: str, first: str, last: str) -> None:
    """Send frames of ``tests.server.harness.make_frame`` and wait until all that is kept is applied."""
    retry = RetryPolicy(initial_delay_s=0.05, max_delay_s=0.5)
    with Client(server, retry=retry) as client, client.stream("test", "robot", spool=Path(spool)) as stream:
        for number in range(int(first), int(last) + 1):
            pose = pose_around(0.15 * number)
            frame = DepthFrame(sphere_depth(pose), INTRINSICS, pose)
            stream.send(frame, source_id=f"frame-{number:06d}", source_crc32c=1000 + number)
            click.echo(f"spooled {number}")
        progress = stream.wait("applied")
        click.echo(f"applied {progress.applied}")


if __name__ == "__main__":
    main(*sys.argv[1:])
