"""Scene settings to and from their message, as the plain dictionaries of ``SceneConfig.to_dict``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import json_format, struct_pb2

from streamdgp.errors import InvalidConfigError
from streamdgp.v1 import scene_service_pb2

__all__ = ["config_from_proto", "config_to_proto", "dict_to_struct", "struct_to_dict"]

_OWN_FIELDS: Final = ("anchor_radius_m", "evidence_voxel_m", "resolution_m", "seed")
_REGIMES: Final = {
    "lazy": scene_service_pb2.FITTING_REGIME_LAZY,
    "active": scene_service_pb2.FITTING_REGIME_ACTIVE,
    "paper": scene_service_pb2.FITTING_REGIME_PAPER,
}
_REGIME_NAMES: Final = {int(number): name for name, number in _REGIMES.items()}


def config_to_proto(values: Mapping[str, Any]) -> scene_service_pb2.SceneConfig:
    """Return the message of settings by their library names; None means automatic.

    Raises
    ------
    InvalidConfigError
        An unknown regime, or a value that JSON cannot hold.
    """
    message = scene_service_pb2.SceneConfig()
    advanced = {}
    for name, value in values.items():
        if name == "regime":
            if value not in _REGIMES:
                raise InvalidConfigError(f"regime one of {sorted(_REGIMES)}", repr(value), "Choose one.")
            message.regime = _REGIMES[value]
        elif name not in _OWN_FIELDS:
            advanced[name] = value
        elif value is not None:
            try:
                setattr(message, name, value)
            except (TypeError, ValueError) as error:
                raise InvalidConfigError(
                    f"a number for {name}", repr(value), "Change the setting."
                ) from error
    if advanced:
        message.advanced_settings.CopyFrom(dict_to_struct(advanced))
    return message


def config_from_proto(message: scene_service_pb2.SceneConfig) -> dict[str, Any]:
    """Return the settings that the message sets, as ``SceneConfig.from_dict`` takes them.

    Raises
    ------
    InvalidConfigError
        An unknown regime number, or an advanced setting that has a field of its own.
    """
    values = {name: getattr(message, name) for name in _OWN_FIELDS if message.HasField(name)}
    if message.regime != scene_service_pb2.FITTING_REGIME_UNSPECIFIED:
        if message.regime not in _REGIME_NAMES:
            raise InvalidConfigError(f"regime one of {_REGIME_NAMES}", str(message.regime), "Choose one.")
        values["regime"] = _REGIME_NAMES[message.regime]
    advanced = struct_to_dict(message.advanced_settings)
    doubled = sorted(set(advanced) & {*_OWN_FIELDS, "regime"})
    if doubled:
        raise InvalidConfigError(
            "advanced_settings without fields of their own", str(doubled), "Use the fields."
        )
    return {**values, **advanced}


def dict_to_struct(values: Mapping[str, Any]) -> struct_pb2.Struct:
    """Return a JSON-able dictionary as a Struct.

    Raises
    ------
    InvalidConfigError
        A value that JSON cannot hold.
    """
    struct = struct_pb2.Struct()
    try:
        json_format.ParseDict(dict(values), struct)
    except (json_format.ParseError, TypeError, ValueError) as error:
        raise InvalidConfigError("settings of numbers, text, lists and dictionaries", str(error)) from error
    return struct


def struct_to_dict(struct: struct_pb2.Struct) -> dict[str, Any]:
    """Return a Struct as a dictionary; whole numbers become int (a Struct knows only double)."""
    values: dict[str, Any] = json_format.MessageToDict(struct)
    return {name: _whole(value) for name, value in values.items()}


def _whole(value: Any) -> Any:  # noqa: ANN401  (JSON values)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _whole(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return value
