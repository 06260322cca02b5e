"""Where compiled code is kept: what lies there is run, so nobody else may write it."""

import os

import pytest

from recsys.features.compiled import own_folder


def test_a_folder_of_our_own_is_used_and_made(tmp_path):
    wanted = str(tmp_path / "cache" / "kernels")
    assert own_folder(wanted) == wanted
    assert os.stat(wanted).st_mode & 0o777 == 0o700
    assert own_folder(wanted) == wanted


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_folder_that_others_write_is_not_used(tmp_path, mode):
    tmp_path.chmod(mode)
    with pytest.warns(RuntimeWarning, match="others can write there"):
        found = own_folder(str(tmp_path))
    assert found != str(tmp_path)
    assert os.stat(found).st_mode & 0o777 == 0o700


def test_a_link_and_a_file_are_no_folder(tmp_path):
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").write_text("")
    for name in ("link", "file"):
        with pytest.warns(RuntimeWarning, match="not kept"):
            assert own_folder(str(tmp_path / name)) != str(tmp_path / name)
