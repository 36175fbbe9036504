# shellcheck shell=bash
# What the scripts share. Sourced, not run.

say() { printf '==> %s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# as_root COMMAND…: runs it as root, or fails without asking for a password.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif have sudo && sudo -n true 2>/dev/null; then
        sudo -n "$@"
    else
        return 1
    fi
}

# missing_packages COMMAND=PACKAGE…: prints the Debian packages of the commands that are not there.
missing_packages() {
    local pair
    for pair in "$@"; do
        have "${pair%%=*}" || printf '%s\n' "${pair#*=}"
    done | sort -u
}

# install_packages PACKAGE…: installs Debian packages, or fails.
install_packages() {
    have apt-get || return 1
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq || return 1
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# take_from_package PACKAGE FILE: puts a command of a Debian package into $TOOLS/bin; the package itself would start a
# daemon.
take_from_package() {
    have apt-get || return 1
    local folder status=0
    folder=$(mktemp -d) && chmod 755 "$folder"
    say "taking ${2##*/} from the package $1"
    (
        cd "$folder"
        apt-get download -qq "$1" 2>/dev/null ||
            { as_root apt-get update -qq && apt-get download -qq "$1"; }
        dpkg-deb -x "$1"_*.deb .
    ) && mkdir -p "$TOOLS/bin" && install -m 755 "$folder/$2" "$TOOLS/bin/" || status=1
    rm -rf "$folder"
    return "$status"
}

# need COMMAND=PACKAGE…: installs what is missing, or says what to install and fails.
need() {
    local packages
    packages=$(missing_packages "$@")
    [ -n "$packages" ] || return 0
    # shellcheck disable=SC2086  # one word a package
    set -- $packages
    say "installing $*"
    install_packages "$@" || fail "install these packages first: $*"
}

# fuse_trouble: prints why this machine cannot mount; nothing if it can.
fuse_trouble() {
    [ -c /dev/fuse ] || as_root modprobe fuse 2>/dev/null || true
    if [ ! -c /dev/fuse ]; then
        echo "/dev/fuse: this machine (or container) has no FUSE"
    elif [ "$(id -u)" = 0 ]; then
        # A container may show the device and forbid it.
        (: <>/dev/fuse) 2>/dev/null || echo "the right to open /dev/fuse"
    elif ! have fusermount3; then
        echo "fusermount3, with which a user mounts: apt-get install fuse3"
    fi
}
