"""What stands in TensorBoard's files."""

import struct

from tensorboardX.proto.event_pb2 import Event


def events(folder):
    """The records of the files in a folder: length, its checksum, an event, its checksum."""
    for path in sorted(folder.glob("events.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def values(folder, tag):
    """Steps and values of one curve."""
    return [(e.step, v.simple_value) for e in events(folder) for v in e.summary.value if v.tag == tag]
