"""As much of an NBD client as it takes to time the first bytes: connect, choose the default export, read."""

import socket
import struct
import time

_OPTION = 0x49484156454F5054
_REPLY = 0x3E889045565A9
_GO = 7
_ACK = 1
_REQUEST = 0x25609513
_SIMPLE = 0x67446698


def _receive(s, count):
    data = bytearray()
    while len(data) < count:
        piece = s.recv(count - len(data))
        if not piece:
            raise ConnectionError("the server hung up")
        data += piece
    return bytes(data)


def read_first(path, count, patience_s=30):
    """Reads `count` bytes from offset 0 of the server on Unix socket `path`, waiting until it is there."""
    deadline = time.monotonic() + patience_s
    s = socket.socket(socket.AF_UNIX)
    while True:
        try:
            s.connect(str(path))
            break
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)
    with s:
        s.settimeout(patience_s)
        if _receive(s, 18)[:8] != b"NBDMAGIC":
            raise ConnectionError("this is no NBD server")
        s.sendall(struct.pack(">I", 3))
        s.sendall(struct.pack(">QIIIH", _OPTION, _GO, 6, 0, 0))
        while True:
            magic, _option, kind, length = struct.unpack(">QIII", _receive(s, 20))
            _receive(s, length)
            if magic != _REPLY or kind & 0x80000000:
                raise ConnectionError(f"the server refused the export: {kind:#x}")
            if kind == _ACK:
                break
        s.sendall(struct.pack(">IHHQQI", _REQUEST, 0, 0, 1, 0, count))
        magic, error, _cookie = struct.unpack(">IIQ", _receive(s, 16))
        if magic != _SIMPLE or error:
            raise ConnectionError(f"reading failed: {error}")
        data = _receive(s, count)
        s.sendall(struct.pack(">IHHQQI", _REQUEST, 0, 2, 2, 0, 0))
    return data
