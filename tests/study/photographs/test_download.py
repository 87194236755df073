"""The downloads, from servers on this machine; nothing here needs the network."""

import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from huggingface_hub import constants
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from real_clip_stand_in import write_stand_in

from icm_study.photographs import download as download_module
from icm_study.photographs import real_clip
from icm_study.photographs.conversion import (
    archive_to_folder,
    camera_traps_to_folder,
    parquet_to_folder,
)
from icm_study.photographs.download import download, fetch, main
from icm_study.photographs.known import CATALOG, Hub, KnownDataset, WebFile

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DOMAINS, CLASSES = ("Art", "Real World"), ("Alarm_Clock", "Bed", "TV")


def picture(seed, kind="JPEG"):
    values = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(values).save(out, kind)
    return out.getvalue()


def rows_of(n, path="{}.jpg"):
    return [
        {
            "image": {"bytes": picture(i), "path": path.format(i) if path else None},
            "domain": DOMAINS[i % 2],
            "label": i % 3,
        }
        for i in range(n)
    ]


def write_shard(path, rows, domain_names=None, label_names=CLASSES, metadata=True):
    """Write rows as the datasets library does: an image struct, names in the metadata."""

    def feature(names):
        return (
            {"names": list(names), "_type": "ClassLabel"}
            if names
            else {"dtype": "string", "_type": "Value"}
        )

    kinds = {"domain": domain_names, "label": label_names}
    features = {"image": {"_type": "Image"}} | {key: feature(names) for key, names in kinds.items()}
    fields = [pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))]
    fields += [pa.field(key, pa.int64() if names else pa.string()) for key, names in kinds.items()]
    described = {"huggingface": json.dumps({"info": {"features": features}})} if metadata else None
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(fields, described)), path, row_group_size=4)
    return path


@pytest.fixture
def shards(tmp_path):
    """Three Parquet files with 30 rows in all, and these rows."""
    rows = rows_of(30)
    parts = [rows[:10], rows[10:17], rows[17:]]
    return [
        write_shard(tmp_path / f"train-{i}.parquet", part) for i, part in enumerate(parts)
    ], rows


def files_in(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


# -------------------------------------------------------------------------------------------------
# Parquet


def test_parquet_becomes_folders_with_the_bytes_unchanged(shards, tmp_path):
    files, rows = shards
    assert parquet_to_folder(files, tmp_path / "out", "office_home") == 30
    written = {
        f"{row['domain']}/{CLASSES[row['label']]}/{i:06d}_{i}.jpg": row["image"]["bytes"]
        for i, row in enumerate(rows)
    }
    assert files_in(tmp_path / "out") == sorted(written)
    assert all((tmp_path / "out" / name).read_bytes() == data for name, data in written.items())


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 30), st.sets(st.integers(0, 29), max_size=5))
def test_an_interrupted_conversion_goes_on(tmp_path_factory, stop, lost):
    folder = tmp_path_factory.mktemp("conversion")
    rows = rows_of(30)
    files = [
        write_shard(folder / "0.parquet", rows[:13]),
        write_shard(folder / "1.parquet", rows[13:]),
    ]
    parquet_to_folder(files, folder / "whole")
    with pytest.MonkeyPatch.context() as patch:
        move, moves = os.replace, iter(range(stop))
        patch.setattr(
            os, "replace", lambda *names: move(*names) if next(moves, None) is not None else 1 / 0
        )
        with nullcontext() if stop == 30 else pytest.raises(ZeroDivisionError):
            parquet_to_folder(files, folder / "resumed")
    names = files_in(folder / "whole")
    there = {name for name in names if (folder / "resumed" / name).exists()}
    assert len(there) == stop
    for name in there & {names[i] for i in lost}:
        (folder / "resumed" / name).unlink()
    kept = {
        name: os.stat(folder / "resumed" / name).st_ino for name in there - {names[i] for i in lost}
    }
    assert parquet_to_folder(files, folder / "resumed") == 30
    assert files_in(folder / "resumed") == names
    assert all(
        (folder / "resumed" / n).read_bytes() == (folder / "whole" / n).read_bytes() for n in names
    )
    assert {
        name: os.stat(folder / "resumed" / name).st_ino for name in kept
    } == kept  # not written again


def test_domains_as_numbers_and_labels_as_strings(tmp_path):
    rows = [{"image": {"bytes": picture(0), "path": None}, "domain": 1, "label": "Bed"}]
    file = write_shard(
        tmp_path / "a.parquet", rows, domain_names=("art", "real_world"), label_names=None
    )
    parquet_to_folder([file], tmp_path / "out", "office_home")
    assert files_in(tmp_path / "out") == ["Real World/Bed/000000.jpg"]
    parquet_to_folder([file], tmp_path / "own")
    assert files_in(tmp_path / "own") == ["real_world/Bed/000000.jpg"]


@pytest.mark.parametrize(
    ("stored", "kind", "name"),
    [
        (None, "PNG", "000000.png"),
        ("dir/pic_001.jpg", "JPEG", "000000_pic_001.jpg"),
        (r"C:\pictures\a b.JPEG", "JPEG", "000000_a b.JPEG"),
        ("../../etc/x.png", "PNG", "000000_x.png"),
        ("noname", "WEBP", "000000_noname.webp"),
    ],
)
def test_image_names(tmp_path, stored, kind, name):
    rows = [{"image": {"bytes": picture(0, kind), "path": stored}, "domain": "Art", "label": 0}]
    parquet_to_folder([write_shard(tmp_path / "a.parquet", rows)], tmp_path / "out")
    assert files_in(tmp_path / "out") == [f"Art/Alarm_Clock/{name}"]


def test_what_is_no_image_is_kept_for_the_check(tmp_path):
    rows = [{"image": {"bytes": b"<html>", "path": None}, "domain": "Art", "label": 0}]
    parquet_to_folder([write_shard(tmp_path / "a.parquet", rows)], tmp_path / "out")
    assert (tmp_path / "out/Art/Alarm_Clock/000000.jpg").read_bytes() == b"<html>"


@pytest.mark.parametrize(
    ("change", "dataset", "message"),
    [
        (
            {"domain": "Painting"},
            "office_home",
            "the domain 'Painting' is none of Art, Clipart, Product, Real World",
        ),
        ({"domain": "../up"}, None, "the domain '../up' cannot be a folder's name"),
        ({"domain": ".hidden"}, None, "the domain '.hidden' cannot be a folder's name"),
        ({"label": 3}, None, "the label 3 cannot be a folder's name"),
        ({"label": -1}, None, "the label -1 cannot be a folder's name"),
        (
            {"image": {"bytes": None, "path": "a.jpg"}},
            None,
            "row 0 of .* has no image bytes, only the path 'a.jpg'",
        ),
    ],
)
def test_rows_that_cannot_be_written(tmp_path, change, dataset, message):
    file = write_shard(tmp_path / "a.parquet", [rows_of(1)[0] | change])
    with pytest.raises(ValueError, match=message):
        parquet_to_folder([file], tmp_path / "out", dataset)
    assert not (tmp_path / "up").exists()


def test_parquet_files_of_another_schema(tmp_path):
    pq.write_table(pa.table({"image": [b""], "label": [1]}), tmp_path / "a.parquet")
    with pytest.raises(
        ValueError, match=r"a\.parquet has no column \['domain'\]; it has \['image', 'label'\]"
    ):
        parquet_to_folder([tmp_path / "a.parquet"], tmp_path / "out")
    nameless = write_shard(tmp_path / "b.parquet", rows_of(1), metadata=False)
    with pytest.raises(ValueError, match=r"'label' of .* holds int64 values without names"):
        parquet_to_folder([nameless], tmp_path / "out")


# -------------------------------------------------------------------------------------------------
# archives


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.mkdir("sketch")
        for name, data in files.items():
            zipped.writestr(name, data)
    return path


ARCHIVE = {
    "top/README.txt": b"read me",
    "top/n01/a.JPEG": b"1",
    "top/n01/b.JPEG": b"2",
    "top/n02/a.jpeg": b"3",
    "top/n02/notes.txt": b"4",
    "top/n02/._a.jpeg": b"5",
    "__MACOSX/top/n02/c.jpg": b"6",
    "lonely.jpg": b"7",
    "../../escape/../x.jpg": b"8",
}


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_archives_are_unpacked(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "zip":
        write_zip(path, ARCHIVE)
    else:
        write_tar(path, ARCHIVE, "w:gz" if kind == "tar.gz" else "w")
    (tmp_path / "deep/er").mkdir(parents=True)
    out = tmp_path / "deep/er/out"
    (out / "n01").mkdir(parents=True)
    (out / "n01/a.JPEG").write_bytes(b"already there")
    before = set(files_in(tmp_path))
    assert archive_to_folder(path, out) == 4
    new = {"n01/b.JPEG": b"2", "n02/a.jpeg": b"3", "n02/c.jpg": b"6"}
    assert set(files_in(tmp_path)) - before == {f"deep/er/out/{name}" for name in new}
    assert {name: (out / name).read_bytes() for name in new} == new
    assert (out / "n01/a.JPEG").read_bytes() == b"already there"


def test_links_in_archives_are_not_followed(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind in (("t/n01/a.jpg", tarfile.SYMTYPE), ("t/n01/b.jpg", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    with pytest.raises(ValueError, match="has no images in class folders"):
        archive_to_folder(tmp_path / "a.tar", tmp_path / "out")


@pytest.mark.parametrize("kind", ["cut", "text"])
def test_damaged_archives(tmp_path, kind):
    path = write_tar(
        tmp_path / "a.tar.gz", {f"t/n01/{i}.jpg": os.urandom(9999) for i in range(9)}, "w:gz"
    )
    if kind == "cut":
        os.truncate(path, path.stat().st_size // 2)
    else:
        path.write_text("404 Not Found")
    with pytest.raises(ValueError, match=r"a\.tar\.gz' is no archive, or damaged"):
        archive_to_folder(path, tmp_path / "out")


def test_camera_traps(tmp_path):
    categories = [{"id": 1, "name": "dog"}, {"id": 5, "name": "empty"}, {"id": 9, "name": "car"}]
    images = [
        {"id": "a", "file_name": "a.jpg", "location": 38},
        {"id": "b", "file_name": "b.jpg", "location": "43"},
        {"id": "c", "file_name": "c.jpg", "location": 7},
        {"id": "d", "file_name": "d.jpg", "location": "38"},
    ]
    pairs = [("a", 1), ("a", 1), ("b", 1), ("b", 5), ("c", 1), ("d", 9)]
    content = {
        "categories": categories,
        "images": images,
        "annotations": [{"image_id": image, "category_id": category} for image, category in pairs],
    }
    annotations = write_tar(
        tmp_path / "annotations.tar.gz",
        {"x/train.json": json.dumps(content).encode(), "x/README": b""},
        "w:gz",
    )
    pictures = write_tar(
        tmp_path / "i.tar.gz", {f"x/{name}.jpg": name.encode() for name in "abcde"}, "w:gz"
    )
    domains = CATALOG["terra_incognita"].domains
    for _ in range(2):
        assert camera_traps_to_folder(pictures, annotations, tmp_path / "out", domains) == 3
    written = {
        "location_38/dog/a.jpg": b"a",
        "location_43/dog/b.jpg": b"b",
        "location_43/empty/b.jpg": b"b",
    }
    assert files_in(tmp_path / "out") == sorted(written)
    assert all((tmp_path / "out" / name).read_bytes() == data for name, data in written.items())


# ------------------------------------------------------------------------------------------
# HTTP


class Server:
    """A web server of bytes by path, which can break off, ignore ranges, or refuse."""

    def __init__(self):
        self.files, self.requests, self.break_after, self.ranges = {}, [], None, True
        self.extra_headers = {}
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.answer(body=False)

            def do_GET(self):
                self.answer(body=True)

            def answer(self, body):
                wanted = self.headers.get("Range")
                outer.requests.append((self.command, self.path, wanted))
                data = outer.files.get(self.path.partition("?")[0])
                if data is None:
                    return self.send_error(404)
                start = (
                    int(wanted.removeprefix("bytes=").split("-")[0])
                    if wanted and outer.ranges
                    else 0
                )
                if start and start >= len(data):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(data)}")
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(data) - start))
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
                for key, value in outer.extra_headers.get(self.path, {}).items():
                    self.send_header(key, value)
                self.end_headers()
                if body:
                    self.wfile.write(data[start:][: outer.break_after])

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self):
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.stop()


DATA = np.random.default_rng(0).bytes(100_000)
MD5 = hashlib.md5(DATA).hexdigest()


def test_fetch(server, tmp_path):
    server.files["/a.tar"] = DATA
    for _ in range(2):
        assert (
            fetch(WebFile(f"{server.url}/a.tar", md5=MD5), tmp_path / "a.tar").read_bytes() == DATA
        )
    assert len(server.requests) == 1
    assert files_in(tmp_path) == ["a.tar"]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, len(DATA)), st.booleans())
def test_fetch_goes_on_where_it_stopped(tmp_path_factory, there, ranges):
    path = tmp_path_factory.mktemp("resume") / "a.tar"
    path.with_name("a.tar.part").write_bytes(DATA[:there])
    server = Server()
    try:
        server.files["/a.tar"], server.ranges = DATA, ranges
        assert fetch(WebFile(f"{server.url}/a.tar"), path).read_bytes() == DATA
    finally:
        server.stop()
    assert server.requests == [("GET", "/a.tar", f"bytes={there}-" if there else None)]


def test_fetch_tries_again_while_there_is_progress(server, tmp_path):
    server.files["/a.tar"], server.break_after = DATA, 30_000
    assert fetch(WebFile(f"{server.url}/a.tar", md5=MD5), tmp_path / "a.tar").read_bytes() == DATA
    assert [wanted for *_, wanted in server.requests] == [
        None,
        *(f"bytes={i}0000-" for i in (3, 6, 9)),
    ]


def test_fetch_gives_up_without_progress_and_keeps_what_it_has(server, tmp_path):
    server.files["/a.tar"], server.break_after = DATA, 0
    (tmp_path / "a.tar.part").write_bytes(DATA[:500])
    with pytest.raises(
        RuntimeError, match=r"cannot download .*a\.tar: the connection broke off.* is kept"
    ):
        fetch(WebFile(f"{server.url}/a.tar"), tmp_path / "a.tar")
    assert (tmp_path / "a.tar.part").read_bytes() == DATA[:500]


def test_fetch_refuses_another_file(server, tmp_path):
    server.files["/a.tar"] = DATA
    with pytest.raises(RuntimeError, match=r"another MD5 hash than 00; .* run the command again"):
        fetch(WebFile(f"{server.url}/a.tar", md5="00"), tmp_path / "a.tar")
    assert files_in(tmp_path) == []
    (tmp_path / "a.tar.part").write_bytes(DATA + b"too much")
    with pytest.raises(RuntimeError, match=r"100,008 bytes of .* have arrived, but it has 100,000"):
        fetch(WebFile(f"{server.url}/a.tar"), tmp_path / "a.tar")
    assert files_in(tmp_path) == []


def test_fetch_without_a_file_or_a_server(server, tmp_path):
    with pytest.raises(RuntimeError, match=r"nothing\.tar: the server says 404 Not Found"):
        fetch(WebFile(f"{server.url}/nothing.tar"), tmp_path / "a.tar")
    server.stop()
    with pytest.raises(
        RuntimeError, match=r"(?s)refused.*no network here.*HTTPS_PROXY.*HF_ENDPOINT"
    ):
        fetch(WebFile(f"{server.url}/a.tar"), tmp_path / "a.tar")


# ------------------------------------------------------------------------------------------------
# downloads


@pytest.fixture
def known(monkeypatch):
    """Put a small data set into the catalog."""

    def put(**changes):
        entry = KnownDataset(
            name="toy",
            n_classes=3,
            versions=({"Art": 15, "Real World": 15},),
            size="30 kB",
            page="https://example.org",
            licence="None.",
            citation="",
        )
        monkeypatch.setitem(CATALOG, "toy", replace(entry, **changes))

    return put


FLAT = {"versions": ({"toy": 2},), "n_classes": 2, "flat": True}
TAR = {"t/n01/a.jpg": picture(0), "t/n02/a.jpg": picture(1)}


@pytest.fixture
def flat(server, known, tmp_path):
    """The same as an archive on the web server."""
    data = write_tar(tmp_path / "toy.tar", TAR).read_bytes()
    server.files["/toy.tar"] = data
    known(source=(WebFile(f"{server.url}/toy.tar", md5=hashlib.md5(data).hexdigest()),), **FLAT)
    return server


def test_download_of_an_archive(flat, tmp_path, capsys):
    root = download("toy", tmp_path / "data")
    assert files_in(tmp_path / "data") == ["toy/SOURCE.json", "toy/n01/a.jpg", "toy/n02/a.jpg"]
    assert (
        json.loads((root / "SOURCE.json").read_text())["files"][0]["url"] == f"{flat.url}/toy.tar"
    )
    assert "toy: 2 images, 30 kB to download. Licence: None." in capsys.readouterr().out
    assert download("toy", tmp_path / "data") == root
    assert len(flat.requests) == 1


def test_download_goes_on_after_an_error(flat, tmp_path):
    data, flat.files = flat.files, {}
    with pytest.raises(RuntimeError, match="404"):
        download("toy", tmp_path / "data")
    assert not (tmp_path / "data").exists()  # nothing came, so nothing looks like data
    flat.files = data
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("icm_study.photographs.download.archive_to_folder", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            download("toy", tmp_path / "data")
    assert len(index := flat.requests) == 2
    download("toy", tmp_path / "data")
    assert len(index) == 2  # the archive was there
    assert len(files_in(tmp_path / "data")) == 3


def test_what_has_arrived_waits_in_a_hidden_folder(flat, tmp_path):
    half = flat.files["/toy.tar"][:5000]
    part = tmp_path / "data/.toy.download/toy.tar.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(half)
    flat.break_after = 0
    with pytest.raises(RuntimeError, match=r"connection broke off.* is kept"):
        download("toy", tmp_path / "data")
    assert files_in(tmp_path / "data") == [".toy.download/toy.tar.part"]
    assert not (tmp_path / "data/toy").exists()
    flat.break_after = None
    flat.requests.clear()
    download("toy", tmp_path / "data")
    assert [wanted for *_, wanted in flat.requests] == ["bytes=5000-"]
    assert files_in(tmp_path / "data") == ["toy/SOURCE.json", "toy/n01/a.jpg", "toy/n02/a.jpg"]


def test_counts_are_checked(flat, known, tmp_path):
    known(source=CATALOG["toy"].source, **FLAT | {"versions": ({"toy": 3},)})
    with pytest.raises(RuntimeError, match="should have: toy: 2 images; toy has 3"):
        download("toy", tmp_path / "data")
    assert 'complete": false' in (tmp_path / "data/toy/SOURCE.json").read_text()


def test_own_folders_are_not_touched(flat, tmp_path):
    root = tmp_path / "data" / "toy"
    for name in ("n01/x.jpg", "n02/y.jpg"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(picture(0))
    assert download("toy", tmp_path / "data") == root  # the right images, got by hand
    (root / "n01/z.jpg").write_bytes(picture(0))
    with pytest.raises(RuntimeError, match="If the folder is your own, choose another destination"):
        download("toy", tmp_path / "data")
    assert flat.requests == []
    assert files_in(root) == ["n01/x.jpg", "n01/z.jpg", "n02/y.jpg"]


def test_by_hand(known, tmp_path, capsys):
    known(by_hand="Put it into {root}.")
    with pytest.raises(
        RuntimeError, match=r"toy cannot be downloaded by this command\. Put it into .*data/toy\."
    ):
        download("toy", tmp_path / "data")
    assert main(["toy", str(tmp_path / "data")]) == 1
    assert "Put it into" in capsys.readouterr().err
    assert main(["VLCS", str(tmp_path)]) == 1
    assert f"lie in {tmp_path}/VLCS." in capsys.readouterr().err
    with pytest.raises(ValueError, match="unknown data set"):
        download("nothing", tmp_path)
    with pytest.raises(SystemExit):
        main(["nothing"])


def test_data_got_by_hand_are_recognized(known, shards, tmp_path):
    known(by_hand="Put it into {root}.")
    parquet_to_folder(shards[0], tmp_path / "data/toy")
    assert download("toy", tmp_path / "data") == tmp_path / "data/toy"


def test_a_revision_is_for_the_hub_only(flat, tmp_path):
    with pytest.raises(ValueError, match="no revision to choose"):
        download("toy", tmp_path, revision=COMMIT)


def on_hub(server, shards, commit=COMMIT):
    """Serve Parquet files as the hub does: a listing, and files with its client's headers."""
    siblings = [{"rfilename": "README.md", "size": 1}]
    for path in shards:
        data, name = path.read_bytes(), f"data/{path.name}"
        sha = hashlib.sha256(data).hexdigest()
        siblings.append(
            {
                "rfilename": name,
                "size": len(data),
                "lfs": {"sha256": sha, "size": len(data), "pointerSize": 1},
            }
        )
        url = f"/datasets/lab/toy/resolve/{commit}/{name}"
        server.files[url] = data
        server.extra_headers[url] = {
            "X-Repo-Commit": commit,
            "ETag": f'"{sha}"',
            "Accept-Ranges": "bytes",
        }
    listing = {"id": "lab/toy", "sha": commit, "siblings": siblings, "tags": [], "private": False}
    for revision in (commit, "main"):
        server.files[f"/api/datasets/lab/toy/revision/{revision}"] = json.dumps(listing).encode()


@pytest.fixture
def hub(server, known, shards, monkeypatch):
    """The small data set on a hub on this machine, for the real client."""
    point_client_to(server.url, monkeypatch)
    on_hub(server, shards[0])
    known(source=Hub("lab/toy", COMMIT, "data/*.parquet"))
    return server


def point_client_to(url, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def shard_url(shards, i):
    return f"/datasets/lab/toy/resolve/{COMMIT}/data/{shards[0][i].name}"


def test_download_from_the_hub(hub, shards, tmp_path, monkeypatch, capsys):
    assert main(["toy", str(tmp_path / "data")]) == 0
    root = tmp_path / "data" / "toy"
    assert len(list(root.rglob("*.jpg"))) == 30
    record = json.loads((root / "SOURCE.json").read_text())
    assert (record["repository"], record["revision"], record["complete"]) == (
        "lab/toy",
        COMMIT,
        True,
    )
    assert [file["name"] for file in record["files"]] == [f"data/{path.name}" for path in shards[0]]
    assert record["files"][0]["sha256"] == hashlib.sha256(shards[0][0].read_bytes()).hexdigest()
    assert not (tmp_path / "data/.toy.download").exists()
    hub.requests.clear()
    assert main(["toy", str(tmp_path / "data")]) == 0
    assert f"{root} is complete" in capsys.readouterr().out
    assert hub.requests == []


def test_the_hub_goes_on_with_the_same_commit(hub, known, shards, tmp_path, capsys):
    missing = hub.files.pop(shard_url(shards, 2))
    assert main(["toy", str(tmp_path / "data"), "--revision", "main"]) == 1
    assert "cannot download lab/toy@main from the Hugging Face hub" in capsys.readouterr().err
    parts = tmp_path / "data/.toy.download"
    assert json.loads((parts / "SOURCE.json").read_text())["revision"] == COMMIT
    assert not (tmp_path / "data/toy").exists()  # two of three files have come
    assert main(["toy", str(tmp_path / "data"), "--revision", "f" * 40]) == 1
    error = capsys.readouterr().err
    assert "was begun with revision 0123" in error
    assert f"to begin anew, delete {parts} or" in error
    hub.files[shard_url(shards, 2)] = missing
    hub.requests.clear()
    known(source=Hub("lab/toy", "f" * 40, "data/*.parquet"))  # the catalog has a newer pin
    assert main(["toy", str(tmp_path / "data")]) == 0
    got = [path for method, path, _ in hub.requests if method == "GET" and "resolve" in path]
    assert got == [shard_url(shards, 2)]  # the others were there


def test_a_damaged_file_from_the_hub(hub, shards, tmp_path, capsys):
    data, hub.files[shard_url(shards, 0)] = (
        hub.files[shard_url(shards, 0)],
        bytes(shards[0][0].stat().st_size),
    )
    assert main(["toy", str(tmp_path / "data")]) == 1
    assert "was damaged on the way and is deleted; run the command again" in capsys.readouterr().err
    hub.files[shard_url(shards, 0)] = data
    assert main(["toy", str(tmp_path / "data")]) == 0


def test_a_repository_without_the_files(hub, tmp_path, capsys):
    on_hub(hub, [])
    assert main(["toy", str(tmp_path / "data")]) == 1
    assert "has no files 'data/*.parquet'; try another --revision" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()  # so another revision can be tried


def test_a_repository_that_is_not_there(hub, known, tmp_path):
    known(source=Hub("lab/gone", COMMIT, "data/*.parquet"))
    with pytest.raises(RuntimeError, match=r"(?s)cannot download lab/gone@0123.*404"):
        download("toy", tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_without_a_network_the_command_says_what_to_do(server, tmp_path):
    server.stop()
    done = subprocess.run(
        [sys.executable, "-m", "icm_study.photographs.download", "PACS", str(tmp_path)],
        env=os.environ | {"HF_ENDPOINT": server.url, "NO_PROXY": "127.0.0.1"},
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "PACS: 9,991 images, 191 MB to download" in done.stdout
    assert "cannot download flwrlabs/pacs@3941130" in done.stderr
    assert "If there is no network here" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------
# embeddings of real CLIPs


@pytest.fixture
def published(server, tmp_path, monkeypatch):
    """The files of a stand-in on the web server, with their sizes and hashes."""
    whole = write_stand_in(tmp_path / "source", n_pairs=12, n_names=11)
    images = [7, 3, *range(20, 40)]  # in the order of the captions, of which the last counts
    told = [{"image_id": one, "caption": f"first of {one}"} for one in images]
    told += [{"image_id": one, "caption": f"last of {one}"} for one in reversed(images)]
    categories = [{"id": i + 1, "name": f"name_{i}"} for i in range(11)][::-1]
    data = {name: (whole / name).read_bytes() for name in real_clip.FILES if name.endswith("npy")}
    data["captions_val2017.json"] = json.dumps({"annotations": told}).encode()
    data["lvis_v1_train_cat_info.json"] = json.dumps(categories).encode()
    assert set(data) == set(real_clip.FILES)
    server.files = {f"/{name}": part for name, part in data.items()}
    files = {
        name: WebFile(
            f"{server.url}/{name}", sha256=hashlib.sha256(part).hexdigest(), size=len(part)
        )
        for name, part in data.items()
    }
    monkeypatch.setattr(download_module, "FILES", files)
    return server


def test_real_clip_is_downloaded_once_and_opened(published, tmp_path, capsys):
    for _ in range(2):
        assert main(["real-clip", str(tmp_path / "data")]) == 0
    assert len(published.requests) == len(real_clip.FILES)
    assert "Licences" in capsys.readouterr().out
    clip = real_clip.open_real_clip(tmp_path / "data" / "real_clip")
    assert clip.caption[:3] == ["last of 7", "last of 3", "last of 20"]
    assert len(clip.caption) == len(clip.image) == 12
    assert clip.names == [f"name {i}" for i in range(11)]
    record = json.loads((tmp_path / "data" / "real_clip" / "SOURCE.json").read_text())
    assert len(record["files"]) == len(real_clip.FILES)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["real_clip"]


@pytest.mark.parametrize("change", ["sha256", "size"])
def test_real_clip_that_is_another_file_is_refused(published, tmp_path, capsys, change):
    name = next(iter(real_clip.FILES))
    data = bytearray(published.files[f"/{name}"])
    data[-1] ^= 1
    published.files[f"/{name}"] = bytes(data) + (b"more" if change == "size" else b"")
    assert main(["real-clip", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert ("another SHA256 hash" if change == "sha256" else "have arrived, but it has") in said
    assert not (tmp_path / "real_clip").exists()


def test_real_clip_has_no_revision_and_is_no_other_folder(published, tmp_path, capsys):
    assert main(["real-clip", str(tmp_path), "--revision", COMMIT]) == 1
    assert "no revision to choose" in capsys.readouterr().err
    (tmp_path / "real_clip").mkdir()
    (tmp_path / "real_clip" / "mine.txt").touch()
    assert main(["real-clip", str(tmp_path)]) == 1
    assert "another destination" in capsys.readouterr().err
    assert (tmp_path / "real_clip" / "mine.txt").exists()
