"""Files are made in one place: whatever opens, makes or moves a file by itself is listed here, with its reason."""

import ast

import pytest
from source_tree import modules

WRITERS = {
    *("write_text", "write_bytes", "tofile", "savez", "savez_compressed", "memmap", "open_memmap", "sendfile"),
    *("mkstemp", "mkdtemp", "NamedTemporaryFile", "TemporaryFile", "TemporaryDirectory", "SpooledTemporaryFile"),
    *("rename", "renames", "copyfile", "copytree", "copy2", "make_archive", "truncate", "ftruncate"),
    *("mkdir", "makedirs", "touch", "symlink_to", "hardlink_to", "symlink", "link", "mkfifo", "mknod", "chmod"),
    *("write_parquet", "write_ndjson", "write_ipc", "write_avro", "write_excel", "write_html", "write_image"),
    *("unlink", "rmtree", "FileHandler"),
}
OF_A_MODULE = {
    ("os", "replace"),
    ("os", "remove"),
    ("np", "save"),
    ("shutil", "copy"),
    ("shutil", "move"),
    ("os", "creat"),
}
OURS = {"write_text", "touch"}  # names of functions, of files and of kernels
READ_ONLY = {"O_RDONLY", "O_CLOEXEC", "O_NONBLOCK", "O_NOFOLLOW"}
MAY_WRITE = {
    ("twofold.drafts", "open"): "every new file",
    ("twofold.drafts", "unlink"): "what has no writer any more",
    ("twofold.files", "open"): "a file that grows in a draft",
    ("twofold.kernels._cache", "mkdir"): "the folder of the kernels' machine code, for the user alone",
    ("twofold.kernels._cache", "unlink"): "an entry that is damaged",
    ("twofold.machine.arena", "ftruncate"): "memory",
    ("twofold.streams", "open"): "standard streams that the caller has closed, so that they refuse",
    ("twofold.study.held", "TemporaryFile"): "has no name",
    ("twofold.study.outcome", "write_parquet"): "into memory",
    ("twofold.trace.unpacked", "TemporaryFile"): "has no name",
}


def names_in(node: ast.AST) -> set[str]:
    """Return all names and attributes in an expression."""
    return {getattr(part, "attr", getattr(part, "id", "")) for part in ast.walk(node)} - {"os", ""}


def is_writing_open(call: ast.Call) -> bool:
    """Return whether a call of something named open may make or change a file; a mode that is not written out may."""
    if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) and call.func.value.id == "os":
        return not names_in(call.args[1]) <= READ_ONLY
    is_method = isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") not in {
        "io",
        "gzip",
        "lzma",
    }
    given = [*call.args[0 if is_method else 1 :][:1], *(each.value for each in call.keywords if each.arg == "mode")]
    # What other classes call open takes something else first.
    given = [each for each in given if not is_method or isinstance(each, ast.Constant) or "mode" in names_in(each)]
    modes = [each.value if isinstance(each, ast.Constant) else "w" for each in given]
    return any(set(str(each)) & set("wax+") for each in modes)


def writing_calls(tree: ast.AST) -> set[str]:
    """Return the names of all calls that may make, change or move a file."""
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        is_attribute = isinstance(node.func, ast.Attribute)
        owner = getattr(node.func.value, "id", "") if is_attribute else ""
        opens = name == "open" and is_writing_open(node)
        if opens or (name in WRITERS and (is_attribute or name not in OURS)) or (owner, name) in OF_A_MODULE:
            found.add(name)
    return found


def test_whoever_makes_a_file_goes_through_the_one_place():
    found = {(module.name, name) for module in modules() for name in writing_calls(module.tree)}
    assert found == MAY_WRITE.keys()


@pytest.mark.parametrize(
    "source",
    [
        "open(path, 'w')",
        "open(path, mode)",
        "path.open('r+b')",
        "path.open(mode='xb')",
        "path.open(mode)",
        "os.open(path, os.O_RDWR)",
        "os.open(path, flags)",
        "gzip.open(path, 'wb')",
        "path.write_text('')",
        "np.savez(path)",
        "np.save(path, array)",
        "os.replace(path, other)",
        "frame.write_parquet(path)",
        "tempfile.mkstemp()",
    ],
)
def test_a_writer_is_noticed(source):
    assert writing_calls(ast.parse(source))


@pytest.mark.parametrize(
    "source",
    [
        "open(path)",
        "archive.open(member)",
        "path.open('rb')",
        "os.open(path, os.O_RDONLY | os.O_CLOEXEC)",
        "text.replace('a', 'b')",
        "write_text(path, '')",
    ],
)
def test_a_reader_is_not_taken_for_a_writer(source):
    assert not writing_calls(ast.parse(source))
