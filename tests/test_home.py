"""The checks before anything starts: folder, disk, second instance, port."""

import os
import socket
import stat
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from app import home as home_module
from app.home import check_port, claim_home, prepare_home
from storage.errors import SettingsError

Usage = namedtuple("Usage", "total used free")


def test_home_is_created_for_its_owner_alone(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    prepare_home(home)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert (home / "run").is_dir()


def test_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(SettingsError, match=r"cannot be used .* PREFIX_STUDIO_HOME"):
        prepare_home(tmp_path / "home")


def test_full_disk_is_told_with_both_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home_module.shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 12_000_000))
    with pytest.raises(SettingsError, match="has 12 MB left; Prefix Studio needs 200 MB to start"):
        prepare_home(tmp_path)


def test_second_instance_is_refused_with_the_process_of_the_first(tmp_path: Path) -> None:
    prepare_home(tmp_path)
    first = claim_home(tmp_path)
    with pytest.raises(SettingsError, match=rf"already runs on .* \(process {os.getpid()}\)"):
        claim_home(tmp_path)
    first.release()
    claim_home(tmp_path).release()


def test_single_roles_run_beside_each_other_but_not_twice(tmp_path: Path) -> None:
    prepare_home(tmp_path)
    web, dispatcher = claim_home(tmp_path, "web"), claim_home(tmp_path, "dispatcher")
    with pytest.raises(SettingsError, match="already runs"):
        claim_home(tmp_path, "web")
    with pytest.raises(SettingsError, match="already runs"):
        claim_home(tmp_path)
    web.release()
    dispatcher.release()


def test_claim_ends_with_its_process(tmp_path: Path) -> None:
    prepare_home(tmp_path)
    code = f"from pathlib import Path; from app.home import claim_home; claim_home(Path({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
    claim_home(tmp_path).release()


def test_taken_port_is_told_with_its_remedy() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"Port {port} on 127.0.0.1 cannot be used .* PREFIX_STUDIO_PORT"):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)
