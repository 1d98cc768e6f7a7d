# SPDX-License-Identifier: MIT
"""Model folders for tests: published files read, changed and written, and moectl run on
them. Scripts that import this have MOECTL and GOLDEN_DIR as their arguments."""
import json
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

MOECTL, GOLDEN = sys.argv[1], pathlib.Path(sys.argv[2]) / 'families'
FORMATS = {'F32': 'f', 'I32': 'i'}


def moectl(*arguments):
    run = subprocess.run([MOECTL, *map(str, arguments)], capture_output=True, text=True)
    return run.returncode, run.stdout, run.stderr


def no_device():
    return moectl('devices')[0] == 3


def read_file(path):
    """Tensors of a safetensors file: name to [dtype, shape, bytes]."""
    data = pathlib.Path(path).read_bytes()
    length = struct.unpack('<Q', data[:8])[0]
    header = json.loads(data[8:8 + length])
    header.pop('__metadata__', None)
    data = data[8 + length:]
    return {name: [t['dtype'], t['shape'], bytearray(data[slice(*t['data_offsets'])])]
            for name, t in header.items()}


def write_file(path, tensors):
    header, data = {}, b''
    for name, (dtype, shape, values) in tensors.items():
        header[name] = {'dtype': dtype, 'shape': shape,
                        'data_offsets': [len(data), len(data) + len(values)]}
        data += bytes(values)
    text = json.dumps(header).encode()
    pathlib.Path(path).write_bytes(struct.pack('<Q', len(text)) + text + data)


def numbers(tensor):
    """Rows of a tensor's values: BF16, F32 or I32."""
    kind, shape, data = tensor
    if kind == 'BF16':
        flat = [struct.unpack('<f', b'\0\0' + data[i:i + 2])[0] for i in range(0, len(data), 2)]
    else:
        flat = struct.unpack(f'<{len(data) // 4}{"i" if kind == "I32" else "f"}', data)
    width = shape[-1]
    return [list(flat[i:i + width]) for i in range(0, len(flat), width)]


def tensor(kind, rows):
    """Of F32 or I32."""
    flat = [x for row in rows for x in row]
    data = struct.pack(f'<{len(flat)}{"i" if kind == "I32" else "f"}', *flat)
    return [kind, [len(rows), len(rows[0])], bytearray(data)]


def put(tensor, index, value):
    """Sets one element."""
    struct.pack_into('<' + FORMATS[tensor[0]], tensor[2], 4 * index, value)


class ModelCase(unittest.TestCase):
    def setUp(self):
        self.work = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.work)

    def copy(self, name):
        return pathlib.Path(shutil.copytree(GOLDEN / name, self.work / name))

    def expect(self, code, pattern, *arguments):
        got, out, err = moectl(*arguments)
        self.assertEqual(got, code, out + err)
        if pattern:
            self.assertRegex(out + err, pattern)
        return out, err

    def refused(self, pattern, *arguments):
        """Bad input: exit code 2 and one message; of an experiment, with its place."""
        _, err = self.expect(2, pattern, *arguments)
        self.assertEqual(len(re.findall(r'^(?:moectl|--set \S+|\S+:\d+:\d+): ', err, re.M)), 1, err)
