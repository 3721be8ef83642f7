
        set -eu; umask 022
        brought() { # LINE...: of ours from now on
        (umask 022; mkdir -p /var/lib/vllm-hosts)
        { cat /var/lib/vllm-hosts/manifest 2>/dev/null || :; printf '%s\n' "$@"; } |
            LC_ALL=C sort -u >/var/lib/vllm-hosts/manifest.new && sync /var/lib/vllm-hosts/manifest.new &&
            mv -fT /var/lib/vllm-hosts/manifest.new /var/lib/vllm-hosts/manifest
    }
        command -v gpg >/dev/null && [ -s /etc/ssl/certs/ca-certificates.crt ] || {
            echo 'installing gpg and ca-certificates'
            brought 'package gpg' 'package ca-certificates'
            DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l apt-get -q -y -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold update; DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l apt-get -q -y -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold install --no-install-recommends gpg ca-certificates
            echo 'note: gpg and ca-certificates were installed first'
        }
        folder=$(mktemp -d /run/vllm-hosts.XXXXXX); touched=; finished=
        finish() {
            code=$?; trap - EXIT
            if [ -z "$finished" ]; then
                for path in $touched; do # ours goes before what gave way to it comes back
                    if [ -e "$folder/was$path" ] || [ -L "$folder/was$path" ]; then
                        cp -dp --remove-destination "$folder/was$path" "$path" || :
                    else rm -f "$path"; fi
                done
                rm -f /etc/apt/sources.list.d/docker.sources.new /etc/apt/keyrings/docker.asc.new
                [ -z "$touched" ] || ( echo 'the sources of apt are what they were before' ) || :
            fi
            rm -rf "$folder"; exit $code
        }
        trap finish EXIT; trap 'exit 1' HUP INT TERM PIPE
        chmod 755 "$folder"; ! id _apt >/dev/null 2>&1 || chown _apt "$folder"
        /usr/lib/apt/apt-helper download-file https://download.docker.com/linux/debian/gpg "$folder/key" || {
            echo 'the signing key at https://download.docker.com/linux/debian/gpg cannot be fetched'; exit 1; }
        install -d -m 0700 "$folder/gpg" "$folder/was"
        prints=$(gpg --homedir "$folder/gpg" --batch --show-keys --with-colons "$folder/key" |
            awk -F: '$1 == "pub" { main = 1 } $1 == "fpr" && main { print $10; main = 0 }')
        [ "$prints" = 9DC858229FC7DD38854AE2D88D81803C0EBFCD88 ] || {
            echo "the key at https://download.docker.com/linux/debian/gpg has fingerprint ${prints:-none}, not"
            echo 'the pinned 9DC858229FC7DD38854AE2D88D81803C0EBFCD88; nothing was installed from this archive'
            exit 1; }
        for path in /etc/apt/sources.list.d/a.list /etc/apt/sources.list /etc/apt/keyrings/docker.asc /etc/apt/sources.list.d/docker.sources; do
            [ -e "$path" ] || [ -L "$path" ] || continue
            mkdir -p "$folder/was$(dirname "$path")"; cp -dp "$path" "$folder/was$path"
        done
        brought 'source /etc/apt/sources.list.d/docker.sources' 'source /etc/apt/keyrings/docker.asc'
        mkdir -p /etc/apt/keyrings; mkdir -p /var/lib/vllm-hosts/previous"$(dirname /etc/apt/sources.list.d/a.list)"; cp -dp --remove-destination /etc/apt/sources.list.d/a.list /var/lib/vllm-hosts/previous/etc/apt/sources.list.d/a.list; brought "gave-way - "/etc/apt/sources.list.d/a.list; mkdir -p /var/lib/vllm-hosts/previous"$(dirname /etc/apt/sources.list)"; cp -dp --remove-destination /etc/apt/sources.list /var/lib/vllm-hosts/previous/etc/apt/sources.list; brought "gave-way $(sed -e '3s/^/# /' -e 4d /etc/apt/sources.list | sha256sum | cut -c 1-64) "/etc/apt/sources.list
        touched='/etc/apt/sources.list.d/docker.sources /etc/apt/keyrings/docker.asc /etc/apt/sources.list /etc/apt/sources.list.d/a.list'
        rm -f /etc/apt/sources.list.d/a.list; sed -i -e '3s/^/# /' -e 4d /etc/apt/sources.list
        install -m 0644 "$folder/key" /etc/apt/keyrings/docker.asc.new
        printf '%s' 'Types: deb
URIs: https://download.docker.com/linux/debian
Suites: trixie
Components: stable
Architectures: amd64
Signed-By: /etc/apt/keyrings/docker.asc
' >/etc/apt/sources.list.d/docker.sources.new
        mv -f /etc/apt/keyrings/docker.asc.new /etc/apt/keyrings/docker.asc; mv -f /etc/apt/sources.list.d/docker.sources.new /etc/apt/sources.list.d/docker.sources
        DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l apt-get -q -y -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold update -o Dir::Etc::SourceList=/etc/apt/sources.list.d/docker.sources -o Dir::Etc::SourceParts=/dev/null -o APT::Get::List-Cleanup=0
        # All entries together: apt refuses to work while two of them disagree about one archive.
        apt-get indextargets >/dev/null
        finished=yes
    
