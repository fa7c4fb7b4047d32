#!/bin/sh
# build_image.sh ARCH FOLDER TAG: builds Dockerfile.arm64 with buildah, for a processor that qemu-user
# emulates, and tags it. ARCH is Debian's: arm64 or armhf. All images lie in FOLDER/images.
# The base is made of Debian's packages, so no registry is needed: it stands in for python:3.11-slim,
# and on armhf it is the base that docs/boards.md names.
set -eu
arch=$1 folder=$2 tag=$3
here=$(cd "$(dirname "$0")" && pwd)
packages="dash coreutils libstdc++6 python3 python3-pip"
case $arch in
arm64) platform=arm64 ;;
armhf) platform=arm packages="$packages python3-numpy" ;;
*) echo "Error: arm64 or armhf, not $arch" >&2 && exit 2 ;;
esac
# shellcheck disable=SC2086 # a list
"$here/make_root.sh" "$arch" "$folder/base" $packages || {
    echo "there is no Debian root" >&2
    exit 1
}
# What configuring the packages would have made: pip reaches its index by the certificates here.
mkdir -p "$folder/base/etc/ssl/certs"
cp /etc/ssl/certs/ca-certificates.crt "$folder/base/etc/ssl/certs/"
rm -f "$folder/base/dev/null"

images() {
    command=$1
    shift
    buildah --root "$folder/images" --runroot "$folder/run" --storage-driver vfs "$command" "$@"
}
container=$(images from --arch "$platform" scratch)
images add --quiet "$container" "$folder/base" / > /dev/null
images config --env PATH=/usr/sbin:/usr/bin:/sbin:/bin --cmd /usr/bin/python3 "$container"
images commit --quiet --rm "$container" localhost/edgetune-base > /dev/null
rm -r "$folder/base"
images bud --isolation chroot --platform "linux/$platform" --format docker --pull-never \
    --build-arg BASE=localhost/edgetune-base --tag "$tag" \
    --file "$here/../../Dockerfile.arm64" "$here/../.."
