"""Light client of a streamdgp server: stream frames in, query the surface out.

    from streamdgp_client import Client

    with Client("127.0.0.1:50051") as client:
        with client.stream("kitchen", "robot-1") as stream:
            stream.send(frame)                    # streamdgp.frames.DepthFrame, PointFrame or RangeImageFrame
        mesh = client.query_mesh("kitchen")       # vertices, normals, triangles, revision

Imports none of torch, open3d, scipy or zarr.
"""

from streamdgp_client._async_client import AsyncClient
from streamdgp_client._client import Client, StreamHandle
from streamdgp_client._mesh import Mesh
from streamdgp_client._retry import RetryPolicy
from streamdgp_client._stream import FrameStream
from streamdgp_client._types import (
    ConnectionChange,
    FrameRecord,
    IngestStatus,
    Progress,
    Rejection,
    RevisionInfo,
    SceneInfo,
    SceneStatistics,
)
from streamdgp_client._upload import UploadReport, upload

__all__ = [
    "AsyncClient",
    "Client",
    "ConnectionChange",
    "FrameRecord",
    "FrameStream",
    "IngestStatus",
    "Mesh",
    "Progress",
    "Rejection",
    "RetryPolicy",
    "RevisionInfo",
    "SceneInfo",
    "SceneStatistics",
    "StreamHandle",
    "UploadReport",
    "upload",
]
