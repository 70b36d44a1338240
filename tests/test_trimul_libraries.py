"""Libraries kept between processes."""

from sia_nb.tasks.files import Files
from sia_nb.tasks.trimul.libraries import Libraries


def test_what_one_process_built_the_next_one_finds(tmp_path):
    kept, one, two = Libraries(tmp_path / "kept", Files("trimul", "make data")), tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    (one / "passes_0123.so").write_bytes(b"machine code")
    (one / "other.so").write_bytes(b"not of the kit's programs")
    kept.give(two)
    assert not list(two.iterdir())
    kept.keep(one)
    kept.keep(one)
    kept.give(two)
    assert [(p.name, p.read_bytes()) for p in two.iterdir()] == [("passes_0123.so", b"machine code")]


def test_a_damaged_one_is_removed_and_built_anew(tmp_path):
    kept, folder = Libraries(tmp_path / "kept", Files("trimul", "make data")), tmp_path / "one"
    folder.mkdir()
    (folder / "passes_0123.so").write_bytes(b"machine code")
    kept.keep(folder)
    stored = next((tmp_path / "kept").iterdir())
    stored.write_bytes(b"machine")
    (folder / "passes_0123.so").unlink()
    kept.give(folder)
    assert not stored.exists() and not list(folder.iterdir())


def test_where_there_is_no_room_nothing_is_kept(tmp_path):
    (tmp_path / "kept").write_text("a file in the folder's place")
    (tmp_path / "passes_0123.so").write_bytes(b"machine code")
    kept = Libraries(tmp_path / "kept", Files("trimul", "make data"))
    kept.keep(tmp_path)
    kept.give(tmp_path)
    assert (tmp_path / "kept").is_file()
