#!/bin/bash
# Installs what is missing on a Debian 12: .ci/deps.sh build|check|lint ...
# Says nothing and starts nothing when all is there.

# What to look for, and the package that has it.
# shellcheck disable=SC2034 # used by name
{
build="
gcc:gcc
objcopy:binutils
sha256sum:coreutils
/usr/include/stdio.h:libc6-dev
/usr/include/linux/kvm.h:linux-libc-dev
/usr/include/msgpack.h:libmsgpack-dev
/usr/include/seccomp.h:libseccomp-dev
/usr/include/xxhash.h:libxxhash-dev
/usr/include/zstd.h:libzstd-dev
/usr/include/liburing.h:liburing-dev
/usr/include/jansson.h:libjansson-dev
/usr/include/png.h:libpng-dev
/usr/include/archive.h:libarchive-dev
/usr/include/sys/acl.h:libacl1-dev
/usr/include/lzma.h:liblzma-dev
/usr/include/zlib.h:zlib1g-dev
/usr/include/ext2fs/ext2fs.h:libext2fs-dev
/usr/include/et/com_err.h:comerr-dev
/sbin/mke2fs:e2fsprogs
/usr/share/doc/iproute2:iproute2
awk:mawk
find:findutils
setarch:util-linux
"
check="
/usr/include/cmocka.h:libcmocka-dev
python3:python3
/usr/lib/python3/dist-packages/msgpack/__init__.py:python3-msgpack
/usr/lib/python3/dist-packages/xxhash/__init__.py:python3-xxhash
/usr/lib/python3/dist-packages/zstandard/__init__.py:python3-zstandard
ps:procps
qemu-system-x86_64:qemu-system-x86
/usr/share/doc/busybox-static:busybox-static
zstd:zstd
lz4:lz4
/sbin/mke2fs:e2fsprogs
/usr/share/doc/iproute2:iproute2
iasl:acpica-tools
fio:fio
iperf3:iperf3
"
lint="
clang:clang
clang-format:clang-format
clang-tidy:clang-tidy
cppcheck:cppcheck
shellcheck:shellcheck
"
}

missing=()
for group; do
	case $group in
	build | check | lint) ;;
	*)
		echo "usage: .ci/deps.sh build|check|lint ..." >&2
		exit 2
		;;
	esac
	for row in ${!group}; do
		what=${row%%:*}
		case $what in
		/*) [ -e "$what" ] ;;
		*) command -v "$what" >/dev/null ;;
		esac || missing+=("${row#*:}")
	done
done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
	echo "deps: missing (Debian names): ${missing[*]}" >&2
	echo "deps: no apt-get here; install them by other means" >&2
	exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
	echo "deps: missing: ${missing[*]}" >&2
	echo "deps: run as root: apt-get install ${missing[*]}" >&2
	exit 1
fi

echo "deps: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
if ! apt-get -q update >"$log" 2>&1 ||
	! apt-get -q -y -o Dpkg::Use-Pty=0 install --no-install-recommends \
		"${missing[@]}" >"$log" 2>&1 </dev/null; then
	tail -n 20 "$log" >&2
	echo "deps: apt-get failed" >&2
	exit 1
fi
