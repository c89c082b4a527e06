"""C-STORE command sets as bytes (PS3.7 6.3, 9.3.1): Implicit VR Little Endian, a dozen short elements."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from node.pdus import encode_p_data

_C_STORE_RQ = 0x0001
_C_STORE_RSP = 0x8001
#: PS3.7 9.3.1: Command Data Set Type when there is none.
_NO_DATA_SET = 0x0101
#: And when there is one: any other value.
_DATA_SET = 0x0001
#: PS3.7 9.3.1: Priority.
_MEDIUM = 0x0000

_COMMAND_FIELD = 0x0100
_ELEMENT = struct.Struct("<HHI")
_US = struct.Struct("<H")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreCommand:
    """A C-STORE-RQ (PS3.7 Table 9.3-1)."""

    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    has_data_set: bool


def read_store_command(encoded: bytes) -> StoreCommand | None:
    """The C-STORE request in a command set, or None when it is another command.

    Raises
    ------
    ValueError
        For bytes that are no command set.
    """
    elements = dict(_elements(encoded))
    try:
        (command_field,) = _US.unpack(elements[_COMMAND_FIELD])
        if command_field != _C_STORE_RQ:
            return None
        (message_id,) = _US.unpack(elements[0x0110])
        (data_set_type,) = _US.unpack(elements[0x0800])
        return StoreCommand(
            message_id=message_id,
            sop_class_uid=_uid(elements[0x0002]),
            sop_instance_uid=_uid(elements[0x1000]),
            has_data_set=data_set_type != _NO_DATA_SET,
        )
    except KeyError as error:
        raise ValueError(f"(0000,{error.args[0]:04X}) is missing") from error
    except struct.error as error:
        raise ValueError("a number of the command set has a wrong length") from error


def encode_store_response(context_id: int, request: StoreCommand, status: int) -> bytes:
    """The P-DATA-TF PDU of a C-STORE-RSP (PS3.7 Table 9.3-2, PS3.8 Table 9-22)."""
    command = _encode_command(
        _encode(0x0002, _pad(request.sop_class_uid)),
        _encode(_COMMAND_FIELD, _US.pack(_C_STORE_RSP)),
        _encode(0x0120, _US.pack(request.message_id)),
        _encode(0x0800, _US.pack(_NO_DATA_SET)),
        _encode(0x0900, _US.pack(status)),
        _encode(0x1000, _pad(request.sop_instance_uid)),
    )
    return encode_p_data(context_id, command, 0, is_command=True, is_last=True)


def encode_store_request(message_id: int, sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """The command set of a C-STORE-RQ with a data set, of medium priority (PS3.7 Table 9.3-1)."""
    return _encode_command(
        _encode(0x0002, _pad(sop_class_uid)),
        _encode(_COMMAND_FIELD, _US.pack(_C_STORE_RQ)),
        _encode(0x0110, _US.pack(message_id)),
        _encode(0x0700, _US.pack(_MEDIUM)),
        _encode(0x0800, _US.pack(_DATA_SET)),
        _encode(0x1000, _pad(sop_instance_uid)),
    )


def read_store_response(encoded: bytes) -> tuple[int, int] | None:
    """Message ID and status of the C-STORE response in a command set, or None when it is another command.

    Raises
    ------
    ValueError
        For bytes that are no command set.
    """
    elements = dict(_elements(encoded))
    try:
        (command_field,) = _US.unpack(elements[_COMMAND_FIELD])
        if command_field != _C_STORE_RSP:
            return None
        (message_id,) = _US.unpack(elements[0x0120])
        (status,) = _US.unpack(elements[0x0900])
    except KeyError as error:
        raise ValueError(f"(0000,{error.args[0]:04X}) is missing") from error
    except struct.error as error:
        raise ValueError("a number of the command set has a wrong length") from error
    return message_id, status


def _encode_command(*elements: bytes) -> bytes:
    body = b"".join(elements)
    return _encode(0x0000, struct.pack("<I", len(body))) + body


def _elements(encoded: bytes) -> list[tuple[int, bytes]]:
    elements = []
    position = 0
    while position < len(encoded):
        if position + 8 > len(encoded):
            raise ValueError("the command set ends in an element")
        group, number, length = _ELEMENT.unpack_from(encoded, position)
        position += 8
        if group != 0x0000 or position + length > len(encoded):
            raise ValueError(f"({group:04X},{number:04X}) does not fit the command set")
        elements.append((number, encoded[position : position + length]))
        position += length
    return elements


def _uid(value: bytes) -> str:
    # Compared with the data set's and echoed, never used as a name.
    return value.decode("ascii", "replace").rstrip(" \x00")


def _encode(number: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0x0000, number, len(value)) + value


def _pad(uid: str) -> bytes:
    value = uid.encode("ascii", "replace")
    return value + b"\x00" * (len(value) % 2)
