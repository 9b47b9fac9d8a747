"""A second host made of a network namespace, with a cable that can be cut."""

from __future__ import annotations

import os
import shutil
import subprocess


class Host:
    """A network namespace joined to this machine by a pair of virtual interfaces; needs root and `ip`."""

    def __init__(self) -> None:
        """Make it. Raises `PermissionError` where that is not allowed or `ip` is missing."""
        number = os.getpid() % 16384  # 10.213.0.0/16 in nets of four addresses; two test processes do not meet
        first, second = divmod(4 * number, 256)
        self.ours, self.address = f"10.213.{first}.{second + 1}", f"10.213.{first}.{second + 2}"
        self._name, self._here, self._there = f"lwexp{number}", f"lwa{number}", f"lwb{number}"
        if os.geteuid() != 0 or shutil.which("ip") is None:
            raise PermissionError("network namespaces need root and the command ip")
        try:
            self._ip("netns", "add", self._name)
            self._ip("link", "add", self._here, "type", "veth", "peer", "name", self._there)
            self._ip("link", "set", self._there, "netns", self._name)
            self._ip("addr", "add", f"{self.ours}/30", "dev", self._here)
            self._ip("link", "set", self._here, "up")
            for command in (
                ["addr", "add", f"{self.address}/30", "dev", self._there],
                ["link", "set", self._there, "up"],
                ["link", "set", "lo", "up"],
            ):
                self._ip("-n", self._name, *command)
        except subprocess.CalledProcessError as error:
            self.close()
            raise PermissionError(
                f"network namespaces are not permitted here: {error.stderr.decode().strip()}"
            ) from None

    @property
    def prefix(self) -> list[str]:
        """What stands before a command that is to run on the host."""
        return ["ip", "netns", "exec", self._name]

    def cut(self) -> None:
        """Cut the cable at the far end: packets vanish, no connection is refused or reset."""
        self._ip("-n", self._name, "link", "set", self._there, "down")

    def mend(self) -> None:
        """Join the cable again."""
        self._ip("-n", self._name, "link", "set", self._there, "up")

    def close(self) -> None:
        """Remove it; processes in it stay as they are, so end them first."""
        for command in (["link", "del", self._here], ["netns", "del", self._name]):
            subprocess.run(["ip", *command], capture_output=True, check=False)

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], capture_output=True, check=True)
