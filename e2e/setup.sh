#!/usr/bin/env bash
# Installs what `make test` needs besides Go and Node, on Debian:
#
#   gcc       for go test -race
#   valkey    for the cache's tests
#   chromium  for the browser's tests, without its windows (chromium-headless-shell)
#   pgbouncer, caddy, haproxy, nginx  that replicas stand behind and before
#   psql, python3  that the documents' commands are run with
#   django, psycopg2  for the example that publishes from them
#   and the published JavaScript client, by npm, into e2e/node_modules
#
# It does nothing, in silence, where all is there. Where something cannot be
# installed (no root and no sudo, no apt, no network) it says what the tests
# will do without and succeeds; with CI=true it fails, because a test that is
# skipped there would be missed by nobody.
set -euo pipefail
cd "$(dirname "$0")"

log=$(mktemp)
policy=
cleanup() {
	rm -f "$log"
	[ -z "$policy" ] || as_root rm -f "$policy"
}
trap cleanup EXIT

say() { printf 'setup: %s\n' "$*" >&2; }

# missing WHAT-HAPPENS: the tests go on without it, but not in CI.
missing() {
	say "$*"
	[ "${CI:-}" != true ] || { say 'CI must not skip tests: giving up'; exit 1; }
}

as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n -- "$@"; fi
}

# quietly COMMAND…: its output is shown only when it fails.
quietly() {
	"$@" >"$log" 2>&1 && return
	tail -n 15 "$log" >&2
	return 1
}

apt() {
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y \
		-o DPkg::Lock::Timeout=300 -o Acquire::Retries=2 -o Acquire::http::Timeout=30 "$@"
}

can_install() {
	command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }
}

# A third party's broken source fails the update but not what we need.
update_lists() { quietly apt update || say 'apt-get update has errors; trying all the same'; }

# Debian 12 has valkey only in its backports. They come from the mirror that
# the machine already uses, whose lists must have been read once.
add_backports() {
	local codename targets mirror signed=
	codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
	[ "$codename" = bookworm ] || return 0
	targets=$(apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(REPO_URI)' 'Identifier: Packages')
	! grep -q '^bookworm-backports main ' <<<"$targets" || return 0
	mirror=$(sed -n 's/^bookworm main //p' <<<"$targets" | head -n 1)
	[ -n "$mirror" ] || return 0
	[ ! -e /usr/share/keyrings/debian-archive-keyring.gpg ] ||
		signed='Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg'
	printf '%s\n' 'Types: deb' "URIs: $mirror" 'Suites: bookworm-backports' 'Components: main' ${signed:+"$signed"} |
		as_root tee /etc/apt/sources.list.d/bookworm-backports.sources >/dev/null
	update_lists
}

# The tests start servers of their own, so the one that Debian's package would
# start must not, now or at the next boot.
forbid_services() {
	[ -e /usr/sbin/policy-rc.d ] && return
	policy=/usr/sbin/policy-rc.d
	printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
	as_root chmod 755 "$policy"
}

install_packages() {
	local wanted=("$@")
	say "installing ${wanted[*]} (a minute or two)"
	update_lists
	if [[ " ${wanted[*]} " == *' valkey-server '* ]]; then
		add_backports
	fi
	forbid_services
	# All at once is faster; what cannot be had must not keep the others away.
	local package
	quietly apt install --no-install-recommends "${wanted[@]}" || for package in "${wanted[@]}"; do
		quietly apt install --no-install-recommends "$package" || say "$package could not be installed"
	done
	if [ -d /run/systemd/system ]; then
		for package in "${wanted[@]}"; do
			case $package in
			valkey-server | pgbouncer | caddy | haproxy | nginx)
				as_root systemctl disable --now "$package" >/dev/null 2>&1 || true ;;
			esac
		done
	fi
}

has_c() { command -v gcc >/dev/null && [ -e /usr/include/stdlib.h ]; }
has_valkey() { command -v valkey-server >/dev/null; }
has_chromium() { command -v chromium-headless-shell >/dev/null || command -v chromium >/dev/null; }
# Debian keeps servers where users do not look.
has_server() { command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ]; }
servers=(pgbouncer caddy haproxy nginx)
has_psql() { command -v psql >/dev/null; }
# Debian's own Python has Debian's packages, whichever comes first in the path.
has_django() { /usr/bin/python3 -c 'import django, psycopg2' 2>/dev/null || python3 -c 'import django, psycopg2' 2>/dev/null; }

packages=()
has_c || packages+=(gcc libc6-dev)
has_valkey || packages+=(valkey-server)
has_chromium || packages+=(chromium-headless-shell fonts-liberation)
has_psql || packages+=(postgresql-client)
has_django || packages+=(python3-django python3-psycopg2)
for server in "${servers[@]}"; do
	has_server "$server" || packages+=("$server")
done

if [ ${#packages[@]} -gt 0 ] && can_install; then
	install_packages "${packages[@]}"
fi
lacking=
has_c || lacking+=', the race detector (gcc)'
has_valkey || lacking+=", the cache's tests (valkey-server)"
has_chromium || lacking+=", the browser's tests (chromium)"
has_psql || lacking+=", the documents' commands (psql)"
has_django || lacking+=", the example for Django (python3-django, python3-psycopg2)"
for server in "${servers[@]}"; do
	has_server "$server" || lacking+=", the tests with $server"
done
[ -z "$lacking" ] || missing "left out: ${lacking#, }: install by hand, or run as root or with passwordless sudo"

# npm writes its own copy of the lock file last of all.
if [ package-lock.json -nt node_modules/.package-lock.json ]; then
	if ! command -v npm >/dev/null; then
		missing "left out: the JavaScript client's tests: Node and npm are not installed"
	else
		say 'fetching the JavaScript client'
		quietly npm ci || missing "left out: the JavaScript client's tests: npm ci did not succeed"
	fi
fi
