"""What client and server share of the wire contract: conversions between library and ``streamdgp.v1``.

Light: numpy, protobuf, grpc, numcodecs and pillow only; nothing here does I/O.
"""

from streamdgp.wire._arrays import MAX_ARRAY_BYTES, EncodingName, decode_array, encode_array
from streamdgp.wire._configs import config_from_proto, config_to_proto, dict_to_struct, struct_to_dict
from streamdgp.wire._errors import (
    abort,
    abort_arguments,
    error_from_rejection,
    error_from_rpc,
    is_retryable,
    rejection_from_error,
)
from streamdgp.wire._frames import frame_from_proto, frame_to_proto, unreadable_frame
from streamdgp.wire._names import (
    check_name,
    check_tag_name,
    parse_scene_name,
    parse_tag_name,
    scene_resource_name,
    tag_resource_name,
)
from streamdgp.wire._parts import (
    BATCH_BYTES,
    MAX_FRAME_BYTES,
    MAX_MESSAGE_BYTES,
    PART_BYTES,
    PartAssembler,
    pack_requests,
)
from streamdgp.wire._tiles import Tile, TileLike, tile_from_proto, tile_to_proto

__all__ = [
    "BATCH_BYTES",
    "MAX_ARRAY_BYTES",
    "MAX_FRAME_BYTES",
    "MAX_MESSAGE_BYTES",
    "PART_BYTES",
    "EncodingName",
    "PartAssembler",
    "Tile",
    "TileLike",
    "abort",
    "abort_arguments",
    "check_name",
    "check_tag_name",
    "config_from_proto",
    "config_to_proto",
    "decode_array",
    "dict_to_struct",
    "encode_array",
    "error_from_rejection",
    "error_from_rpc",
    "frame_from_proto",
    "frame_to_proto",
    "is_retryable",
    "pack_requests",
    "parse_scene_name",
    "parse_tag_name",
    "rejection_from_error",
    "scene_resource_name",
    "struct_to_dict",
    "tag_resource_name",
    "tile_from_proto",
    "tile_to_proto",
    "unreadable_frame",
]
