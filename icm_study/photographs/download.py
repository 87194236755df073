"""Download a public data set into the folder layout that the study reads.

``python -m icm_study.photographs.download PACS`` makes
``data/PACS/domain/class/image``. The files come from a pinned commit of the Hugging
Face hub, or from the authors' web server; their hashes are checked where they are
known, the images are written with their bytes unchanged, and at the end the counts are
compared with the catalog.

Stop it whenever you like: the next run goes on where this one ended. What arrives is
kept in a hidden folder, and the data set's own folder is made when all files are there,
so that no empty one looks like data. ``SOURCE.json`` in it records where the data came
from. Where there is no lasting public source, the command says how to get the data by
hand.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from tqdm import tqdm

from icm_study.photographs.conversion import (
    archive_to_folder,
    camera_traps_to_folder,
    parquet_to_folder,
)
from icm_study.photographs.folders import index_classes, index_folder
from icm_study.photographs.known import CATALOG, Hub, KnownDataset, WebFile, known_dataset
from icm_study.photographs.real_clip import FILES, FOLDER, LICENCES, open_real_clip, write_real_clip

RECORD = "SOURCE.json"
REAL_CLIP = "real-clip"  # embeddings, no images: see icm_study.photographs.real_clip

_CHUNK = 1 << 20


def download(
    name: str, destination: str | os.PathLike[str] = "data", revision: str | None = None
) -> Path:
    """Download a data set, or finish a download that was interrupted.

    Parameters
    ----------
    name : str
        A name in `icm_study.photographs.known.CATALOG`, or "real-clip".
    destination : path-like
        The folder in which the data set's own folder is made.
    revision : str, optional
        For data sets on the hub, another commit than the pinned one.

    Returns
    -------
    Path
        The data set's folder.

    Raises
    ------
    ValueError
        If the data set is unknown, a revision is given for a data set that is not on
        the hub, or the folder holds something else.
    RuntimeError
        If the data set has no public source, there is no network, a file is not what it
        should be, or the images found in the end are not those that are known. What was
        downloaded is kept.
    """
    if name == REAL_CLIP:
        return _published(Path(destination), revision)
    known = known_dataset(name)
    root, parts = Path(destination) / name, Path(destination) / f".{name}.download"
    if revision is not None and not isinstance(known.source, Hub):
        raise ValueError(f"{name} does not come from the hub, so there is no revision to choose.")
    record = _read_record(root, parts, revision)
    if record.get("complete") or (not record and root.exists() and any(root.iterdir())):
        _check_counts(root, known)
        print(f"{root} is complete.")
        return root
    if not known.source:
        raise RuntimeError(
            f"{name} cannot be downloaded by this command. {known.by_hand.format(root=root)}"
        )
    print(
        f"{name}: {known.n_images:,} images, {known.size} to download. Licence: "
        f"{known.licence} See {known.page}"
    )
    if isinstance(known.source, Hub):
        commit = revision or record.get("revision") or known.source.revision
        files, record = _from_hub(known.source, commit, parts)
    else:
        files = [fetch(file, parts / file.url.rsplit("/", 1)[1]) for file in known.source]
        record = {"files": [{"url": file.url, "md5": file.md5} for file in known.source]}
    _write_record(root, record | {"complete": False})
    if files[0].suffix == ".parquet":
        parquet_to_folder(files, root, name)
    elif name == "terra_incognita":
        camera_traps_to_folder(files[0], files[1], root, known.domains)
    else:
        archive_to_folder(files[0], root)
    _check_counts(root, known)
    _write_record(root, record | {"complete": True})
    shutil.rmtree(parts)
    print(f"{root} is complete.")
    return root


def fetch(file: WebFile, path: Path) -> Path:
    """Download a file over HTTP, going on with what an earlier run left.

    Parameters
    ----------
    file : WebFile
        Its address, with its size and its hashes where they are known.
    path : Path
        Where to put it. Until it is complete, it lies beside, with ``.part`` at the end
        of its name.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    RuntimeError
        If the server cannot be reached or refuses, the connection breaks and trying
        again gains nothing, or the file has another size or hash than it should.
    """
    if path.exists():
        return path
    part = path.with_name(path.name + ".part")
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            total = _go_on(file.url, part, before)
            break
        except urllib.error.HTTPError as error:
            raise RuntimeError(
                _no_download(file.url, f"the server says {error.code} {error.reason}")
            ) from error
        except (OSError, http.client.HTTPException) as error:
            if (
                not part.exists() or part.stat().st_size <= before
            ):  # try again while there is progress
                raise RuntimeError(_no_download(file.url, error)) from error
    total = file.size or total
    if total is not None and part.stat().st_size != total:
        size = part.stat().st_size
        part.unlink()
        raise RuntimeError(
            f"{size:,} bytes of {file.url} have arrived, but it has {total:,}: it changed on the "
            "server since an earlier run. What had arrived was deleted; run the command again."
        )
    for algorithm, expected in {"md5": file.md5, "sha256": file.sha256}.items():
        if expected is not None and _digest(part, algorithm) != expected:
            part.unlink()
            raise RuntimeError(
                f"{file.url} has another {algorithm.upper()} hash than {expected}; it was damaged "
                "on the way or changed on the server. It was deleted; run the command again."
            )
    os.replace(part, path)
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``python -m icm_study.photographs.download NAME [DESTINATION]``.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line's words.

    Returns
    -------
    int
        0 if the data set is complete, 1 otherwise.
    """
    parser = argparse.ArgumentParser(
        prog="python -m icm_study.photographs.download", description=__doc__.split("\n")[0]
    )
    names = [*CATALOG, REAL_CLIP]
    parser.add_argument("name", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument(
        "destination", nargs="?", default="data", metavar="DESTINATION", help="default: data"
    )
    parser.add_argument(
        "--revision", help="another commit of the hub's repository than the pinned one"
    )
    options = parser.parse_args(arguments)
    try:
        download(options.name, options.destination, options.revision)
    except (RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _published(destination: Path, revision: str | None) -> Path:
    """Download the embeddings of real CLIPs, and what they are of."""
    root, parts = destination / FOLDER, destination / f".{FOLDER}.download"
    if revision is not None:
        raise ValueError(
            f"{REAL_CLIP} does not come from the hub, so there is no revision to choose."
        )
    if not root.exists() or not any(root.iterdir()):
        size = sum(file.size or 0 for file in FILES.values())
        print(f"{REAL_CLIP}: {size / 1e6:.0f} MB to download. Licences: {LICENCES}")
        got = {name: fetch(file, parts / name) for name, file in FILES.items()}
        whole = parts / FOLDER
        write_real_clip(got, whole)
        files = [{"url": file.url, "sha256": file.sha256} for file in FILES.values()]
        _write_record(whole, {"files": files, "complete": True})
        os.replace(whole, root)
        shutil.rmtree(parts)
    try:
        open_real_clip(root)
    except (ValueError, FileNotFoundError) as error:
        raise RuntimeError(
            f"{root} has not what it should have: {error} If the folder is your own, choose "
            "another destination."
        ) from error
    print(f"{root} is complete.")
    return root


def _from_hub(source: Hub, revision: str, parts: Path) -> tuple[list[Path], dict[str, Any]]:
    """Download a hub repository's files; return them with the record of where they come from."""
    try:
        info = HfApi().dataset_info(source.repo, revision=revision, files_metadata=True)
        chosen = [file for file in info.siblings or [] if fnmatch(file.rfilename, source.pattern)]
        chosen.sort(key=lambda file: file.rfilename)
        record = {
            "repository": source.repo,
            "revision": info.sha,
            "files": [
                {
                    "name": file.rfilename,
                    "size": file.size,
                    "sha256": file.lfs.sha256 if file.lfs else None,
                }
                for file in chosen
            ],
        }
        if chosen:
            _write_record(parts, record | {"complete": False})  # to go on with the same commit
        files = [
            Path(
                hf_hub_download(
                    source.repo,
                    file.rfilename,
                    repo_type="dataset",
                    revision=info.sha,
                    local_dir=parts,
                )
            )
            for file in chosen
        ]
    except Exception as error:  # the client has a dozen kinds, of several libraries
        raise RuntimeError(
            _no_download(f"{source.repo}@{revision} from the Hugging Face hub", error)
        ) from error
    if not files:
        raise RuntimeError(
            f"{source.repo}@{revision} has no files {source.pattern!r}; try another --revision."
        )
    for path, file in zip(files, chosen, strict=True):
        if file.lfs and _digest(path, "sha256") != file.lfs.sha256:
            path.unlink()
            raise RuntimeError(
                f"{path} was damaged on the way and is deleted; run the command again."
            )
    return files, record


def _no_download(what: str, why: object) -> str:
    return (
        f"cannot download {what}: {why}. What has arrived is kept. If there is no network here, "
        "run the same command on a machine that has one and copy the data set's folder; behind a "
        "proxy, set HTTPS_PROXY; for a mirror of the hub, set HF_ENDPOINT. Otherwise run the "
        "command again later."
    )


def _go_on(url: str, part: Path, start: int) -> int | None:
    """Append to a partial file what is missing; return the size that the server tells."""
    headers = {"User-Agent": "icm_core", **({"Range": f"bytes={start}-"} if start else {})}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # nothing is missing
            told = error.headers.get("Content-Range", "").rpartition("/")[2]
            return int(told) if told.isdigit() else start
        raise
    with response:
        if response.status != 206:  # the server sends the whole file
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length is not None else None
        part.parent.mkdir(parents=True, exist_ok=True)
        with (
            open(part, "ab" if start else "wb") as out,
            tqdm(total=total, initial=start, desc=part.stem, unit="B", unit_scale=True) as bar,
        ):
            while chunk := response.read(_CHUNK):
                out.write(chunk)
                bar.update(len(chunk))
    if total is not None and part.stat().st_size < total:
        raise ConnectionError("the connection broke off")
    return total


def _digest(path: Path, algorithm: str) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def _check_counts(root: Path, known: KnownDataset) -> None:
    differences = known.differences(
        (index_classes if known.flat else index_folder)(root, allow_missing=True)
    )
    if differences:
        raise RuntimeError(
            f"{root} has not the images that it should have: {'; '.join(differences)}. If the "
            "folder is your own, choose another destination; if it comes from this command, "
            "delete it and run the command again."
        )


def _read_record(root: Path, parts: Path, revision: str | None) -> dict[str, Any]:
    """Read what an earlier run recorded; it must be of the same commit."""
    path = (root if (root / RECORD).exists() else parts) / RECORD
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if revision is not None and record.get("revision", revision) != revision:
        raise ValueError(
            f"{root} was begun with revision {record['revision']}, not {revision}. To go on, leave "
            f"the revision out; to begin anew, delete {path.parent} or choose another destination."
        )
    return record


def _write_record(folder: Path, record: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{RECORD}.tmp"
    temporary.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(temporary, folder / RECORD)


if __name__ == "__main__":
    sys.exit(main())
