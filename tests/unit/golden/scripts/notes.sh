noted() { # FILE: these are now the lines about the paths of this change
    (umask 022; mkdir -p "$(dirname "$deployed")") && ( flock 9 && touch "$deployed" &&
        { awk 'NR == FNR { ours[$0]; next } !($2 in ours)' "$work/.ours" "$deployed" &&
            cat "$1"; } >"$deployed.new" && LC_ALL=C sort -o "$deployed.new" "$deployed.new" &&
        sync "$deployed.new" && mv -fT "$deployed.new" "$deployed"
    ) 9>>"$deployed.lock"
}
note() { # PATH...: what they have and what they get may both be there until all is done
    : >"$work/.was"; : >"$work/.both"; : >"$work/.now"
    # Through a program: a shell's own printf does not say that there is no room.
    printf '%s\n' "$@" | cat >"$work/.ours"
    [ ! -e "$deployed" ] ||
        awk 'NR == FNR { ours[$0]; next } $2 in ours' "$work/.ours" "$deployed" >"$work/.was"
    sed 's/$/ /' "$work/.was" >"$work/.ends"
    for path in "$@"; do
        if [ -e "$path$suffix" ]; then new=$(sha256sum <"$path$suffix"); else new=-; fi
        echo "${new%% *}  $path" >>"$work/.now"
        ! grep -qF "  $path " "$work/.ends" || continue
        if [ -f "$path" ] && [ ! -L "$path" ]; then old=$(sha256sum <"$path"); else old=-; fi
        echo "${old%% *}  $path" >>"$work/.both"
    done
    cat "$work/.was" "$work/.now" >>"$work/.both"; LC_ALL=C sort -u -o "$work/.both" "$work/.both"
    noted "$work/.both"
}
copy() { # PATH: as it was deployed, to tell later what was changed in it
    rm -f "$copies$1"
    [ ! -f "$1" ] || { mkdir -p "$copies$(dirname "$1")" && cp -p "$1" "$copies$1"; }
}
