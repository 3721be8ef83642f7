"""Writes the tables in docs/troubleshooting.md, from the diagnoses' texts.

python -m tests.doctor_docs
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.made import replaced
from vllm_hosts.doctor.diagnoses import Text, texts

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "troubleshooting.md"
START = "<!-- made by python -m tests.doctor_docs -->\n"
HEADINGS = {
    "client": "What a client gets",
    "agent": "In an agent's log, or in its state",
    "docker": "What Docker or Compose says",
    "gpu": "What nvidia-smi, CUDA or the kernel says",
    "host": "On the host itself",
}

#: Where a word in capitals would say nothing.
USUAL = {
    "for {agent}{more}": "for {agent}, or give it more memory",
    "{more} a quantized": "Raise gpu_memory_utilization, or choose a quantized",
    "and the host has {there}": "which the host does not have",
    "is {seconds} s {direction}": "is ahead or behind",
    "which sets it up, {state}": "which sets it up, is missing or not ready",
    ": {meaning}.": ".",
    "{advice}": "If it is the card: reboot; then check power, cooling and its seating; then replace"
    " it. If it is the program: try the newest vLLM and driver. If it is too hot: check fans and"
    " filters.",
    "{reasons}, at {temperature} °C": "too hot, or short of power",
    "of {whose} is taken by {holder}": "of an agent or of the edge is taken by another program",
    "set {setting} to another port": "give the agent (port) or the edge (edge.https_port) another",
    "then: {start}": "then: vllm-hosts agents INVENTORY start AGENT --host HOST, or systemctl start"
    " nginx",
}


def tables() -> str:
    """One table for each place where symptoms show, in the order of likelihood."""
    lines = []
    for where, heading in HEADINGS.items():
        lines += [f"### {heading}", "", "| you see | what is wrong | what to do | |"]
        lines += ["|---|---|---|---|"]
        lines += [_row(text) for text in texts().values() if text.where == where]
        lines.append("")
    return "\n".join(lines)


def _row(text: Text) -> str:
    cells = [text.symptom, _named(text.what), _named(text.remedy), f"`{text.identifier}`"]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _named(text: str) -> str:
    """What a finding fills in, as a word in capitals, or as it mostly is."""
    for usual, shown in USUAL.items():
        text = text.replace(usual, shown)
    filled = re.sub(r"\{(\w+)\}", lambda match: match[1].upper(), text)
    return filled.replace("<", "&lt;")


def with_tables(text: str) -> str:
    """The document with its tables as they should be.

    :raises ValueError: the document lacks the comments that they stand between.
    """
    return replaced(text, START, tables())


if __name__ == "__main__":
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text()))
