"""Digests: one syntax, no other way to make one, and no path built from anything else."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

import pytest

from donabe.errors import InvalidRequestError
from donabe.store.digest import Digest
from donabe.store.layout import StoreLayout

HEX = hashlib.sha256(b"").hexdigest()
HOSTILE = [
    "", "sha256", "sha256:", f"sha256:{HEX[:-1]}", f"sha256:{HEX}0", f"sha256:{HEX}\n", f"\nsha256:{HEX}",
    f" sha256:{HEX}",
    f"sha512:{HEX}", f"SHA256:{HEX}", f"sha256/{HEX}", f"sha256_{HEX}", HEX, "sha256:../../x", "sha256-../" + HEX,
    "sha256:" + "../" * 21 + "x", f"sha256:{HEX[:-1]}\0", f"/sha256:{HEX}", f"sha256:{HEX}/../x", "sha256:" + "g" * 64,
    "sha256:" + "\uff10" * 64, "sha256:" + "\u0660" * 64, f"sha256:%2e%2e%2f{HEX[:55]}", "sha256:" + "/" * 64,
    "sha256:" + "." * 64, "sha256:" + "\\" * 64, f"file:///{HEX}", f"sha256:{HEX}?x", f"sha256:{HEX}#x",
    f"sha256:-{HEX[1:]}",
    None, 0, 1.5, True, [], {}, b"sha256:" + HEX.encode(), [f"sha256:{HEX}"],
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE, ids=[repr(value)[:40] for value in HOSTILE])
def test_parse_refuses_anything_else(value: object) -> None:
    with pytest.raises(InvalidRequestError, match=r"^invalid digest format$"):
        Digest.parse(value)


@pytest.mark.parametrize("text", [f"sha256:{HEX}", f"sha256-{HEX}", f"sha256:{HEX.upper()}"])
def test_parse_accepts_both_separators_and_any_case(text: str) -> None:
    assert str(Digest.parse(text)) == f"sha256:{HEX}"


def test_constructor_is_private() -> None:
    with pytest.raises(TypeError):
        Digest("../../etc/passwd")


def test_digest_is_immutable() -> None:
    digest = Digest.of_bytes(b"x")
    with pytest.raises(AttributeError):
        digest._hex = "../x"


def test_of_hash_refuses_other_algorithms() -> None:
    with pytest.raises(TypeError):
        Digest.of_hash(hashlib.sha512())


def test_equal_digests_hash_alike() -> None:
    assert len({Digest.of_bytes(b""), Digest.parse(f"sha256-{HEX}")}) == 1
    assert Digest.of_bytes(b"") != Digest.of_bytes(b"x")


def test_blob_paths_lie_in_the_blob_folder(tmp_path: Path) -> None:
    layout = StoreLayout(tmp_path)
    assert layout.blob(Digest.of_bytes(b"")) == tmp_path / "blobs" / f"sha256-{HEX}"


def _builds_a_blob_path(node: ast.AST) -> bool:
    """Whether an expression joins a path with a store's folder or with something of a digest."""
    joined: list[ast.AST]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr not in {"joinpath", "join", "with_name"} or isinstance(node.func.value, ast.Constant):
            return False  # ", ".join(...) and the like
        joined = [node.func.value, *node.args]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"Path", "PurePath"}:
        joined = [*node.args] if len(node.args) > 1 or any(isinstance(arg, ast.JoinedStr) for arg in node.args) else []
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        joined = [node.left, node.right]
    else:
        return False
    attributes = {part.attr for item in joined for part in ast.walk(item) if isinstance(part, ast.Attribute)}
    texts = {str(part.value) for item in joined for part in ast.walk(item) if isinstance(part, ast.Constant)}
    return bool(attributes & {"blobs", "manifests", "file_name", "hex", "digest"}) or any(
        text.strip("/").startswith(("blobs", "manifests", "sha256")) for text in texts
    )


def test_search_finds_what_it_is_for() -> None:
    for line in (
        "layout.blobs / name",
        'root / "blobs" / x',
        'a / f"sha256-{x}"',
        "p / d.file_name",
        'r.joinpath("blobs")',
        "os.path.join(root, digest.hex)",
        "Path(root, layer.digest)",
        'Path(f"{root}/blobs/{name}")',
        "path.with_name(digest.file_name)",
    ):
        assert any(_builds_a_blob_path(node) for node in ast.walk(ast.parse(line)))


def test_only_the_layout_builds_paths_from_digests() -> None:
    package = Path(__file__).parents[3] / "python" / "donabe"
    offenders = [
        f"{path.relative_to(package)}:{node.lineno}"
        for path in sorted(package.rglob("*.py"))
        if path != package / "store" / "layout.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.expr) and _builds_a_blob_path(node)
    ]
    assert offenders == []
