"""A host's GPUs, with and without a driver: PCI bus, kernel module, Secure Boot, nvidia-smi."""

from __future__ import annotations

from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.host.gpus import GpuHost
from vllm_hosts.host.mokutil import SB_STATE, secure_boot
from vllm_hosts.host.nvidia_smi import QUERY, parse
from vllm_hosts.host.pci import NVIDIA, PciDevice

PERSISTENCED = "/usr/bin/nvidia-persistenced"
#: Certificates with which DKMS signs the modules that it builds: its own, and Ubuntu's shim.
_MODULE_KEYS = "/var/lib/dkms/mok.pub /var/lib/shim-signed/mok/MOK.der"
#: Variable of the firmware (UEFI specification, 3.3); the fifth byte is its value.
_EFI = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


class GpuState(HostFact[GpuHost]):
    """One query for all of it; no program is needed that a fresh host does not have."""

    what = "the GPUs and their driver"
    steady = True

    def command(self) -> str:
        return ending(
            f"""
            echo '== kernel'; uname -r
            echo '== headers'; [ ! -e "/lib/modules/$(uname -r)/build" ] || echo present
            echo '== pci'
            for device in /sys/bus/pci/devices/*; do
                [ -r "$device/vendor" ] || continue
                read -r vendor <"$device/vendor"
                [ "$vendor" = {NVIDIA:#06x} ] || continue
                read -r class <"$device/class"; read -r number <"$device/device"
                driver=$(readlink "$device/driver") || driver=-
                echo "${{device##*/}} $class $number ${{driver##*/}}"
            done
            echo '== module'; cat /sys/module/nvidia/version 2>/dev/null
            echo '== secure boot'
            if command -v mokutil >/dev/null; then
                {SB_STATE}
                for key in {_MODULE_KEYS}; do
                    [ ! -e "$key" ] || mokutil --test-key "$key" 2>&1
                done
            elif [ -e {_EFI} ]; then
                [ "$(od -An -t u1 -j 4 -N 1 {_EFI})" -eq 1 ] && echo 'SecureBoot enabled' ||
                    echo 'SecureBoot disabled'
            fi
            echo '== switches'; ls /proc/driver/nvidia-nvswitch/devices 2>/dev/null
            echo '== persistenced'; [ ! -x {PERSISTENCED} ] || echo present
            echo '== smi'
            {QUERY}
            """
        )

    def parse(self, lines: list[str]) -> GpuHost:
        parts = sections(lines)
        devices = tuple(map(_device, parts["pci"]))
        said = parts["secure boot"]
        return GpuHost(
            kernel=parts["kernel"][0],
            has_headers=parts["headers"] == ["present"],
            devices=devices,
            module="".join(parts["module"]) or None,
            secure_boot=secure_boot(said),
            key_enrolled=any("is already enrolled" in line for line in said),
            nvswitch=bool(parts["switches"]) or any(device.is_nvswitch for device in devices),
            has_persistenced=parts["persistenced"] == ["present"],
            smi=parse(parts["smi"]),
        )


def _device(line: str) -> PciDevice:
    slot, pci_class, number, driver = line.split()
    return PciDevice(slot, int(pci_class, 16), int(number, 16), "" if driver == "-" else driver)
