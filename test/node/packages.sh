#!/usr/bin/env bash
# Installs what package node needs of the system and what is not there yet, from
# Debian's packages: what runs containers and puts them on a network, and the
# tools that make network links and mounts.
set -euo pipefail

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
declare -A packages=(
	[containerd]=containerd [ctr]=containerd [containerd-shim-runc-v2]=containerd
	[runc]=runc
	[/usr/lib/cni/bridge]=containernetworking-plugins
	[ip]=iproute2
	[mount]=mount [umount]=mount
)
missing=()
for command in "${!packages[@]}"; do
	command -v "$command" >/dev/null || missing+=("${packages[$command]}")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
if [[ $(id -u) -ne 0 ]]; then
	echo "a node of Kubernetes needs ${missing[*]}: only root may install that" >&2
	exit 1
fi
if ! command -v apt-get >/dev/null; then
	echo "a node of Kubernetes needs ${missing[*]}, by the names of Debian's packages, and there is no apt-get: install them as this system does" >&2
	exit 1
fi
echo "installing ${missing[*]}"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
