"""Guests with Debian's Python, made by "thaw image build" from a few packages."""

import glob
import os
import shutil
import subprocess

APPLETS = "sh cat date dd head od uname sleep wc env mkdir ls test echo rm"
# What "import random" of Debian's Python needs, and no more.
PACKAGES = ["python3.11-minimal", "libpython3.11-minimal", "libc6", "zlib1g", "libexpat1"]


def busybox_root(d, busybox):
    """A root directory with busybox in it."""
    os.makedirs(d + "/bin", exist_ok=True)
    os.makedirs(d + "/etc", exist_ok=True)
    shutil.copy(busybox, d + "/bin/busybox")
    for a in APPLETS.split():
        os.link(d + "/bin/busybox", d + "/bin/" + a)
    with open(d + "/etc/hostname", "w") as f:
        f.write("template\n")


def python_packages(cache):
    """The packages, fetched once."""
    d = os.path.join(cache, "guest-packages")
    os.makedirs(d, exist_ok=True)
    if len(glob.glob(d + "/*.deb")) < len(PACKAGES):
        subprocess.run(["apt-get", "-q", "download"] + PACKAGES, cwd=d, check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
    return glob.glob(d + "/*.deb")


def python_root(d, cache, busybox):
    for deb in python_packages(cache):
        subprocess.run(["dpkg-deb", "-x", deb, d], check=True)
    for junk in glob.glob(d + "/usr/share/*") + glob.glob(d + "/usr/lib/*/gconv"):
        shutil.rmtree(junk)
    os.symlink("python3.11", d + "/usr/bin/python3")
    os.makedirs(d + "/usr/sbin", exist_ok=True)
    busybox_root(d, busybox)


def build(thaw, root, out, kernel, handler):
    subprocess.run([thaw, "image", "build", root, "-o", out, "--initrd", "--modules", kernel.modules,
                    "--handler", handler], check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
