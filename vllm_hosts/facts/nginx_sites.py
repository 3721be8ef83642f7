"""What a host's nginx already serves, for others than us."""

from __future__ import annotations

from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.host.nginx_sites import Sites
from vllm_hosts.text import clean


class NginxSites(HostFact[Sites]):
    """Sites of other people. Read from the files: ``nginx -T`` would print the edge's keys too."""

    what = "the sites of nginx"
    steady = True

    def command(self, etc: str = "/etc/nginx", pages: str = "/var/www/html") -> str:
        return ending(
            f"""
            site={etc}/sites-enabled/default; whose=
            if [ -e "$site" ]; then
                whose=own
                came=$(dpkg-query -W -f '${{Conffiles}}\\n' nginx-common nginx 2>/dev/null |
                    sed -n 's|^ */etc/nginx/sites-available/default \\([0-9a-f]*\\).*|\\1|p' |
                    head -n 1)
                is=$(md5sum <"$site")
                [ "${{is%% *}}" != "$came" ] || whose=distribution
            fi
            echo '== welcome'; [ -z "$whose" ] || echo "$whose"
            echo '== pages'
            # apache2 may have been there before.
            left=index.html; ! grep -qs 'Apache2 .*Default Page' {pages}/$left || left=none
            [ "$whose" != distribution ] || ls -A {pages} 2>/dev/null |
                grep -v -x -e 'index\\.nginx-debian\\.html' -e 'index\\.html' | head -n 5
            [ "$whose" != distribution ] || [ ! -e {pages}/$left ] || echo index.html
            echo '== listens'
            for file in {etc}/nginx.conf {etc}/conf.d/*.conf {etc}/sites-enabled/*; do
                [ -f "$file" ] && [ "${{file##*/}}" != vllm-hosts.conf ] || continue
                [ "$file$whose" != "{etc}/sites-enabled/defaultdistribution" ] || continue
                sed 's/#.*//' "$file" | tr '\\n;{{}}' ' \\n\\n\\n' |
                    sed -n 's|^[[:space:]]*listen[[:space:]]\\{{1,\\}}||p' |
                    while IFS= read -r words; do printf '%s\\t%s\\n' "$file" "$words"; done
            done
            """
        )

    def parse(self, lines: list[str]) -> Sites:
        parts = sections(lines)
        listens = (line.partition("\t") for line in parts["listens"])
        whose = "".join(parts["welcome"])
        if whose not in ("", "distribution", "own"):
            raise ValueError(f"the welcome site is {whose[:200]!r}")
        return Sites(
            welcome=whose,
            pages=tuple(clean(name, 80) for name in parts["pages"]),
            listens=tuple(
                (clean(file, 200), said)
                for file, _, words in listens
                # nginx itself refuses one without words.
                if (said := clean(words, 200)).strip()
            ),
        )
