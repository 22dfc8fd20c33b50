"""Manifests: columns, values and encodings, and rows that are refused before a fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from offnominal.datasets import any_images, find_any, find_labelled, find_normal, labelled_images, manifest_notes, normal_images
from offnominal.errors import InputError


def write_manifest(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    """Write a CSV manifest."""
    path = folder / "m.csv"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    "header",
    [
        "path,Split,Label",
        "path, split, label",
        "FILENAME,Subset,Class",
        "image_path,phase,Defect-Type",
        "img,data split,category",
        '"File Path","SET","Anomaly"',
        "\ufeffPath;Split;LABEL",
    ],
)
def test_headers_are_recognised_in_every_spelling(header: str, tmp_path: Path) -> None:
    delimiter = ";" if ";" in header else ","
    rows = [["a.png", "train", "good"], ["b.png", "test", "good"], ["c.png", "test", "dent"]]
    path = write_manifest(tmp_path, "\n".join([header, *(delimiter.join(row) for row in rows)]))
    assert [item.name for item in normal_images(path)] == ["a.png"]
    assert [(item.name, item.label) for item in labelled_images(path)] == [("b.png", "good"), ("c.png", "dent")]
    assert find_any([path]).notes == []


@pytest.mark.parametrize("header", ["path,label,Label", "file,image,label", "path,is_good,defect", "path,split,subset"])
def test_two_columns_with_the_same_meaning_are_refused(header: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"both mean (label|path|split)"):
        any_images([write_manifest(tmp_path, f"{header}\na.png,b,c\n")])


def test_unused_columns_are_reported_and_groups_are_read(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, "path,lot,View,operator,comment\na.png,7,top,Ann,\n")
    unused, groups = manifest_notes(path)
    assert all(f"'{name}'" in unused for name in ("View", "operator", "comment"))
    assert "images with a group: 1" in groups
    (item,) = normal_images(path)
    assert item.group == "7"
    both = write_manifest(tmp_path, "path,lot,batch\na.png,7,8\n")
    assert normal_images(both)[0].group is None
    assert "'lot', 'batch'" in manifest_notes(both)[0]
    assert normal_images(write_manifest(tmp_path, "path,group,lot\na.png,7,8\n"))[0].group == "7"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,usage\na.png,train\nb.png,test\n", "'usage' seems to hold splits"),
        ("path,qc\na.png,ok\nb.png,ng\n", "'qc' seems to hold labels"),
        ("path,defect_id\na.png,0\nb.png,1\n", "'defect_id' seems to hold labels"),
        ("path,split,outcome\na.png,train,good\nb.png,train,scratch\n", "'outcome' seems to hold labels"),
        ("path,label\na.png,good\nb.png,\nc.png,dent\n", "row 2 has no label"),
        ("path,split\na.png,train\nb.png,\nc.png,test\n", "row 2 has no split"),
        ("path,mask\na.png,\nb.png,b_mask.png\n", "row 2 has a mask and no label"),
        ("path\nset/train/good/a.png\nset/test/dent/b.png\n", "lies in 'test/dent'"),
        ("path,split\nOK/a.png,train\nNG/b.png,train\n", "lies in 'NG'"),
        ("path,label,split\na.png,good,train\na.png,dent,train\n", "rows 1 and 2 are the same image with different labels"),
        ("path,split\na.png,train\na.png,test\n", "rows 1 and 2 are the same image with different splits"),
    ],
)
def test_possibly_defective_training_rows_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        normal_images(write_manifest(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_rows_assumed_good_and_duplicate_rows_are_reported(tmp_path: Path) -> None:
    training = find_normal(write_manifest(tmp_path, "path,split,label\na.png,train,\nb.png,train,good\nc.png,test,dent\n"))
    assert [item.name for item in training.items] == ["a.png", "b.png"]
    assert any("without a label, taken as good: 1" in note for note in training.notes)
    tested = find_labelled(write_manifest(tmp_path, "path,label\na.png,good\nb.png,dent\nb.png,scratch\n"))
    assert [item.label for item in tested.items] == ["good", "dent"]
    assert any("duplicate rows left out: 1" in note for note in tested.notes)


@pytest.mark.parametrize("root", ["NG", "reject", "test/crack", "ground_truth/dent"])
def test_folders_named_after_defects_are_not_trained_on(root: str, tmp_path: Path) -> None:
    for name in ("fine/a.png", f"{root}/b.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"")
    for data in (tmp_path, f"{tmp_path}/**/*.png"):
        with pytest.raises(InputError, match=f"lies in '{root.replace('/dent', '')}'"):
            normal_images(data)
    assert len(any_images([tmp_path])) == 2
    assert len(normal_images(tmp_path / root)) == 1, "a folder given directly is used"


@pytest.mark.parametrize(
    ("column", "good", "bad", "kind"),
    [
        ("label", "0.0", "1.0", "1"),
        ("label", "0", "2", "2"),
        ("label", "GOOD", "Scratch", "Scratch"),
        ("label", " Ok ", "ng", "ng"),
        ("class", "no defect", "hole", "hole"),
        ("is_defective", "False", "True", "defect"),
        ("is_good", "True", "False", "defect"),
        ("OK", "1.0", "0.0", "defect"),
    ],
)
def test_labels_in_csv(column: str, good: str, bad: str, kind: str, tmp_path: Path) -> None:
    path = write_manifest(tmp_path, f"path,{column}\na.png,{good}\nb.png,{bad}\n")
    assert [item.name for item in normal_images(path)] == ["a.png"]
    assert [item.label for item in labelled_images(path)] == ["good", kind]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("column", "values"), [("label", (0.0, 1.0)), ("label", (False, True)), ("is_good", (True, False)), ("defect", (0, 3))]
)
def test_numeric_and_boolean_labels(column: str, values: tuple[object, object], suffix: str, tmp_path: Path) -> None:
    rows = [{"path": f"{name}.png", column: value} for name, value in zip("ab", values, strict=True)]
    path = tmp_path / f"m.{suffix}"
    if suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert [item.name for item in normal_images(path)] == ["a.png"]


def test_nan_labels_are_missing_and_unknown_flags_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"path": "a.png", "label": NaN, "split": "train"}\n{"path": "b.png", "label": "dent", "split": "test"}')
    assert [item.label for item in normal_images(path)] == [None]
    with pytest.raises(InputError, match="row 1: 'maybe' is neither yes"):
        any_images([write_manifest(tmp_path, "path,is_good\na.png,maybe\n")])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1", "cp1252"])
@pytest.mark.parametrize("delimiter", ",;\t|")
def test_encodings_and_delimiters_of_csv(encoding: str, delimiter: str, tmp_path: Path) -> None:
    text = f"path{delimiter}label\r\nGehäuse.png{delimiter}good\r\n"
    for separator_line in ("", f"sep={delimiter}\r\n"):
        (item,) = any_images([write_manifest(tmp_path, separator_line + text, encoding)])
        assert (item.name, item.label) == ("Gehäuse.png", "good")


@pytest.mark.parametrize("content", [b"\x00\x01\x02", b"path\n\x89PNG\x1a\x08\n", b"\xff\xfep\x00a", b"path,label\na,b,c,d\n"])
def test_unreadable_manifests_are_a_one_line_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(content)
    with pytest.raises(InputError, match="is not a readable manifest") as caught:
        any_images([tmp_path / "m.csv"])
    assert "\n" not in str(caught.value)


def test_windows_paths_are_resolved_if_they_exist(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "a.png").write_bytes(b"")
    (tmp_path / "odd\\name.png").write_bytes(b"")
    items = any_images([write_manifest(tmp_path, "path\nimg\\a.png\nodd\\name.png\nimg\\gone.png\n")])
    assert [item.path for item in items] == [tmp_path / "img/a.png", tmp_path / "odd\\name.png", tmp_path / "img/gone.png"]
    with pytest.raises(InputError, match="Windows path that does not exist here"):
        any_images([write_manifest(tmp_path, "path\nC:\\data\\a.png\n")])
