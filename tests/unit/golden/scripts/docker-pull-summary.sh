
    function bytes(text) {
        return (text + 0) * (text ~ /GB/ ? 1e9 : text ~ /MB/ ? 1e6 : text ~ /kB/ ? 1e3 : 1)
    }
    $NF ~ /^[0-9.]+[kMG]?B\/[0-9.]+[kMG]?B$/ {
        split($NF, part, "/"); all[$1] = bytes(part[2])
        if ($2 == "Downloading") got[$1] = bytes(part[1])
        if ($2 == "Extracting") { got[$1] = all[$1]; unpacked[$1] = bytes(part[1]) }
    }
    $2 == "Download" || $2 == "Pull" { if ($3 == "complete") got[$1] = all[$1] }
    $2 == "Pull" && $3 == "complete" { unpacked[$1] = all[$1] }
    END {
        for (layer in all) { g += got[layer]; a += all[layer]; u += unpacked[layer] }
        printf "%.2f of %.2f GB downloaded, %.2f GB unpacked\n", g / 1e9, a / 1e9, u / 1e9
    }

