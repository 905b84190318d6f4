#!/bin/sh
# Make the file system of the PostgreSQL stand-in: Debian's server, with the user and the folders of the upstream image.
# Argument: the archive to write.
set -eu
archive=$1
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

debootstrap --variant=minbase trixie "$root"
cp /etc/resolv.conf "$root/etc/resolv.conf"
chroot "$root" groupadd --system --gid 999 postgres
chroot "$root" useradd --system --uid 999 --gid 999 --home-dir /var/lib/postgresql --shell /bin/bash postgres
# The entry point makes the only cluster, and nothing may start one while packages are set up.
mkdir -p "$root/etc/postgresql-common"
echo 'create_main_cluster = false' >"$root/etc/postgresql-common/createcluster.conf"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends gosu postgresql-17
chroot "$root" localedef -i en_US -f UTF-8 en_US.UTF-8
sed -i "s/^#*listen_addresses = .*/listen_addresses = '*'/" "$root/usr/share/postgresql/17/postgresql.conf.sample"

mkdir -p "$root/docker-entrypoint-initdb.d"
install -d -o 999 -g 999 -m 1777 "$root/var/lib/postgresql" "$root/var/lib/postgresql/data"
install -d -o 999 -g 999 -m 3777 "$root/var/run/postgresql"
rm -rf "$root/var/lib/apt/lists" "$root/var/cache/apt" "$root/usr/sbin/policy-rc.d"
tar -C "$root" --numeric-owner -cf "$archive" .
