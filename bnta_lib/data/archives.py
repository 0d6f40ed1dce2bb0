"""Owners' archives: downloaded if that needs no agreement, and unpacked into a data folder."""

import re
import shutil
import tarfile
import zipfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pooch

from bnta_lib.data.folders import extra
from bnta_lib.data.published import SETS
from bnta_lib.files import atomic_folder

_ENDING = re.compile(r"\.(zip|7z|tar|tgz|tbz2?|txz|tar\.(gz|bz2|xz))$", re.IGNORECASE)


def prepare(archive: str | Path, root: str | Path) -> Path:
    """Unpack a zip, tar (gz, bz2, xz) or 7z to the folder of ``root`` that has its name; that folder.

    It appears when it is whole, and is left as it is if it holds anything. Raises ValueError for what is no
    whole archive, OSError if it is not there or the disk cannot be written.
    """
    archive, folder = Path(archive), Path(root) / _ENDING.sub("", Path(archive).name)
    if not archive.is_file():
        raise FileNotFoundError(f"no such archive: {archive}")
    if folder.is_dir() and any(folder.iterdir()):
        return folder
    with atomic_folder(folder) as part:
        try:  # none of the readers writes outside the folder, whatever members and links are called
            if tarfile.is_tarfile(archive):
                shutil.unpack_archive(archive, part, "tar", filter="data")
            else:
                reader = zipfile.ZipFile if zipfile.is_zipfile(archive) else extra("py7zr").SevenZipFile
                with reader(archive) as opened:
                    opened.extractall(part)
        except Exception as error:  # what readers raise for a damaged file shares no base class
            if isinstance(error, OSError) and error.errno or isinstance(error, ImportError):
                raise
            raise ValueError(f"{archive} is not unpacked ({error}): it is damaged, hostile, encrypted or no "
                             "zip, tar or 7z; download it again, or unpack it by hand") from error
    return folder


def fetch(name: str, root: str | Path, url: str | None = None, progress: bool = False) -> Path:
    """Download the owner's archive of a set into ``root``, or a copy of it from ``url``; the archive.

    Raises ValueError if the set is not given out so, OSError if no archive comes or it cannot be written.
    """
    entry, hint = SETS[name], "python -m bnta_lib.data prepare ARCHIVE ROOT"
    if not entry.url:
        raise ValueError(f"{name} is not downloaded. Ask for it: {entry.ask}. To unpack yours: {hint}")
    url, known_hash = url or entry.url, None if url else entry.known_hash
    pooch.get_logger().setLevel("WARNING")  # it would ask users to write the digest into their code
    try:
        file = unquote(Path(urlsplit(url).path).name)
        archive = Path(pooch.retrieve(url, known_hash, file, root, progressbar=progress))
        if not (zipfile.is_zipfile(archive) or tarfile.is_tarfile(archive) or file.endswith(".7z")):
            archive.unlink()
            raise ValueError("a web page or another file came")
    except Exception as error:  # of requests, or of pooch
        raise OSError(f"{url} does not send the archive ({error}): look for it at {entry.ask}, give the "
                      f"address of a copy that you may use by --url, or unpack one by: {hint}") from error
    return archive
