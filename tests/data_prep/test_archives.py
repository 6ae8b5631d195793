"""Hostile and damaged zips and PNGs are refused with the member's name; odd but honest names are not."""

from __future__ import annotations

import stat
import struct
import unicodedata
import warnings
import zipfile

import numpy as np
import pytest

from data_prep import archive as archive_module
from data_prep.archive import CheckedZip
from data_prep.omniglot import characters, content_digest, decode_drawing
from seqgen.core.errors import BadInput


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
def test_a_member_that_leads_elsewhere_is_refused_by_name(tmp_path, name, problem):
    info = zipfile.ZipInfo("x")
    info.filename = name  # the constructor would clean it
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, b"")
    with pytest.raises(BadInput, match=problem) as caught:
        CheckedZip(tmp_path / "a.zip")
    assert repr(name) in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_are_refused(tmp_path, kind):
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
def test_two_members_of_one_name_are_refused(tmp_path, first, second, problem):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr(first, b"1")
        archive.writestr(second, b"2")
    with pytest.raises(BadInput, match=problem):
        CheckedZip(tmp_path / "a.zip")


def test_an_encrypted_member_is_refused(make, tmp_path):
    path = make.zip(tmp_path / "a.zip", {"set/a.png": b"secret"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"'set/a.png': encrypted"):
        CheckedZip(path)


def test_bombs_are_refused_before_they_unpack(make, tmp_path, monkeypatch):
    bomb = make.zip(tmp_path / "bomb.zip", {"set/a.png": bytes(50_000_000)})
    assert bomb.stat().st_size < 100_000
    with pytest.raises(BadInput, match=r"'set/a.png': unpacks to 50000000"):
        CheckedZip(bomb)

    monkeypatch.setattr(archive_module, "MAX_TOTAL_BYTES", 100)
    with pytest.raises(BadInput, match=r"'b': unpacked size"):
        CheckedZip(make.zip(tmp_path / "sum.zip", {"a": bytes(90), "b": bytes(90)}))

    monkeypatch.setattr(archive_module, "MAX_MEMBERS", 3)
    with pytest.raises(BadInput, match="4 members"):
        CheckedZip(make.zip(tmp_path / "many.zip", {f"{n}": b"" for n in range(4)}))


def test_a_member_longer_than_it_says_is_damaged(make, tmp_path):
    path = make.zip(tmp_path / "a.zip", {"set/a.png": bytes(5000)})
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\x01\x02") + 24, 10)
    path.write_bytes(content)
    with CheckedZip(path) as archive, pytest.raises(BadInput, match=r"'set/a.png': damaged"):
        archive.read("set/a.png")


@pytest.mark.parametrize("damage", ["cut", "not a zip", "payload"])
def test_a_damaged_zip_is_refused(make, tmp_path, damage):
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


def test_the_content_digest_is_that_of_any_packing(make, tmp_path):
    members = make.character("set/Alpha/character01")
    one = make.zip(tmp_path / "1.zip", members)
    with zipfile.ZipFile(tmp_path / "2.zip", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("set/", b"")
        for name in reversed(members):
            archive.writestr(zipfile.ZipInfo(name, (1999, 1, 1, 0, 0, 0)), members[name])
        archive.writestr("__MACOSX/set/._x", b"Finder")
        archive.writestr("set/.DS_Store", b"Finder")
    assert one.read_bytes() != (tmp_path / "2.zip").read_bytes()
    assert content_digest(one) == content_digest(tmp_path / "2.zip")
    members["set/Alpha/character01/0001_07.png"] = make.png(99)
    assert content_digest(make.zip(tmp_path / "3.zip", members)) != content_digest(one)


def _characters(path):
    with CheckedZip(path) as archive:
        return characters(archive)


def test_characters_are_found_in_order_whatever_their_alphabets_are_called(make, tmp_path):
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
def test_what_is_not_omniglots_layout_is_refused(make, tmp_path, change, problem):
    members = make.character("set/Alpha/character01")
    change(members)
    with pytest.raises(BadInput, match=problem):
        _characters(make.zip(tmp_path / "a.zip", members))


def test_ink_is_one(make):
    assert np.array_equal(decode_drawing(make.png(3), "x"), ~_pixels(make.png(3)))


def _pixels(png):
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)))


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
def test_a_wrong_png_is_refused(make, damage, problem):
    with pytest.raises(BadInput, match=problem) as caught:
        decode_drawing(damage(make), "where it was")
    assert "where it was" in str(caught.value)
