#!/usr/bin/env python3
"""A second reader of thaw snapshots, written from docs/snapshot-format.md.

    snapshot_reader.py FILE...     one line per file: "ok" or "bad: why"
    snapshot_reader.py -c FILE...  the same for a chain: each file's parent
                                   follows it
    snapshot_reader.py -m OUT FILE...
                                   write guest memory of a chain, all regions
                                   in a row

Python's library, with python3-zstandard for compressed chunks and
python3-xxhash for the digest that names a parent. It checks what
the document says must be, and knows the state maps only as msgpack maps with a
version.
"""
import struct
import sys

import xxhash
import zstandard

MAGIC = b"\x89THAW\r\n\x1a"
CONFIG, MACHINE = 0x6172C18601BA7035, 0xC8EB8733D6685E13
VCPU, METADATA = 0xE295A6EB31B0D987, 0xCDA1A88AB06D1E2B
MEMORY = 0x7B285F46CAB2FB01
# devices of which there is one, with the key that asks for it
SINGLE = {0xFA023ED799617B5D: None, 0x76B1EFF1B811568C: None,
          0xF65B1EF0B5047F07: "vsock_cid", 0x5B0C2A97E41D8F63: "rng",
          0x3B9CD40A71E65F28: "acpi"}
BLOCK, NET = 0x3F8E61D2A95C7B04, 0xA47D20C5936EB81F
DEVICES = set(SINGLE) | {BLOCK, NET}
CHUNK, PAGE, LEAF_CHUNKS = 65536, 4096, 128


class Bad(Exception):
    pass


def need(condition, why):
    if not condition:
        raise Bad(why)


def _crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


TABLE = _crc_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def unpack(data, length):
    try:
        need(zstandard.frame_content_size(data) == length,
             "chunk: another content size")
        unpacker = zstandard.ZstdDecompressor().decompressobj()
        raw = unpacker.decompress(data)
        need(unpacker.eof and not unpacker.unused_data,
             "chunk: not one zstd frame")
        return raw
    except (zstandard.ZstdError, MemoryError):
        raise Bad("chunk: cannot be unpacked") from None


def is_text(field):
    text = field.rstrip(b"\0")
    return all(0x20 <= c <= 0x7E for c in text)


class Unpack:
    """One msgpack object that fills the bytes; bounded."""

    def __init__(self, data):
        self.data, self.pos, self.values = data, 0, 0

    def whole(self):
        value = self.value(0)
        need(self.pos == len(self.data), "msgpack: stray bytes")
        return value

    def take(self, n):
        need(n <= len(self.data) - self.pos, "msgpack: cut short")
        self.pos += n
        return self.data[self.pos - n:self.pos]

    def number(self, n, signed=False):
        return int.from_bytes(self.take(n), "big", signed=signed)

    def value(self, depth):
        self.values += 1
        need(self.values <= 65536, "msgpack: too many values")
        tag = self.number(1)
        if tag < 0x80:
            return tag
        if tag >= 0xE0:
            return tag - 256
        if tag < 0x90:
            return self.map(tag & 15, depth)
        if tag < 0xA0:
            return self.array(tag & 15, depth)
        if tag < 0xC0:
            return self.take(tag & 31).decode("latin-1")
        need(tag != 0xC1, "msgpack: 0xc1")
        if tag in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[tag]
        if tag in (0xC4, 0xC5, 0xC6):
            return bytes(self.take(self.number(1 << (tag - 0xC4))))
        if tag in (0xC7, 0xC8, 0xC9):
            return ("ext", self.take(self.number(1 << (tag - 0xC7)) + 1))
        if tag in (0xCA, 0xCB):
            return struct.unpack(">f" if tag == 0xCA else ">d",
                                 self.take(4 if tag == 0xCA else 8))[0]
        if 0xCC <= tag <= 0xCF:
            return self.number(1 << (tag - 0xCC))
        if 0xD0 <= tag <= 0xD3:
            return self.number(1 << (tag - 0xD0), True)
        if 0xD4 <= tag <= 0xD8:
            return ("ext", self.take((1 << (tag - 0xD4)) + 1))
        if 0xD9 <= tag <= 0xDB:
            return self.take(self.number(1 << (tag - 0xD9))).decode("latin-1")
        if tag in (0xDC, 0xDD):
            return self.array(self.number(2 if tag == 0xDC else 4), depth)
        return self.map(self.number(2 if tag == 0xDE else 4), depth)

    def array(self, n, depth):
        need(depth < 16 and n <= 65536, "msgpack: too deep or too many values")
        return [self.value(depth + 1) for _ in range(n)]

    def map(self, n, depth):
        need(depth < 16 and n <= 65536, "msgpack: too deep or too many values")
        pairs = []
        for _ in range(n):
            key = self.value(depth + 1)
            pairs.append((key, self.value(depth + 1)))
        return Map(pairs)


class Map:
    def __init__(self, pairs):
        self.pairs = pairs

    def check_state(self):
        keys = [k for k, _ in self.pairs]
        need(all(isinstance(k, str) for k in keys), "state: key")
        need(len(set(keys)) == len(keys), "state: key twice")
        version = self.get("v")
        need(isinstance(version, int) and version > 0, "state: v")
        return version

    def get(self, key):
        return next((v for k, v in self.pairs if k == key), None)


class Snapshot:
    def __init__(self, path, parent=None):
        with open(path, "rb") as f:
            self.data = f.read()
        self.parent = parent
        self.used = [(0, 4096)]
        self.shared = {}
        self.header()
        self.table()
        self.states()
        self.memory()
        self.leftovers()

    def bytes_at(self, offset, length, what):
        need(offset + length <= len(self.data), what + ": not inside the file")
        return self.data[offset:offset + length]

    def header(self):
        d = self.data
        need(len(d) >= 4096, "too short")
        need(d[:8] == MAGIC, "magic")
        need(crc32c(d[:4092]) == struct.unpack_from("<I", d, 4092)[0],
             "header: checksum mismatch")
        (major, _minor, min_reader, arch, page, flags, uuid, parent, digest,
         _created, writer, self.count, self.table_crc, self.table_at,
         length) = struct.unpack_from("<HHHHII16s16s16sQ32sIIQQ", d, 8)
        need(major == 1 and min_reader <= 1, "version %d" % major)
        need(arch in (1, 2) and page == PAGE, "arch or page size")
        need(flags & 2 and not flags & ~3, "flags")
        need(any(uuid), "uuid")
        self.uuid, self.diff, self.arch = uuid, bool(flags & 1), arch
        hint = d[136:1160]
        need(self.diff or not any(parent + digest + hint),
             "a parent without DIFF")
        need(any(parent) or not self.diff, "a diff without parent")
        need(hint[-1] == 0 and not any(hint[hint.index(0):]), "parent path")
        self.chains = min_reader >= 1
        need(self.chains or not self.diff, "a diff for readers of 1.0")
        if self.parent:
            need(self.diff and parent == self.parent.uuid,
                 "parent: another uuid")
            need(digest == self.parent.digest(), "parent: another content")
        need(is_text(writer), "writer")
        need(not any(d[1160:4092]), "reserved")
        need(1 <= self.count <= 256, "section count")
        need(length == len(d) and length % PAGE == 0, "file length")
        need(self.table_at % 8 == 0 and self.table_at >= 4096, "table offset")

    def digest(self):
        table = self.data[self.table_at:self.table_at + 64 * self.count]
        return xxhash.xxh3_128(self.data[:4096] + table).digest()

    def ancestor(self, n):
        """The n-th; None when the chain that is given ends before it."""
        s = self
        for _ in range(n):
            need(s.diff, "data in an ancestor of a full snapshot")
            s = s.parent
            if not s:
                return None
        return s

    def table(self):
        raw = self.bytes_at(self.table_at, 64 * self.count, "table")
        need(crc32c(raw) == self.table_crc, "section table: checksum mismatch")
        self.used.append((self.table_at, 64 * self.count))
        self.sections = {}
        for i in range(self.count):
            (tag, version, flags, codec, index, offset, stored, size, crc,
             name, reserved) = struct.unpack_from("<QHHHHQQQI16sI", raw, 64 * i)
            need(tag and version and not flags & ~1 and not reserved, "section")
            need(codec == 0, "codec: unsupported")
            need(is_text(name), "section name")
            need(offset % 8 == 0 and offset >= 4096 and stored, "section range")
            need(stored == size, "section lengths")
            content = self.bytes_at(offset, stored, "section")
            need(crc32c(content) == crc, "section: checksum mismatch")
            need((tag, index) not in self.sections, "section twice")
            known = {CONFIG, MACHINE, VCPU, METADATA, MEMORY} | DEVICES
            need(tag in known or not flags & 1, "unknown required section")
            self.sections[tag, index] = (version, content, offset)
            self.used.append((offset, stored))

    def states(self):
        for (tag, _index), (version, content, _at) in self.sections.items():
            if tag in {CONFIG, MACHINE, VCPU} | DEVICES:
                state = Unpack(content).whole()
                need(isinstance(state, Map), "state: not a map")
                need(state.check_state() == version, "state: two versions")
                need(version == 1 or (version in (2, 3) and tag == CONFIG) or (version == 2 and tag == BLOCK),
                     "state: version")
            elif tag == METADATA:
                need(isinstance(Unpack(content).whole(), Map), "metadata")
        need((CONFIG, 0) in self.sections, "no config")
        need((MACHINE, 0) in self.sections, "no machine")
        need((MEMORY, 0) in self.sections, "no memory section")
        self.config = Unpack(self.sections[CONFIG, 0][1]).whole()
        cpus = self.config.get("cpus") or 0
        need({i for t, i in self.sections if t == VCPU} == set(range(cpus)),
             "vcpu sections")
        need(not any(i for t, i in self.sections
                     if t in {CONFIG, MACHINE, MEMORY, METADATA}), "index")
        for tag, key in SINGLE.items():
            wanted = {0} if not key or self.config.get(key) else set()
            if not wanted or self.arch == 1:
                need({i for t, i in self.sections if t == tag} == wanted,
                     "section 0x%x" % tag)
        for tag, key in ((BLOCK, "disk"), (NET, "net")):
            parts = self.config.get(key) or []
            need({i for t, i in self.sections if t == tag} ==
                 {i for i, p in enumerate(parts) if p.get("id")[0]},
                 key + " sections")

    def memory(self):
        version, raw, _ = self.sections[MEMORY, 0]
        need(version == 1 and len(raw) >= 64, "memory section")
        (chunk, leaf, nregions, nroots, size, present, zero, self.data_at,
         reserved) = struct.unpack_from("<IIIIQQQQ16s", raw)
        need(chunk == CHUNK and leaf == LEAF_CHUNKS, "chunk size")
        need(1 <= nregions <= 8 and 1 <= nroots <= 131072, "counts")
        need(not any(reserved), "memory: reserved")
        need(len(raw) == 64 + 32 * nregions + 16 * nroots, "memory: length")
        need(self.data_at % PAGE == 0 and self.data_at <= len(self.data),
             "data offset")
        need(all(a + n <= self.data_at for a, n in self.used), "data offset")
        self.regions, leaves, end = [], 0, 0
        for i in range(nregions):
            gpa, length, first, count, res = struct.unpack_from(
                "<QQIIQ", raw, 64 + 32 * i)
            need(gpa % CHUNK == 0 and length % CHUNK == 0 and length, "region")
            need(gpa >= end and gpa + length < 1 << 64 and not res, "region")
            need(first == leaves and count == -(-length // (CHUNK * 128)),
                 "region: leaves")
            leaves, end = leaves + count, gpa + length
            self.regions.append((gpa, length, first, count))
        need(leaves == nroots and size == sum(r[1] for r in self.regions),
             "the regions do not add up")
        need(size == self.config.get("memory"), "config: memory")
        # None: the parent's
        need(not self.parent or self.regions == self.parent.regions,
             "parent: other regions")
        self.pages = dict(self.parent.pages) if self.parent else {}
        self.zeros, total, last = 0, 0, 0
        for gpa, length, first, count in self.regions:
            for i in range(count):
                root = struct.unpack_from(
                    "<QIHH", raw, 64 + 32 * nregions + 16 * (first + i))
                start = gpa + i * CHUNK * 128
                total += root[2]
                last = self.leaf(root, start, min(128, (gpa + length - start)
                                                  // CHUNK), last)
        zeros = self.zeros if self.diff else size // PAGE - total
        need(total == present and zero == zeros,
             "the page counts do not add up")

    def leaf(self, root, start, chunks, last):
        offset, crc, present, zero = root
        if offset == 0:
            need(root == (0, 0, 0, 0), "root entry")
            return last
        need(offset % PAGE == 0 and offset >= self.data_at and offset > last,
             "root entry")
        raw = self.bytes_at(offset, PAGE, "leaf")
        need(crc32c(raw) == crc, "leaf: checksum mismatch")
        self.used.append((offset, PAGE))
        need(not any(raw[32 * chunks:]), "chunks behind the region")
        counts = [0, 0]
        for n in range(chunks):
            p, z = self.chunk(raw, n, start + n * CHUNK)
            counts[0] += p
            counts[1] += z
        need(counts == [present, zero], "leaf: counts")
        self.zeros += zero
        return offset

    def chunk(self, leaf, n, gpa):
        (offset, stored, raw, crc, present, zero, file, codec, reserved,
         stored_crc) = struct.unpack_from("<QIIIHHHBBI", leaf, 32 * n)
        need(not reserved, "chunk: reserved")
        need(present & zero == 0, "chunk: masks")
        need(self.diff or present | zero == 0xFFFF, "chunk: masks")
        for page in range(16):
            if zero >> page & 1:
                self.pages.pop(gpa + page * PAGE, None)
        zeros = bin(zero).count("1")
        if not present:
            need(not (offset or stored or raw or crc or file or codec or
                      stored_crc),
                 "chunk: data of no page")
            return 0, zeros
        pages = [b for b in range(16) if present >> b & 1]
        need(codec in (0, 1) and (file == 0 or self.diff), "chunk: codec, file")
        need(raw == PAGE * len(pages), "chunk: length")
        need(stored == raw if codec == 0 else 0 < stored < raw,
             "chunk: length")
        need(codec == 0 or self.chains, "zstd for readers of 1.0")
        need(codec or offset % PAGE == 0, "chunk: offset")
        owner = self.ancestor(file)
        need(file <= 64, "chunk: file")
        if not owner:
            return len(pages), zeros
        need(offset >= owner.data_at, "chunk: offset")
        data = owner.bytes_at(offset, stored, "chunk")
        if file == 0:
            if self.shared.get(offset) != stored:
                self.used.append((offset, stored))
            self.shared[offset] = stored
        need(stored_crc == (crc32c(data) if codec else 0),
             "chunk: stored bytes: checksum mismatch")
        if codec:
            data = unpack(data, raw)
        need(len(data) == raw and crc32c(data) == crc,
             "chunk (guest 0x%x): checksum mismatch" % gpa)
        for i, page in enumerate(pages):
            self.pages[gpa + page * PAGE] = data[i * PAGE:(i + 1) * PAGE]
        return len(pages), zeros

    def leftovers(self):
        end = 0
        for offset, length in sorted(self.used):
            need(offset >= end, "ranges overlap")
            need(not any(self.data[end:offset]), "garbage between the parts")
            end = offset + length
        need(not any(self.data[end:]), "garbage between the parts")

    def write_memory(self, path):
        with open(path, "wb") as f:
            for gpa, length, _first, _count in self.regions:
                for page in range(gpa, gpa + length, PAGE):
                    f.write(self.pages.get(page, bytes(PAGE)))


def open_chain(paths):
    s = None
    for path in reversed(paths):
        s = Snapshot(path, s)
    return s


def verdict(paths):
    try:
        open_chain(paths)
    except Bad as why:
        print("bad: %s" % why)
        return 1
    print("ok")
    return 0


def main(args):
    if args[:1] == ["-m"]:
        s = open_chain(args[2:])
        oldest = s
        while oldest.parent:
            oldest = oldest.parent
        need(not oldest.diff, "the full snapshot of the chain is not given")
        s.write_memory(args[1])
        return 0
    if args[:1] == ["-c"]:
        return verdict(args[1:])
    return max([verdict([path]) for path in args], default=0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
