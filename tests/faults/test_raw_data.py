"""Faults of raw files and archives: what is refused, by which name, and what is left behind."""

from __future__ import annotations

import gzip
import hashlib
import io
import socket
import stat
import struct
import unicodedata
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from data_prep import fetch as fetch_module
from data_prep.archive import CheckedZip
from data_prep.fetch import fetch
from data_prep.idx import read_images, read_labels, read_pair
from data_prep.omniglot import characters, content_digest, decode_drawing
from data_prep.sources import RAW_FILES, RawFile
from seqgen.core.errors import BadInput, OperationalError
from tests.file_server import CONTENT, DIGEST, Server, published, serving
from tests.raw_files import Make
from tests.verb_process import verb


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(fetch_module, "_PAUSE", 0.01)
    with serving() as state:
        yield state


@pytest.fixture
def one_file(server: Server, monkeypatch: pytest.MonkeyPatch) -> RawFile:
    """Make the source mnist one file, `mnist/file.bin`, published on the server."""
    file = published(server)
    monkeypatch.setitem(RAW_FILES, "mnist", (file,))
    return file


def _names(path):
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())


# 28: a raw file that is not the pinned one


def test_28_a_mismatch_is_set_aside_and_named(server, one_file, tmp_path):
    server.files["official/file.bin"] = CONTENT[:-1] + b"!"
    with pytest.raises(BadInput) as caught:
        fetch(["mnist"], tmp_path)
    actual = hashlib.sha256(CONTENT[:-1] + b"!").hexdigest()
    for part in (DIGEST, actual, server.url, "file.bin.bad"):
        assert part in str(caught.value)
    assert _names(tmp_path) == ["mnist/file.bin.bad"]


def test_28_a_damaged_file_in_a_mirror_is_not_used(one_file, tmp_path):
    (tmp_path / "mirror/mnist").mkdir(parents=True)
    (tmp_path / "mirror/mnist/file.bin").write_bytes(CONTENT[:-5])
    with pytest.raises(BadInput, match=r"mirror/mnist/file\.bin: expected sha256"):
        fetch(["mnist"], tmp_path / "raw", str(tmp_path / "mirror"))
    assert _names(tmp_path / "raw") == ["mnist/file.bin.bad"]
    assert (tmp_path / "mirror/mnist/file.bin").is_file()


def test_28_a_wrong_raw_file_ends_with_2_and_is_never_used(server, make, tmp_path):
    wrong = make.idx_images(tmp_path / "wrong.gz", 3).read_bytes()
    server.files["mnist/train-images-idx3-ubyte.gz"] = wrong
    asked = ("--recipe", "quickstart", "--set", "data.source=mnist")
    done = verb(tmp_path, "fetch", *asked, "--mirror", server.url)
    assert done.returncode == 2
    pinned = RAW_FILES["mnist"][0].sha256[0]
    url = f"{server.url}/mnist/train-images-idx3-ubyte.gz"
    for part in (pinned, hashlib.sha256(wrong).hexdigest(), url, "train-images-idx3-ubyte.gz.bad"):
        assert part in done.stderr
    raw = tmp_path / "artifacts/quickstart/raw"
    assert _names(raw) == ["mnist/train-images-idx3-ubyte.gz.bad"]
    done = verb(tmp_path, "shard", *asked)
    assert done.returncode == 2
    assert "train-images-idx3-ubyte.gz: not fetched" in done.stderr


# 29: a transfer that breaks off, or brings something else


def test_29_a_cut_download_goes_on_by_range(server, one_file, tmp_path):
    server.cuts = [1_500_000, 100_000]
    fetch(["mnist"], tmp_path)
    assert (tmp_path / "mnist/file.bin").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, "bytes=1500000-", "bytes=1600000-"]


def test_29_a_killed_download_goes_on_at_the_next_call(server, one_file, tmp_path):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist/file.bin.part").write_bytes(CONTENT[:3_000_000])
    fetch(["mnist"], tmp_path)
    assert (tmp_path / "mnist/file.bin").read_bytes() == CONTENT
    assert server.requests == [("/official/file.bin", "bytes=3000000-")]
    assert _names(tmp_path) == ["mnist/file.bin"]


def test_29_an_outage_does_not_cost_what_is_here_already(server, one_file, tmp_path):
    (tmp_path / "mnist").mkdir()
    part = tmp_path / "mnist/file.bin.part"
    part.write_bytes(CONTENT[:3_000_000])
    server.failures = [503] * 4
    with pytest.raises(OperationalError, match="HTTP 503"):
        fetch(["mnist"], tmp_path)
    assert part.read_bytes() == CONTENT[:3_000_000]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("part", [b"x" * 3_000_000, CONTENT, CONTENT + b"more"])
def test_29_a_part_that_does_not_fit_is_started_again(server, one_file, tmp_path, part, ranges):
    server.ranges = ranges
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist/file.bin.part").write_bytes(part)
    fetch(["mnist"], tmp_path)
    assert (tmp_path / "mnist/file.bin").read_bytes() == CONTENT


def test_29_a_server_that_fails_for_a_while_is_tried_again(server, one_file, tmp_path):
    server.failures = [503, 500, 429]
    fetch(["mnist"], tmp_path)
    assert len(server.requests) == 4


@pytest.mark.parametrize("declared", [True, False])
def test_29_a_web_page_in_place_of_the_file_is_refused(server, one_file, tmp_path, declared):
    server.files["official/file.bin"] = b"\n<!DOCTYPE html><p>Log in to the hotel"
    server.html = declared
    with pytest.raises(OperationalError, match="page"):
        fetch(["mnist"], tmp_path)
    assert _names(tmp_path) == []


def test_29_404_and_no_network_end_in_one_error_naming_every_place(server, one_file, tmp_path, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/x"
        monkeypatch.setitem(
            RAW_FILES, "mnist", (RawFile("mnist", "file.bin", (f"{server.url}/no", nobody), (DIGEST,)),)
        )
        with pytest.raises(OperationalError) as caught:
            fetch(["mnist"], tmp_path)
    for part in ("mnist/file.bin", f"{server.url}/no: HTTP 404", f"{nobody}: cannot be reached", "--mirror"):
        assert part in str(caught.value)
    assert len(server.requests) == 1  # a 404 is not asked again
    assert _names(tmp_path) == []


def test_29_an_endless_answer_stops(server, one_file, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_module, "MAX_BYTES", 2_000_000)
    with pytest.raises(OperationalError, match="longer than 2,000,000"):
        fetch(["mnist"], tmp_path)


# 30: hostile and damaged archives


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("../evil.png", "outside"),
        ("set/../../evil.png", "outside"),
        ("/etc/evil.png", "absolute"),
        ("C:/evil.png", "drive letter"),
        ("set\\evil.png", "backslash"),
        ("set/ev\x00il.png", "control character"),
        ("set/ev\nil.png", "control character"),
    ],
)
def test_30_a_member_that_leads_elsewhere_is_refused_by_name(tmp_path, name, problem):
    info = zipfile.ZipInfo("x")
    info.filename = name  # the constructor would clean it
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, b"")
    with pytest.raises(BadInput, match=problem) as caught:
        CheckedZip(tmp_path / "a.zip")
    assert repr(name) in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_30_links_and_devices_are_refused(tmp_path, kind):
    info = zipfile.ZipInfo("set/link.png")
    info.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, b"/etc/passwd")
    with pytest.raises(BadInput, match=r"'set/link.png': a link or a device"):
        CheckedZip(tmp_path / "a.zip")


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [
        ("set/a.png", "set/a.png", "stands twice"),
        ("set/a.png", "set/A.png", "by case alone"),
        ("set/Abc/1.png", "set/aBC/2.png", "by case alone"),
        (unicodedata.normalize("NFC", "é.png"), unicodedata.normalize("NFD", "é.png"), "stands twice"),
    ],
)
def test_30_two_members_of_one_name_are_refused(tmp_path, first, second, problem):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr(first, b"1")
        archive.writestr(second, b"2")
    with pytest.raises(BadInput, match=problem):
        CheckedZip(tmp_path / "a.zip")


def test_30_an_encrypted_member_is_refused(make, tmp_path):
    path = make.zip(tmp_path / "a.zip", {"set/a.png": b"secret"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"'set/a.png': encrypted"):
        CheckedZip(path)


def test_30_bombs_are_refused_before_they_unpack(make, tmp_path):
    bomb = make.zip(tmp_path / "bomb.zip", {"set/a.png": bytes(50_000_000)})
    assert bomb.stat().st_size < 100_000
    with pytest.raises(BadInput, match=r"'set/a.png': unpacks to 50000000"):
        CheckedZip(bomb)

    with pytest.raises(BadInput, match=r"'4096': unpacked size passes 268435456 bytes"):
        CheckedZip(make.zip(tmp_path / "sum.zip", {f"{n:04d}": bytes(2**16) for n in range(4097)}))
    with pytest.raises(BadInput, match="100001 members; at most 100000"):
        CheckedZip(make.zip(tmp_path / "many.zip", dict.fromkeys(map(str, range(100_001)), b"")))


def test_30_a_member_longer_than_it_says_is_damaged(make, tmp_path):
    path = make.zip(tmp_path / "a.zip", {"set/a.png": bytes(5000)})
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\x01\x02") + 24, 10)
    path.write_bytes(content)
    with CheckedZip(path) as archive, pytest.raises(BadInput, match=r"'set/a.png': damaged"):
        archive.read("set/a.png")


@pytest.mark.parametrize("damage", ["cut", "not a zip", "payload"])
def test_30_a_damaged_zip_is_refused(make, tmp_path, damage):
    path = make.zip(tmp_path / "a.zip", make.character("set/Alpha/character01"))
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-100])
    elif damage == "not a zip":
        path.write_bytes(b"<html>no</html>")
    else:
        content[200] ^= 0xFF
        path.write_bytes(content)
    with pytest.raises(BadInput, match=r"a\.zip"):
        content_digest(path)


def _repacked(make: Make, path: Path, name: str, png: bytes) -> None:
    """An archive of one whole character, and one member more."""
    members = make.character("images_background/Alpha/character01")
    make.zip(path, members)
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("x")
        info.filename = name
        archive.writestr(info, png)


def test_30_a_hostile_archive_ends_the_verb_with_2_and_nothing_is_written(make, tmp_path):
    raw = tmp_path / "artifacts/quickstart-characters/raw/omniglot_strokes"
    make.strokes(raw.parent)
    before = _names(tmp_path)
    _repacked(make, raw / "images_background.zip", "../../evil.png", make.png())
    done = verb(tmp_path, "shard", "--recipe", "quickstart-characters")
    assert done.returncode == 2
    assert "images_background.zip: member '../../evil.png': leads outside the archive" in done.stderr
    assert _names(tmp_path) == before


# 31: IDX files


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (struct.pack(">4I", 0x801, 1, 28, 28) + bytes(784), "offset 0: magic number 0x00000801"),
        (struct.pack(">4I", 0x803, 1, 28, 27) + bytes(784), r"offset 8: items of \[28, 27\]"),
        (struct.pack(">4I", 0x803, 2, 28, 28) + bytes(1000), "offset 1016: ends here"),
        (struct.pack(">4I", 0x803, 1, 28, 28) + bytes(785), "offset 800: bytes after the last"),
        (struct.pack(">4I", 0x803, 2**31, 28, 28), "offset 4: 2147483648 items"),
        (b"\0\0\x08\x03\0", "offset 5: ends within the header"),
        (b"", "offset 0: ends within the header"),
    ],
)
def test_31_a_wrong_idx_is_refused_with_its_offset(tmp_path, content, problem):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(BadInput, match=rf"images\.gz: {problem}"):
        read_images(path)


def test_31_labels_and_counts_are_checked(make, tmp_path):
    with pytest.raises(BadInput, match="offset 10: label 10"):
        read_labels(make.idx_labels(tmp_path / "l.gz", [1, 2, 10]))
    with pytest.raises(BadInput, match="offset 11: ends here"):
        read_labels(make.idx_labels(tmp_path / "l.gz", [1, 2, 3], count=4))
    with pytest.raises(BadInput, match=r"2 labels, but i\.gz has 3 images"):
        read_pair(make.idx_images(tmp_path / "i.gz", 3), make.idx_labels(tmp_path / "l.gz", [1, 2]))


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b"<html>", lambda b: b[:-8] + bytes(8)])
def test_31_a_damaged_gzip_is_refused(make, tmp_path, damage):
    path = make.idx_images(tmp_path / "i.gz", 2)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BadInput, match=r"i\.gz: not a whole gzip"):
        read_images(path)


# 32: Omniglot's drawings


def _characters(path):
    with CheckedZip(path) as archive:
        return characters(archive)


def test_32_characters_are_found_in_order_whatever_their_alphabets_are_called(make, tmp_path):
    names = ["Syriac_(Serto)", "Anglo-Saxon_Futhorc", "N_Ko", "Ge ez", unicodedata.normalize("NFD", "Éwé")]
    members: dict[str, bytes] = {}
    for name in names:
        members |= make.character(f"set/{name}/character02") | make.character(f"set/{name}/character01")
    found = _characters(make.zip(tmp_path / "a.zip", members))
    expected = ["Anglo-Saxon_Futhorc", "Ge ez", "N_Ko", "Syriac_(Serto)", "\xc9w\xe9"]
    assert [c.concept for c in found] == [f"{a}/character0{n}" for a in expected for n in (1, 2)]
    assert [name[-6:-4] for name in found[0].members] == [f"{n:02d}" for n in range(1, 21)]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda m: m.pop("set/Alpha/character01/0001_13.png"), "Alpha/character01 has drawers"),
        (lambda m: m.update({"set/Alpha/character01/0002_13.png": b""}), "second drawing by drawer 13"),
        (lambda m: m.update({"set/Alpha/character01/0001_21.png": b""}), "Alpha/character01 has drawers"),
        (lambda m: m.update({"set/Alpha/readme.txt": b""}), "readme.txt"),
        (lambda m: m.update({"other/Alpha/character09/0001_01.png": b""}), "2 top folders"),
        (lambda m: m.clear(), "0 top folders"),
    ],
)
def test_32_what_is_not_omniglots_layout_is_refused(make, tmp_path, change, problem):
    members = make.character("set/Alpha/character01")
    change(members)
    with pytest.raises(BadInput, match=problem):
        _characters(make.zip(tmp_path / "a.zip", members))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda make: make.png(size=(104, 105)), r"1 \(104, 105\)"),
        (lambda make: make.png(mode="L"), r"L \(105, 105\)"),
        (lambda make: make.png(mode="RGB"), "RGB"),
        (lambda make: make.png()[:-300], "PNG"),
        (lambda make: make.png()[:-12], "cut short"),
        (lambda make: make.png()[:20], "PNG"),
        (lambda make: b"GIF89a" + make.png(), "PNG"),
        (lambda make: make.png()[:16] + b"\x00\x01\x00\x00" * 2 + make.png()[24:], "where"),
        (lambda make: b"", "PNG"),
    ],
)
def test_32_a_wrong_png_is_refused(make, damage, problem):
    with pytest.raises(BadInput, match=problem) as caught:
        decode_drawing(damage(make), "where it was")
    assert "where it was" in str(caught.value)


def test_32_a_decompression_bomb_is_refused_by_its_size_and_not_decoded(make):
    picture = io.BytesIO()
    Image.new("1", (40_000, 40_000)).save(picture, "PNG", compress_level=9)
    assert len(picture.getvalue()) < 1_000_000, "small on disk, and 200 MB of bits"
    with pytest.raises(BadInput, match="where it was"):
        decode_drawing(picture.getvalue(), "where it was")
