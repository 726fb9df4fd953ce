"""Trees as a container or another user may plant them, a victim that they lead to, and the modules that meet them."""

from __future__ import annotations

import array
import contextlib
import fcntl
import hashlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECRET = "the-content-of-another-users-file"
REPO, COMMIT = "org/name", "1" * 40
FILES = {
    "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
    "model.safetensors": b"weights" * 1000,
    "sub/more.bin": b"more",
}
LIMIT_SECONDS = 20


@dataclass(frozen=True)
class Ground:
    """The folder ``models`` that a container can write, with a model in a folder and one in a hub cache; and the victim."""

    base: Path

    @property
    def models(self) -> Path:
        return self.base / "srv" / "models"

    @property
    def model(self) -> Path:
        return self.models / "org" / "name"

    @property
    def cache(self) -> Path:
        return self.models / "models--org--name"

    @property
    def victim(self) -> Path:
        return self.base / "victim"

    @property
    def source(self) -> Path:
        return self.base / "brought"


def etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def lay_out(base: Path) -> Ground:
    ground = Ground(base)
    for folder in (ground.model, ground.source):
        for name, content in FILES.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    snapshot = ground.cache / "snapshots" / COMMIT
    for name, content in FILES.items():
        blob = ground.cache / "blobs" / etag(content)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))
    (ground.cache / "refs").mkdir()
    (ground.cache / "refs" / "main").write_text(COMMIT)
    ground.victim.mkdir()
    (ground.victim / "secret").write_text(SECRET)
    (ground.victim / "config.json").write_text(json.dumps({"architectures": [SECRET]}))
    (ground.victim / "model.safetensors").write_text(SECRET)
    (ground.victim / "files").mkdir()
    (ground.victim / "files" / "kept").write_text(SECRET)
    os.mkfifo(ground.victim / "fifo")
    for path in (ground.victim, *ground.victim.rglob("*")):
        path.chmod(0o750 if path.is_dir() else 0o640)
    return ground


def describe(folder: Path) -> dict[str, tuple[Any, ...]]:
    """What must not change of the victim: kind, mode, owner, size, time, number of hard links, and content."""
    found = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        seen = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(seen.st_mode) else b""
        found[str(path)] = (seen.st_mode, seen.st_uid, seen.st_gid, seen.st_size, seen.st_mtime_ns, content)
    return found


def list_files(folder: Path) -> Iterator[Path]:
    for here, _folders, names in os.walk(folder):
        yield from (Path(here) / name for name in names)


def find_secret(folder: Path) -> list[str]:
    """Regular files below a folder that hold the victim's content."""
    found = []
    for path in list_files(folder):
        seen = path.lstat()
        if stat.S_ISREG(seen.st_mode) and seen.st_size < 1 << 20 and SECRET.encode() in path.read_bytes():
            found.append(str(path))
    return found


# ------------------------------------------------------------------------------------------------------------ planting


def replace(path: Path) -> Path:
    """A path that is free: what lay there is gone."""
    if path.is_dir() and not path.is_symlink():
        subprocess.run(["rm", "-rf", str(path)], check=True)
    else:
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def plant_socket(path: Path) -> None:
    replace(path)
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def plant_deep(folder: Path, levels: int = 80) -> None:
    here = os.open(folder, os.O_RDONLY)
    for _level in range(levels):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def plant_many(folder: Path, count: int = 600) -> None:
    folder.mkdir()
    for number in range(count):
        (folder / str(number)).touch()


def set_immutable(path: Path, on: bool) -> None:
    """The attribute of chattr +i; not every file system has it."""
    with contextlib.suppress(OSError), path.open("rb") as stream:
        flags = array.array("i", [0])
        fcntl.ioctl(stream, 0x80086601, flags, True)
        flags[0] = (flags[0] | 0x10) if on else (flags[0] & ~0x10)
        fcntl.ioctl(stream, 0x40086602, flags)


def forge(folder: Path, victim: Path, **changes: Any) -> None:
    """A manifest beside the weights, as anvil_model would write it for other weights."""
    files = {
        name: {"size": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns, "sha256": etag(path.read_bytes())}
        for name in FILES
        for path in [folder / name]
        if path.is_file()
    }
    manifest = {"version": 1, "source": {"kind": "hub", "repo": "org/allowed"}, "commit": "2" * 40, "files": files, **changes}
    (folder / ".anvil-model.json").write_text(json.dumps(manifest))


def _entry(size: int) -> dict[str, Any]:
    return {"size": size, "mtime_ns": 0, "sha256": etag(SECRET.encode())}


def _device(path: Path, kind: int, numbers: tuple[int, int]) -> None:
    try:
        os.mknod(replace(path), kind | 0o666, os.makedev(*numbers))
    except PermissionError:
        path.symlink_to("/dev/zero" if kind == stat.S_IFCHR else "/dev/loop0")


def _held_lock(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    HELD.append(handle)


HELD: list[int] = []
MOUNTED: list[Path] = []
STAGING = ".anvil-staging"

Plant = Callable[[Ground], Any]
# What may lie in a model's folder, in the hub cache, and beside them.
KINDS: dict[str, Plant] = {
    "file_is_a_link_out": lambda g: replace(g.model / "model.safetensors").symlink_to(g.victim / "secret"),
    "file_is_a_relative_link_out": lambda g: replace(g.model / "config.json").symlink_to("../../../../victim/config.json"),
    "folder_is_a_link_out": lambda g: replace(g.model / "sub").symlink_to(g.victim),
    "model_is_a_link_out": lambda g: replace(g.model).symlink_to(g.victim),
    "parent_is_a_link_out": lambda g: replace(g.models / "org").symlink_to(g.victim),
    "link_to_a_device": lambda g: replace(g.model / "model.safetensors").symlink_to("/dev/zero"),
    "link_to_proc": lambda g: replace(g.model / "config.json").symlink_to("/proc/self/environ"),
    "link_to_a_fifo_out": lambda g: replace(g.model / "config.json").symlink_to(g.victim / "fifo"),
    "link_in_a_circle": lambda g: replace(g.model / "config.json").symlink_to("config.json"),
    "link_to_nothing": lambda g: replace(g.model / "config.json").symlink_to(g.victim / "new"),
    "link_to_the_folder_itself": lambda g: replace(g.model / "sub").symlink_to("."),
    "fifo": lambda g: os.mkfifo(replace(g.model / "model.safetensors")),
    "fifo_config": lambda g: os.mkfifo(replace(g.model / "config.json")),
    "socket": lambda g: plant_socket(g.model / "model.safetensors"),
    "character_device": lambda g: _device(g.model / "model.safetensors", stat.S_IFCHR, (1, 5)),
    "block_device": lambda g: _device(g.model / "model.safetensors", stat.S_IFBLK, (7, 0)),
    "hard_link_out": lambda g: os.link(g.victim / "secret", replace(g.model / "model.safetensors")),
    "sparse_terabytes": lambda g: os.truncate(g.model / "model.safetensors", _beyond_the_disk(g.model)),
    "deep_folders": lambda g: plant_deep(g.model / "sub"),
    "many_files": lambda g: plant_many(g.model / "many"),
    "name_with_newline_and_escapes": lambda g: (g.model / "a\n\x1b]0;owned\x07\x1b[2Jb").touch(),
    "name_that_is_no_utf8": lambda g: Path(os.fsdecode(os.fsencode(g.model) + b"/\xff\xfe")).touch(),
    "name_that_looks_like_an_option": lambda g: (g.model / "-rf").touch(),
    "setuid_program": lambda g: (g.model / "model.safetensors").chmod(0o6755),
    "file_without_rights": lambda g: (g.model / "model.safetensors").chmod(0),
    "folder_without_rights": lambda g: (g.model / "sub").chmod(0),
    "file_in_place_of_a_folder": lambda g: replace(g.model / "sub").write_bytes(b"x"),
    "folder_in_place_of_a_file": lambda g: (replace(g.model / "model.safetensors") / "x").mkdir(parents=True),
    "immutable_file": lambda g: set_immutable(g.model / "model.safetensors", True),
    "mount": lambda g: _mount(g.model / "sub"),
    "manifest_forged": lambda g: forge(g.model, g.victim),
    "manifest_is_a_fifo": lambda g: os.mkfifo(replace(g.model / ".anvil-model.json")),
    "manifest_is_a_link_out": lambda g: replace(g.model / ".anvil-model.json").symlink_to(g.victim / "config.json"),
    "manifest_is_huge": lambda g: os.truncate(_touched(g.model / ".anvil-model.json"), 1 << 40),
    "manifest_names_files_outside": lambda g: forge(
        g.model, g.victim, files={"../../../../victim/secret": _entry(len(SECRET)), str(g.victim / "secret"): _entry(len(SECRET))}
    ),
    "manifest_is_deep": lambda g: (g.model / ".anvil-model.json").write_text("[" * 100_000),
    "manifest_has_wrong_types": lambda g: forge(g.model, g.victim, files={"config.json": {"size": [], "sha256": {}}}),
    "manifest_names_a_commit_outside": lambda g: forge(g.cache / "snapshots" / COMMIT, g.victim, commit="../../../victim"),
    "staging_is_a_link_out": lambda g: (g.models / STAGING).symlink_to(g.victim),
    "staging_of_the_model_is_a_link_out": lambda g: _below(g.models / STAGING / "org--name").symlink_to(g.victim),
    "staged_files_are_a_link_out": lambda g: _below(g.models / STAGING / "org--name" / "files").symlink_to(g.victim / "files"),
    "staging_of_the_cache_is_a_link_out": lambda g: _below(g.models / STAGING / g.cache.name / "files").symlink_to(g.victim),
    "staging_is_a_fifo": lambda g: os.mkfifo(g.models / STAGING),
    "staging_lock_is_held": lambda g: [_held_lock(g.models / STAGING / name) for name in ("org--name", "org+name", g.cache.name)],
    "blobs_are_a_link_out": lambda g: replace(g.cache / "blobs").symlink_to(g.victim),
    "snapshots_are_a_link_out": lambda g: replace(g.cache / "snapshots").symlink_to(g.victim),
    "snapshot_is_a_link_out": lambda g: replace(g.cache / "snapshots" / COMMIT).symlink_to(g.victim),
    "snapshot_file_leads_out": lambda g: replace(g.cache / "snapshots" / COMMIT / "config.json").symlink_to(
        g.victim / "config.json"
    ),
    "snapshot_file_leads_up_and_out": lambda g: replace(g.cache / "snapshots" / COMMIT / "config.json").symlink_to(
        "../../../../../victim/config.json"
    ),
    "snapshot_folder_leads_out": lambda g: replace(g.cache / "snapshots" / COMMIT / "sub").symlink_to(g.victim),
    "blob_is_a_fifo": lambda g: os.mkfifo(replace(g.cache / "blobs" / etag(FILES["config.json"]))),
    "blob_is_a_link_out": lambda g: replace(g.cache / "blobs" / etag(FILES["config.json"])).symlink_to(g.victim / "config.json"),
    "refs_are_a_link_out": lambda g: replace(g.cache / "refs").symlink_to(g.victim),
    "ref_is_a_fifo": lambda g: os.mkfifo(replace(g.cache / "refs" / "main")),
    "ref_is_a_link_out": lambda g: replace(g.cache / "refs" / "main").symlink_to(g.victim / "secret"),
    "ref_leads_out": lambda g: (g.cache / "refs" / "main").write_text("../../../victim"),
    "cache_is_a_link_out": lambda g: replace(g.cache).symlink_to(g.victim),
    # Invented afterwards, against the code as it was then.
    "records_planted_in_the_folder": lambda g: _plant_records(g.models / ".anvil-serving" / "org" / "name"),
    "records_planted_in_the_parent": lambda g: _plant_records(g.models / "org" / ".anvil-serving" / "name" / "x"),
    "folder_named_like_the_record_of_another": lambda g: forge(_copied(g, "org+name"), g.victim),
    "link_to_the_record": lambda g: replace(g.model / "config.json").symlink_to(
        "../../../.anvil-serving/models/org+name/manifest.json"
    ),
    "link_to_an_open_descriptor": lambda g: replace(g.model / "config.json").symlink_to("/proc/self/fd/0"),
    "link_to_the_root_of_init": lambda g: replace(g.model / "config.json").symlink_to("/proc/1/root/etc/shadow"),
    "link_to_the_working_folder": lambda g: replace(g.model / "sub").symlink_to("/proc/self/cwd"),
    "link_to_the_terminal": lambda g: replace(g.model / "config.json").symlink_to("/dev/tty"),
    "chain_of_fifty_links": lambda g: _chain(g.model, 50),
    "links_to_each_other": lambda g: _chain(g.model, 2, closed=True),
    "link_through_dots": lambda g: replace(g.model / "config.json").symlink_to("sub/../" * 40 + "../../../../victim/config.json"),
    "link_through_a_link": lambda g: [
        (g.model / "sub" / "up").symlink_to(".."),
        replace(g.model / "config.json").symlink_to("sub/up/" * 10 + "../../../../victim/config.json"),
    ],
    "whiteout": lambda g: _device(g.model / "whiteout", stat.S_IFCHR, (0, 0)),
    "parent_is_a_fifo": lambda g: os.mkfifo(replace(g.models / "org")),
    "parent_is_a_file": lambda g: replace(g.models / "org").write_bytes(b"x"),
    "folders_with_the_setgid_bit": lambda g: [path.chmod(0o6777) for path in (g.models / "org", g.model, g.cache)],
    "longest_names": lambda g: [(g.model / (letter * 255)).touch() for letter in "ab"],
    "name_with_reversed_text": lambda g: (g.model / "\u202egnp.exe").touch(),
    "name_of_our_half_written_files": lambda g: [
        (g.model / ".anvil-0123456789abcdef").symlink_to(g.victim),
        plant_many(g.cache / ".anvil-x", 5),
    ],
    "zip_with_a_link": lambda g: _zip(g.model / "model.safetensors", "../../../victim/new", SECRET.encode()),
    "zip_that_lies_about_its_size": lambda g: _zip(g.model / "model.safetensors", "w.bin", bytes(8 << 20), claimed=10),
    "blobs_is_a_file": lambda g: replace(g.cache / "blobs").write_bytes(b"x"),
    "blob_is_a_folder_with_links": lambda g: [
        (replace(g.cache / "blobs" / etag(FILES["config.json"])) / "x").mkdir(parents=True),
        (g.cache / "blobs" / etag(FILES["config.json"]) / "y").symlink_to(g.victim),
    ],
    "ref_is_a_folder": lambda g: (replace(g.cache / "refs" / "main") / "x").mkdir(parents=True),
    "ref_is_endless": lambda g: replace(g.cache / "refs" / "main").symlink_to("/dev/zero"),
    "no_exist_and_locks_are_links_out": lambda g: [(g.cache / name).symlink_to(g.victim) for name in (".no_exist", ".locks")],
    "snapshot_of_another_repository": lambda g: replace(g.cache / "snapshots" / COMMIT / "config.json").symlink_to(
        "../../../models--other--x/blobs/secret"
    ),
    "hidden_folders": lambda g: [plant_many(g.model / name, 20) for name in (".git", "...", ". ")],
}


# A file of the tree has the content of the victim, by a hard link or as a copy of its own.
SHARED = ("hard_link_out", "zip_with_a_link")


def _plant_records(folder: Path) -> None:
    """Records as root would write them, for a model of an allowed origin."""
    folder.mkdir(parents=True)
    manifest = {"version": 1, "source": {"kind": "hub", "repo": "org/allowed"}, "commit": "2" * 40, "files": {}}
    for place in (folder, folder.parent):
        (place / "manifest.json").write_text(json.dumps(manifest))
        (place / "older.json").write_text("{}")


def _copied(ground: Ground, name: str) -> Path:
    (ground.models / name).mkdir()
    for path in FILES:
        (ground.models / name / path).parent.mkdir(exist_ok=True)
        (ground.models / name / path).write_bytes(FILES[path])
    return ground.models / name


def _chain(folder: Path, count: int, closed: bool = False) -> None:
    replace(folder / "config.json").symlink_to("link0")
    for number in range(count):
        (folder / f"link{number}").symlink_to(f"link{number + 1}")
    (folder / f"link{count}").symlink_to("link0" if closed else "../../../../victim/config.json")


def _zip(path: Path, name: str, content: bytes, claimed: int | None = None) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    if claimed is not None:
        raw = path.read_bytes()
        path.write_bytes(raw.replace(len(content).to_bytes(4, "little"), claimed.to_bytes(4, "little")))


def _beyond_the_disk(folder: Path) -> int:
    seen = os.statvfs(folder)
    return min(2 * seen.f_blocks * seen.f_frsize, 15 << 40)


def _below(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    return path


def _touched(path: Path) -> Path:
    path.touch()
    return path


def _mount(path: Path) -> None:
    """A file system in the model's folder; a folder where this user may not mount."""
    if subprocess.run(["mount", "-t", "tmpfs", "none", str(path)], check=False, capture_output=True).returncode == 0:
        MOUNTED.append(path)
        (path / "kept").write_text("kept")


def disown_links(ground: Ground) -> None:
    """Make another user the owner of the planted links; this needs root."""
    for folder, folders, names in os.walk(ground.models):
        for path in (os.path.join(folder, name) for name in (*folders, *names)):
            if os.path.islink(path) and os.geteuid() == 0:
                os.lchown(path, 65534, 65534)


def clean_up(base: Path) -> None:
    """Release locks and mounts, so that the tree can be removed."""
    while HELD:
        os.close(HELD.pop())
    while MOUNTED:
        MOUNTED.pop()
        for here, folders, _names in os.walk(base):
            for place in folders:
                if os.path.ismount(os.path.join(here, place)):
                    subprocess.run(["umount", os.path.join(here, place)], check=True, capture_output=True)
    for place in list_files(base):
        if stat.S_ISREG(place.lstat().st_mode):
            set_immutable(place, False)


# ---------------------------------------------------------------------------------------------------------- the judge


class HangError(AssertionError):
    """An action did not end in time."""


@contextlib.contextmanager
def limit_seconds(seconds: int = LIMIT_SECONDS) -> Iterator[None]:
    def stop(*_args: Any) -> None:
        raise HangError(f"not finished within {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


SWAP = """
import os, sys
folder, pairs = sys.argv[1], [pair.split("=") for pair in sys.argv[2:]]
os.chdir(folder)
if os.geteuid() == 0:
    os.setgid(65534); os.setuid(65534)
print("ready", flush=True)
while True:
    for name, other in pairs:
        try:
            os.rename(name, "aside"); os.rename(other, name); os.rename(name, other)
        except OSError:
            pass
        try:
            os.rename("aside", name)
        except OSError:
            pass
"""


@contextlib.contextmanager
def swap_in_a_loop(folder: Path, links: Mapping[str, Path]) -> Iterator[None]:
    """Another user, who swaps paths below a folder for links as fast as it can. links: path below the folder -> target."""
    for number, target in enumerate(links.values()):
        (folder / f"link{number}").symlink_to(target)
    own_by_others(folder)
    pairs = [f"{name}=link{number}" for number, name in enumerate(links)]
    process = subprocess.Popen([sys.executable, "-c", SWAP, str(folder), *pairs], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process:
        process.stdout.readline()
        try:
            yield
            assert process.poll() is None
        finally:
            process.kill()


def open_to_others(folder: Path) -> None:
    """Let other users reach the folder of a test."""
    for path in (folder, *folder.parents):
        if path.stat().st_uid == os.geteuid() and path.stat().st_mode & 0o777 == 0o700:
            path.chmod(0o755)


def own_by_others(folder: Path) -> None:
    """Make another user the owner of a folder and of all in it, without following a link that is put there; this needs root."""
    if os.geteuid() != 0:
        return
    os.chown(folder, 65534, 65534)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # swapped meanwhile
        for _here, folders, names, handle in os.fwalk(folder):
            for name in (*folders, *names):
                os.chown(name, 65534, 65534, dir_fd=handle, follow_symlinks=False)
