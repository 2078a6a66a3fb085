#!/usr/bin/python3
"""Stock Debian kernels for tests.

    tests/vmhost/kernels [--update] [NAME ...]

Prints one line for each kernel: NAME VMLINUZ VMLINUX MODULES, the last being
the directory that insmod's files are below (lib/modules/VERSION/kernel). With
no NAME, all of them. The packages come from Debian by apt-get download and are
unpacked below the cache directory, nothing is installed; what is there already
is used as it is unless --update asks for newer versions.

The cache directory: $THAW_TEST_CACHE, else $XDG_CACHE_HOME/thaw-tests, else
~/.cache/thaw-tests.
"""

import contextlib
import fcntl
import glob
import lzma
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib

# Name, metapackage whose dependency is the newest, pattern of what fits.
KERNELS = {
    "6.1-cloud": ("linux-image-cloud-amd64", r"linux-image-6\.1\.[0-9].*-cloud-amd64"),
    "6.1": ("linux-image-amd64", r"linux-image-6\.1\.[0-9][0-9.-]*-amd64"),
    "6.12-cloud": ("linux-image-6.12-cloud-amd64", r"linux-image-6\.12\.[0-9].*-cloud-amd64"),
}

# Drivers no virtual machine has: four fifths of the generic kernel.
LEFT_OUT = ["gpu", "media", "staging", "infiniband", "iio", "usb", "scsi", "hwmon", "input", "isdn", "mtd", "md", "leds"]
LEFT_OUT += ["net/wireless", "net/ethernet", "net/can", "net/dsa", "net/phy", "mfd", "regulator", "platform", "rtc", "i2c"]


class Missing(Exception):
    """Something cannot be had; the text says what to do."""


def cache_dir():
    d = os.environ.get("THAW_TEST_CACHE")
    if not d:
        d = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "thaw-tests")
    os.makedirs(d, exist_ok=True)
    return os.path.abspath(d)


@contextlib.contextmanager
def locked(name):
    """One at a time among all processes of this cache."""
    with open(os.path.join(cache_dir(), name + ".lock"), "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def apt(*args, cwd=None):
    return subprocess.run(args, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def by_version(name):
    return [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", name)]


def newest_package(name):
    meta, pattern = KERNELS[name]
    for line in apt("apt-cache", "depends", meta).stdout.splitlines():
        word = line.split()[-1]
        if re.fullmatch(pattern, word):
            return word
    fit = [p for p in apt("apt-cache", "pkgnames", "linux-image-").stdout.split() if re.fullmatch(pattern, p)]
    return max(fit, key=by_version) if fit else None


def find_package(name):
    package = newest_package(name)
    if not package and os.getuid() == 0:
        apt("apt-get", "-q", "update")
        package = newest_package(name)
    if not package:
        raise Missing("no package for kernel %s: apt-get update (as root) may help" % name)
    return package


def unpack_payload(data):
    """The ELF file inside a compressed payload of a bzImage."""
    if data.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor().decompress(data)
    if data.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(31).decompress(data)
    tools = {b"\x28\xb5\x2f\xfd": "zstd", b"\x02\x21\x4c\x18": "lz4"}
    tool = tools.get(data[:4])
    if not tool:
        raise Missing("a kernel compressed in an unknown way: %s" % data[:4].hex())
    # The last four bytes are the size of the result, which is not the tool's.
    return subprocess.run([tool, "-dc"], input=data[:-4], stdout=subprocess.PIPE, check=True).stdout


def extract_vmlinux(vmlinuz, vmlinux):
    """Take the ELF kernel out of a bzImage (Documentation/x86/boot.rst)."""
    with open(vmlinuz, "rb") as f:
        image = f.read()
    if image[0x202:0x206] != b"HdrS" or struct.unpack_from("<H", image, 0x206)[0] < 0x208:
        raise Missing("%s is no bzImage of protocol 2.08 or later" % vmlinuz)
    setup = ((image[0x1F1] or 4) + 1) * 512
    offset, length = struct.unpack_from("<II", image, 0x248)
    elf = unpack_payload(image[setup + offset : setup + offset + length])
    if elf[:4] != b"\x7fELF":
        raise Missing("%s holds no ELF kernel" % vmlinuz)
    with open(vmlinux, "wb") as f:
        f.write(elf)


def fetch(name, package):
    """Download and unpack a package into kernels/PACKAGE."""
    top = os.path.join(cache_dir(), "kernels")
    final = os.path.join(top, package)
    if os.path.isdir(final):
        return
    os.makedirs(top, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=top, prefix=".new-") as tmp:
        r = apt("apt-get", "download", package, cwd=tmp)
        deb = glob.glob(os.path.join(tmp, "*.deb"))
        if r.returncode or not deb:
            raise Missing("apt-get download %s: %s" % (package, (r.stderr or r.stdout).strip()[-300:]))
        tree = os.path.join(tmp, "tree")
        os.mkdir(tree)
        left_out = ["--exclude=*/kernel/drivers/%s/*" % d for d in LEFT_OUT] + ["--exclude=*/kernel/sound/*"]
        unpack = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb[0]], stdout=subprocess.PIPE)
        subprocess.run(["tar", "x", "-C", tree, "--no-same-owner"] + left_out, stdin=unpack.stdout, check=True)
        unpack.stdout.close()
        if unpack.wait():
            raise Missing("dpkg-deb cannot unpack %s" % package)
        vmlinuz = glob.glob(os.path.join(tree, "boot", "vmlinuz-*"))[0]
        os.rename(vmlinuz, os.path.join(tree, "vmlinuz"))
        extract_vmlinux(os.path.join(tree, "vmlinuz"), os.path.join(tree, "vmlinux"))
        os.chmod(tree, 0o755)
        os.rename(tree, final)


class Kernel:
    """Paths of one unpacked kernel: vmlinuz, vmlinux, modules."""

    def __init__(self, name, directory):
        self.name = name
        self.package = os.path.basename(directory)
        self.vmlinuz = os.path.join(directory, "vmlinuz")
        self.vmlinux = os.path.join(directory, "vmlinux")
        self.modules = glob.glob(os.path.join(directory, "lib", "modules", "*", "kernel"))[0]

    def _files(self):
        """Module name -> path."""
        if not hasattr(self, "_by_name"):
            self._by_name = {}
            for d, _, files in os.walk(self.modules):
                for f in files:
                    if f.endswith((".ko", ".ko.xz")):
                        self._by_name[f.split(".ko")[0].replace("-", "_")] = os.path.join(d, f)
        return self._by_name

    def load_order(self, names):
        """[(name, bytes of the .ko)] of these modules and all they need, in the
        order for insmod. A name that is no module here is taken as built in."""
        out, seen = [], set()

        def add(name):
            name = name.replace("-", "_")
            path = self._files().get(name)
            if name in seen or not path:
                return
            seen.add(name)
            with open(path, "rb") as f:
                data = f.read()
            if path.endswith(".xz"):
                data = lzma.decompress(data)
            needs = re.search(rb"\0depends=([^\0]*)\0", data)
            for other in needs[1].decode().split(",") if needs else ():
                if other:
                    add(other)
            out.append((name, data))

        for name in names:
            add(name)
        return out


def get(name, update=False):
    """The Kernel of this name, fetched when it is not there yet."""
    if name not in KERNELS:
        raise Missing("no kernel %s: there are %s" % (name, ", ".join(KERNELS)))
    with locked("kernels"):
        link = os.path.join(cache_dir(), "kernels", "current-" + name)
        if update or not os.path.isdir(link):
            package = find_package(name)
            fetch(name, package)
            if os.path.islink(link):
                os.unlink(link)
            os.symlink(package, link)
        return Kernel(name, os.path.realpath(link))


def remove_old():
    """Unpacked kernels that no name stands for any more."""
    top = os.path.join(cache_dir(), "kernels")
    with locked("kernels"):
        used = {os.path.realpath(x) for x in glob.glob(os.path.join(top, "current-*"))}
        for d in glob.glob(os.path.join(top, "linux-image-*")):
            if d not in used:
                shutil.rmtree(d, ignore_errors=True)


def main(args):
    update = "--update" in args
    names = [a for a in args if a != "--update"]
    if any(a.startswith("-") for a in names):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    try:
        for name in names or KERNELS:
            k = get(name, update)
            print(name, k.vmlinuz, k.vmlinux, k.modules, flush=True)
        if update:
            remove_old()
    except (Missing, OSError, subprocess.CalledProcessError) as e:
        print("kernels: %s" % e, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
