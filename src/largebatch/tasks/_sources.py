"""Source: the places where the files of a data set can be found, tried in one order.

1. The data home, `$LARGEBATCH_DATA/<data set>`, or the user's cache folder where that variable is not set.
2. The folder of a Debian package, where there is one.
3. A download into the data home, checked against the MD5 sum its publisher or torchvision gives for it.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pooch

_TIMEOUT_SECONDS = (3, 30)  # to connect to each of the host's addresses, and between two packets
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Source:
    """Where the files of one data set come from.

    Args:
        name: the data set's folder under the data home.
        files: file (or folder) name → its MD5 sum when downloaded; None for what only the user can bring.
        url: the files are downloaded from `url + name`; empty where they cannot be.
        package: the Debian package that holds them.
        package_folder: where it puts them.
        unpacked: files or folders that stand in for them together, such as an archive unpacked by hand.
    """

    name: str
    files: Mapping[str, str | None]
    url: str = ""
    package: str = ""
    package_folder: Path | None = None
    unpacked: tuple[str, ...] = ()

    @property
    def home(self) -> Path:
        """The data set's folder under the data home."""
        return data_home() / self.name

    def find(self) -> Path | None:
        """The first folder on this machine that holds everything, without opening a file."""
        return next((folder for folder in self._folders() if self._holds(folder)), None)

    def locate(self) -> Path:
        """The folder that holds everything, after a download where that is needed and possible.

        Raises:
            FileNotFoundError: it is nowhere to be had; says which places were tried, and what would help.
            ValueError: a downloaded file has the wrong MD5 sum; gives both.
        """
        folder = self.find()
        if folder is not None:
            return folder
        tried = [str(folder) for folder in self._folders()]
        if self.url:
            failure = self._download()
            if failure is None:
                return self.home
            tried.append(failure)
        raise FileNotFoundError(
            f"the {self.name} data are not on this machine: expected {', '.join(self.files)}; "
            f"tried {'; '.join(tried)}; {self.advice()}"
        )

    def advice(self) -> str:
        """How to get the data, in one line."""
        ways = [f"put {', '.join(self.files)} into {self.home} (LARGEBATCH_DATA sets the folder above it)"]
        if self.package:
            ways.insert(0, f"apt install {self.package}")
        if self.url:
            ways.append("connect to the network: they are downloaded at first use")
        return "; or ".join(ways)

    def _folders(self) -> list[Path]:
        return [self.home] if self.package_folder is None else [self.home, self.package_folder]

    def _holds(self, folder: Path) -> bool:
        unpacked = bool(self.unpacked) and all((folder / name).exists() for name in self.unpacked)
        return unpacked or not self._missing(folder)

    def _missing(self, folder: Path) -> list[str]:
        return [name for name in self.files if not (folder / name).exists()]

    def _download(self) -> str | None:
        """Fetches what the data home lacks. Returns what failed, or None."""
        downloader = pooch.HTTPDownloader(
            progressbar=sys.stderr.isatty(), chunk_size=_CHUNK_BYTES, timeout=_TIMEOUT_SECONDS
        )
        for name in self._missing(self.home):
            try:
                pooch.retrieve(
                    self.url + name,
                    known_hash=f"md5:{self.files[name]}",
                    fname=name,
                    path=self.home,
                    downloader=downloader,  # pyright: ignore[reportArgumentType]: pooch's own types disagree
                )
            # requests' exceptions are OSErrors too, and so is a data home that cannot be written
            except OSError as error:
                return f"{self.url}{name} ({type(error).__name__}: {error})"
        return None


def data_home() -> Path:
    """`$LARGEBATCH_DATA`, or the user's cache folder."""
    configured = os.environ.get("LARGEBATCH_DATA")
    return Path(configured).expanduser() if configured else Path(pooch.os_cache("largebatch"))
