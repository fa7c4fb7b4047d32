#!/bin/sh
# make_root.sh ARCH FOLDER PACKAGE...: a Debian root for chroot, unpacked and not configured.
# ARCH is Debian's: arm64 or armhf. Needs apt and a network, and takes seconds.
set -eu
arch=$1 folder=$2
shift 2
state=$folder.apt
mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$folder"
: > "$state/status"
apt() {
    apt-get -qq -o APT::Architecture="$arch" -o APT::Architectures="$arch" \
        -o Dir::State::lists="$state/lists" -o Dir::State::status="$state/status" \
        -o Dir::Cache="$state/cache" -o APT::Sandbox::User=root -o Debug::NoLocking=1 "$@"
}
apt update || true # an index of security updates may be missing for one day
apt install --yes --no-install-recommends --download-only "$@" > /dev/null
for package in "$state"/cache/archives/*.deb; do
    dpkg-deb --extract "$package" "$folder"
done
# What packages link when they are configured: the BLAS that numpy loads.
for library in "$folder"/usr/lib/*/blas/libblas.so.3 "$folder"/usr/lib/*/lapack/liblapack.so.3; do
    if [ -e "$library" ]; then
        near=$(dirname "$(dirname "$library")")
        ln -sf "${library#"$near"/}" "$near/$(basename "$library")"
    fi
done
mkdir -p "$folder/dev" "$folder/proc" "$folder/tmp" "$folder/root"
mknod -m 666 "$folder/dev/null" c 1 3
